"""Anthropic's answers, streams and errors; pure.

Reference: platform.claude.com/docs/en/api/messages, …/docs/en/build-with-claude/streaming,
…/docs/en/api/errors, …/docs/en/build-with-claude/handling-stop-reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmctl.errors import CallError, ContentFiltered
from llmctl.providers.bodies import json_object, named, shaped, text
from llmctl.providers.failures import error_body, from_event, from_reply
from llmctl.providers.usage import mapping, whole
from llmctl.types import Finish, ProviderReply, StreamChunk, Usage

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""The others (`pause_turn`, `compaction`) leave the turn to be continued: `other`."""

_CODES = {
    "billing_error": "insufficient_quota",
    "timeout_error": "server_error",
    "api_error": "server_error",
    "request_too_large": "invalid_request_error",
}
"""Anthropic's error types that `failures` does not know → ones that it does."""

_NO_CREDIT = re.compile(r"credit balance is too low|usage limits?\b.*regain access", re.DOTALL)
_TOO_LONG = re.compile(r"prompt is too long|exceeds? (?:the )?context (?:limit|window)")
"""What comes as a plain `invalid_request_error` (400) and only its message tells apart."""


def usage(found: Mapping[str, Any]) -> Usage | None:
    """`input_tokens` leaves the cache out there and includes it here; thinking is part of the
    output in both. What an adviser of another model used is not in it."""
    if not found:
        return None
    read = whole(found.get("cache_read_input_tokens"))
    wrote = whole(found.get("cache_creation_input_tokens"))
    parts = mapping(found.get("cache_creation"))
    if not wrote:
        wrote = sum(map(whole, parts.values()))
    return Usage(
        input=whole(found.get("input_tokens")) + read + wrote,
        output=whole(found.get("output_tokens")),
        cached_input=read,
        cache_write=wrote,
        cache_write_1h=min(wrote, whole(parts.get("ephemeral_1h_input_tokens"))),
        reasoning=whole(mapping(found.get("output_tokens_details")).get("thinking_tokens")),
    )


def reply(whole_message: Mapping[str, Any]) -> ProviderReply:
    """The text blocks, joined; thinking, tools and their results are not text. Raises
    `ContentFiltered` for a refusal without text."""
    blocks = whole_message["content"]
    said = "".join(text(block["text"]) for block in blocks if block.get("type") == "text")
    spent = usage(mapping(whole_message.get("usage")))
    finish = _finish(whole_message.get("stop_reason")) or "other"
    if finish == "content_filter" and not said:
        raise _refused(whole_message, spent)
    return ProviderReply(said, finish, named(whole_message, "model") or "", spent)


def _finish(reason: object) -> Finish | None:
    return _FINISH.get(reason, "other") if isinstance(reason, str) and reason else None


def _refused(found: Mapping[str, Any], spent: Usage | None) -> ContentFiltered:
    details = mapping(found.get("stop_details"))
    why = named(details, "explanation", "category")
    sentence = "the model refused to answer" + (f": {why}" if why else "")
    error = ContentFiltered(sentence, http_status=200)
    error.usage = spent
    return error


class Reader:
    """Reads one stream. Usage comes in pieces: the input with `message_start`, the rest, and
    what changed, with `message_delta`; its counts are totals, not differences."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self._said = False

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event; `ping` and events that are not known say nothing."""
        body = data.encode(errors="replace")
        found = json_object(200, {}, body)
        kind = found.get("type", event)
        if kind == "error" or event == "error":
            raise failure(None, {}, body, lambda: 0.0)
        with shaped(200, {}, body):
            if kind == "message_start":
                message = found["message"]
                return StreamChunk(model=named(message, "model"), usage=self._spent(message))
            if kind == "content_block_start":
                return self._text(found["content_block"], "text")
            if kind == "content_block_delta":
                return self._text(found["delta"], "text_delta")
            if kind == "message_delta":
                return self._ended(found)
        return StreamChunk(done=kind == "message_stop")

    def end(self) -> StreamChunk:
        """A stream that ends without `message_stop` is incomplete."""
        return StreamChunk()

    def _text(self, block: Mapping[str, Any], kind: str) -> StreamChunk:
        said = text(block["text"]) if block.get("type") == kind else ""
        self._said = self._said or bool(said)
        return StreamChunk(text=said)

    def _ended(self, found: Mapping[str, Any]) -> StreamChunk:
        spent = self._spent(found)
        finish = _finish(found["delta"].get("stop_reason"))
        if finish == "content_filter" and not self._said:
            raise _refused(found["delta"], spent)
        return StreamChunk(finish=finish, usage=spent)

    def _spent(self, found: Mapping[str, Any]) -> Usage | None:
        news = mapping(found.get("usage"))
        self._usage.update({key: value for key, value in news.items() if value is not None})
        return usage(self._usage)


def failure(
    status: int | None,
    headers: Mapping[str, str],
    body: bytes,
    now: Callable[[], float],
) -> CallError:
    """The mapped error of a reply; with no `status`, of an error inside a successful one, which
    only its `error.type` tells."""
    said = error_body(body)
    found = dict(said)
    kind, message = str(found.get("type") or ""), str(found.get("message") or "")
    code = _CODES.get(kind, kind)
    if kind in ("invalid_request_error", "") and _NO_CREDIT.search(message):
        code = "insufficient_quota"
    elif kind in ("invalid_request_error", "") and _TOO_LONG.search(message):
        code = "context_length_exceeded"
    found.update(type=code)
    if status is None:
        error = from_event(found)
    else:
        known = orjson.dumps({"error": found}) if said else body
        error = from_reply(status, headers, known, now=now)
    if error.provider_request_id is None:
        error.provider_request_id = _request_id(body)
    return error


def _request_id(body: bytes) -> str | None:
    try:
        whole_body = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return named(whole_body, "request_id") if isinstance(whole_body, dict) else None
