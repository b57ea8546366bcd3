"""Cohere's answers, streams and errors; pure.

Reference: docs.cohere.com/reference/chat, …/reference/chat-stream, …/reference/errors,
docs.cohere.com/docs/rate-limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmctl.errors import CallError, ContentFiltered, QuotaExhausted, ServerFailed
from llmctl.providers.bodies import json_object, named, shaped, text
from llmctl.providers.failures import from_reply
from llmctl.providers.headers import MAX_WAIT, number, should_retry
from llmctl.providers.usage import mapping, whole
from llmctl.types import Finish, ProviderReply, StreamChunk, Usage

_FINISH: dict[str, Finish] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}

_BROKEN = ("ERROR", "TIMEOUT")
"""Reasons to finish that say that the answer is none."""

_STATUS = {498: "content_filter", 499: "server_error"}
"""498: the request or the answer holds a token on a deny list. 499: cancelled, not by us
(docs.cohere.com/reference/errors)."""

_TOO_LONG = re.compile(r"too many tokens: (?!max tokens must)")
_NO_CREDIT = re.compile(r"(?:/|per|a) ?month\b|billing limit", re.IGNORECASE)
_BAD_KEY = re.compile(r"invalid api (?:token|key)|no api key", re.IGNORECASE)


def usage(value: object) -> Usage | None:
    """`tokens`: all that the model read and wrote, its template and thinking included;
    `cached_tokens` are part of them. `billed_units`, which leave the template out, only where
    nothing else is said."""
    found = mapping(value)
    counts = mapping(found.get("tokens")) or mapping(found.get("billed_units"))
    if not counts:
        return None
    return Usage(
        input=whole(counts.get("input_tokens")),
        output=whole(counts.get("output_tokens")),
        cached_input=whole(found.get("cached_tokens")),
    )


def reply(found: Mapping[str, Any]) -> ProviderReply:
    """The text blocks, joined; thinking and the plan for tools are not text. The API does not
    say which model answered."""
    message = found["message"]
    spent = usage(found.get("usage"))
    said = _said(message.get("content"))
    finish = _finish(found["finish_reason"], found, spent)
    _refused(finish, spent, said=bool(said))
    return ProviderReply(said, finish, "", spent)


def _said(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(text(block["text"]) for block in content if block.get("type") == "text")


def _finish(reason: object, found: Mapping[str, Any], spent: Usage | None) -> Finish:
    if reason in _BROKEN:
        why = named(found, "error") or f"finish_reason {reason}"
        error = ServerFailed(f"the provider gave up on the answer: {why}", http_status=200)
        error.usage, error.ambiguous = spent, True
        raise error
    return _FINISH.get(reason, "other") if isinstance(reason, str) else "other"


def _refused(finish: Finish, spent: Usage | None, *, said: bool) -> None:
    if finish == "content_filter" and not said:
        error = ContentFiltered("the provider's filter stopped the answer", http_status=200)
        error.usage = spent
        raise error


class Reader:
    """Reads one stream; usage and the reason to finish come with `message-end`."""

    def __init__(self) -> None:
        self._text = False

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event; those of tools and citations, and ones that are not known, say nothing."""
        if data == "[DONE]":
            return StreamChunk()
        body = data.encode(errors="replace")
        found = json_object(200, {}, body)
        kind = found.get("type", event)
        with shaped(200, {}, body):
            if kind in ("content-start", "content-delta"):
                said = _block(found["delta"]["message"]["content"])
                self._text = self._text or bool(said)
                return StreamChunk(text=said)
            if kind == "message-end":
                return self._ended(found["delta"])
        if kind == "error" or "message" in found:
            raise failure(500, {}, body, lambda: 0.0)
        return StreamChunk()

    def _ended(self, delta: Mapping[str, Any]) -> StreamChunk:
        spent = usage(delta.get("usage"))
        finish = _finish(delta.get("finish_reason"), delta, spent)
        _refused(finish, spent, said=self._text)
        return StreamChunk(finish=finish, usage=spent, done=True)

    def end(self) -> StreamChunk:
        """A stream that ends without `message-end` is incomplete."""
        return StreamChunk()


def _block(content: Mapping[str, Any]) -> str:
    """The text of a piece of content; one that thinks has no `text`."""
    return text(content.get("text") or "")


def failure(
    status: int, headers: Mapping[str, str], body: bytes, now: Callable[[], float]
) -> CallError:
    """The mapped error of a reply; its body is `{"message"}`."""
    message = _message(body)
    found: dict[str, Any] = {"message": message}
    if status in _STATUS:
        found["type"] = _STATUS[status]
    elif status in (400, 422) and _TOO_LONG.search(message):
        found["type"] = "context_length_exceeded"
    elif status == 429 and _NO_CREDIT.search(message):
        found["type"] = "insufficient_quota"
    elif status in (400, 403) and _BAD_KEY.search(message):
        found["type"] = "invalid_api_key"
    error = from_reply(
        status, headers, orjson.dumps({"error": found}) if message else body, now=now
    )
    if status == 499 and should_retry(headers) is None:
        error.retryable = False
    if error.retry_after is None and not isinstance(error, QuotaExhausted):
        wait = until_reset(headers, now())
        error.retry_after = None if not wait else min(wait, MAX_WAIT)
    return error


def _message(body: bytes) -> str:
    try:
        whole_body = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    found = mapping(whole_body)
    return named(found, "message") or named(mapping(found.get("error")), "message") or ""


def until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until `x-ratelimit-reset`, which is in seconds since the epoch."""
    at = number(headers.get("x-ratelimit-reset"))
    return None if at is None else max(0.0, at - now)
