"""OpenAI's chat completions, as OpenAI and every server that speaks them understand it.

Reference: platform.openai.com/docs/api-reference/chat. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmctl.errors import ContentFiltered
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers.failures import error_body, from_event, from_reply, not_json
from llmctl.providers.headers import count, duration
from llmctl.types import Finish, Piece, Reply, Request, Usage

PATH = "/chat/completions"

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}

_MAX_TOKENS = "max_tokens"
_MAX_COMPLETION_TOKENS = "max_completion_tokens"


def limit_name(model: str, base_url: str) -> str:
    """What the output limit is called: OpenAI's own models want `max_completion_tokens`
    (its reasoning models refuse `max_tokens`); other servers mostly know `max_tokens` only."""
    own = "api.openai.com" in base_url or "openai.azure.com" in base_url
    reasoning = model.startswith(("o1", "o3", "o4", "gpt-5"))
    return _MAX_COMPLETION_TOKENS if own or reasoning else _MAX_TOKENS


class OpenAIChat:
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A chat completion, or the raw body as it is."""
        if request.raw is not None:
            return WireRequest(request.raw.path, request.raw.body)
        target = request.target
        body: dict[str, Any] = {
            "model": target.model,
            "messages": [m.as_json() for m in request.messages],
        }
        if request.max_tokens is not None:
            body[limit_name(target.model, target.base_url)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        body.update(request.options)
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return WireRequest(PATH, body)

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return {"authorization": f"Bearer {key}"}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """A complete answer of chat completions, responses or embeddings."""
        if status != 200:
            raise from_reply(status, headers, body)
        try:
            whole = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise not_json(status, headers, body, "no JSON") from error
        if not isinstance(whole, dict):
            raise not_json(status, headers, body, "no JSON object")
        found = error_body(body) if whole.get("error") else None
        if found:
            raise from_event(found)
        try:
            return _reply(whole)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise not_json(status, headers, body, f"{type(error).__name__} {error}") from error

    def reader(self) -> OpenAIChat:
        """Nothing needs to be remembered between chunks."""
        return self

    def end(self) -> Piece:
        """A stream that ends without `[DONE]` is incomplete."""
        return Piece()

    def piece(self, event: str, data: str) -> Piece:
        """One chunk of a streamed chat completion."""
        if data == "[DONE]":
            return Piece(done=True)
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise not_json(200, {}, data.encode(), "a streamed event is no JSON") from error
        if not isinstance(chunk, dict):
            raise not_json(200, {}, data.encode(), "a streamed event is no JSON object")
        if event == "error" or chunk.get("error"):
            found = chunk.get("error")
            raise from_event(found if isinstance(found, dict) else chunk)
        choices = chunk.get("choices") or [{}]
        try:
            delta = choices[0].get("delta") or {}
            text, finish = delta.get("content"), choices[0].get("finish_reason")
            return Piece(
                text=text if isinstance(text, str) else "",
                finish=_FINISH.get(finish, "other") if finish else None,
                model=chunk.get("model"),
                usage=_usage(chunk["usage"]) if chunk.get("usage") else None,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise not_json(200, {}, data.encode(), f"{type(error).__name__} {error}") from error

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-{remaining,reset}-{requests,tokens}`."""
        if "x-ratelimit-remaining-requests" not in headers:
            return _SILENT
        name = "x-ratelimit-"
        return RateHeaders(
            remaining_requests=count(headers.get(name + "remaining-requests")),
            remaining_tokens=count(headers.get(name + "remaining-tokens")),
            reset_requests=duration(headers.get(name + "reset-requests", "")),
            reset_tokens=duration(headers.get(name + "reset-tokens", "")),
        )


_SILENT = RateHeaders()


def _reply(whole: dict[str, Any]) -> Reply:
    model = str(whole.get("model") or "")
    usage = _usage(whole["usage"]) if whole.get("usage") else None
    if "choices" not in whole:
        return _other_api(whole, model, usage)
    choice = whole["choices"][0]
    message = choice.get("message") or {}
    text = message.get("content", choice.get("text"))
    finish = _FINISH.get(choice.get("finish_reason"), "other")
    if not text and (message.get("refusal") or finish == "content_filter"):
        said = message.get("refusal") or "the provider's content filter stopped the answer"
        raise ContentFiltered(str(said), http_status=200)
    if isinstance(text, list):
        text = "".join(str(p.get("text") or "") for p in text)
    if text is not None and not isinstance(text, str):
        raise TypeError("`content` is neither text nor parts")
    return Reply(text or "", finish, model, usage)


def _other_api(whole: dict[str, Any], model: str, usage: Usage | None) -> Reply:
    """Responses and embeddings, which raw rows may ask for."""
    if "output" in whole:
        parts = [
            str(part.get("text") or "")
            for item in whole["output"]
            if item.get("type") == "message"
            for part in item.get("content") or ()
        ]
        calls = any(str(item.get("type", "")).endswith("_call") for item in whole["output"])
        cut = (whole.get("incomplete_details") or {}).get("reason")
        finish: Finish = "tool_calls" if calls else "stop"
        if cut:
            finish = "length" if cut == "max_output_tokens" else "content_filter"
        return Reply("".join(parts), finish, model, usage)
    if "data" in whole:
        return Reply("", "stop", model, usage)
    raise KeyError("choices")


def _usage(found: Mapping[str, Any]) -> Usage:
    """Input includes cached tokens and output reasoning ones here: nothing to convert."""
    took = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
    gave = found.get("completion_tokens_details") or found.get("output_tokens_details") or {}
    return Usage(
        input=int(found.get("prompt_tokens", found.get("input_tokens")) or 0),
        output=int(found.get("completion_tokens", found.get("output_tokens")) or 0),
        cached_input=int(took.get("cached_tokens") or 0),
        cache_write=int(took.get("cache_write_tokens") or 0),
        reasoning=int(gave.get("reasoning_tokens") or 0),
    )
