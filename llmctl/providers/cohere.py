"""Cohere's chat API, version 2. Pure: no I/O; the clock is passed in.

Reference: docs.cohere.com/reference/chat, …/chat-stream, …/tokenize, …/list-models,
…/checkapikey, …/errors, docs.cohere.com/docs/rate-limits, …/image-inputs, …/tool-use-overview.

`options` go to the top level of the body (`p`, `k`, `seed`, `documents`, `thinking`…). Only
chat has a second version: the other calls climb from the base URL to `v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
from msgspec.structs import replace

from llmctl.errors import AuthFailed, CallError, ContentFiltered, ServerFailed
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers import message_parts as chat
from llmctl.providers import replies
from llmctl.redact import cut
from llmctl.types import JSON, Finish, Message, ProviderReply, Request, StreamChunk, Usage

_PAGE = 1000  # models in one page: the most there can be (docs.cohere.com/reference/list-models)
_TOKENIZED = 65_536  # characters that one call counts at most (docs.cohere.com/reference/tokenize)


class Cohere(replies.BaseCodec):
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A chat; instructions are turns of the role `system`, as they are at OpenAI. An
        OpenAI-shaped body is translated."""
        if request.raw is not None:
            request = _from_openai(request)
        messages = [_turn(turn, request) for turn in chat.turns(request)]
        body: dict[str, Any] = {"model": request.target.model, "messages": messages}
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            body["response_format"] = {"type": "json_object", "json_schema": request.schema}
        body.update(request.options)
        if stream:
            body["stream"] = True
        return WireRequest("/chat", body)

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The text blocks, joined; thinking and the plan for tools are not text. The API does
        not say which model answered."""
        if found.get("error") and found.get("finish_reason") not in _FAILED:
            raise replies.error_from_event(found)
        content = found["message"].get("content")
        usage = _usage(found.get("usage"))
        text = content if isinstance(content, str) else replies.block_texts(content or ())
        finish = _finish(found["finish_reason"], found, usage, has_text=bool(text))
        return ProviderReply(
            text, finish, "", usage,
            reason=replies.first_text(found, "finish_reason"),
            tool_calls=tuple(
                replies.tool_call(made["name"], made.get("arguments"), call.get("id"))
                for call in found["message"].get("tool_calls") or () if (made := call["function"])
            ),
            citations=replies.kept(found["message"].get("citations")),
        )  # fmt: skip

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """As everywhere, but for 498: a token on a deny list (docs.cohere.com/reference/errors)."""
        error = super().failure(status, headers, body)
        if status != 498:
            return error
        named = error.provider_request_id
        denied = ContentFiltered(error.message, http_status=status, provider_request_id=named)
        denied.usage = error.usage
        return denied

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`."""
        return _usage(found.get("usage")), None

    def wait(self, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """The time of `x-ratelimit-reset`, when it is not past."""
        return self.limits(headers).reset_requests or None

    def reader(self) -> CohereReader:
        """A reader for one stream."""
        return CohereReader()

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-reset`, in seconds since the epoch; nothing is said of what remains."""
        at = replies.number(headers.get("x-ratelimit-reset"))
        return RateHeaders(reset_requests=None if at is None else max(0.0, at - self._now()))

    def probe(self) -> WireRequest:
        """Cohere has a call for this very question."""
        return WireRequest("../v1/check-api-key", None)

    def decode_probe(self, body: bytes) -> None:
        """`valid`. Raises `BadResponse` where the reply does not say it."""
        valid = replies.read_object(body, lambda found: found["valid"])
        if valid is not True:
            raise AuthFailed("Cohere says that this key is not valid", http_status=200)

    def models(self, after: str | None) -> WireRequest:
        """A page of the list."""
        query = {"page_size": _PAGE, **({"page_token": after} if after else {})}
        return WireRequest(f"../v1/models?{urlencode(query)}", None, method="GET")

    def count(self, request: Request) -> WireRequest:
        """The tokens of all texts; the template around them, and tools, are not counted."""
        found = (part for turn in chat.turns(request) for part in chat.parts(turn, request))
        text = "\n".join(part.text for part in found if isinstance(part, chat.Text))
        if not 0 < len(text) <= _TOKENIZED:
            raise chat.refusal("this prompt", request, f"it counts 1 to {_TOKENIZED} characters")
        return WireRequest("../v1/tokenize", {"text": text, "model": request.target.model})

    def decode_count(self, body: bytes) -> int:
        """How many `tokens` are listed."""
        return replies.read_object(body, lambda found: len([*found["tokens"]]))


# --- Messages -----------------------------------------------------------------------------------

_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_OWN = frozenset({"thinking", "document"})
"""Cohere's own content blocks, which go out as they are."""

_OPTIONS = {
    "top_p": "p",
    "stop": "stop_sequences",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logprobs": "logprobs",
}
"""OpenAI's names → ours."""


def _turn(turn: Message, request: Request) -> JSON:
    made: dict[str, Any] = {"role": turn.role}
    calls = chat.tool_calls(turn, request)
    if isinstance(turn.content, str) and (turn.content or not calls):
        made["content"] = turn.content
    elif turn.role == "system":
        made["content"] = chat.text_only(turn, request, "instructions")
    else:
        blocks = [_block(part, request) for part in chat.parts(turn, request)]
        if blocks or not calls:
            made["content"] = blocks
    if calls:
        made["tool_calls"] = [_tool_call(call) for call in calls]
    if turn.role == "tool":
        made["tool_call_id"] = chat.call_id(turn)
    return made


def _tool_call(call: chat.ToolCall) -> JSON:
    function = {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def _block(part: chat.Part, request: Request) -> JSON:
    if isinstance(part, chat.Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, chat.Native):
        if part.kind in _OWN:
            return part.part
        raise chat.refusal(f"parts of the type `{part.kind}`", request)
    taken = part.mime in _IMAGES or (part.image and part.mime is None)
    if not taken or part.file_id:
        what = f"attachments of the type {part.mime}" if part.mime else "files by their id"
        raise chat.refusal(what, request, "only images")
    found: dict[str, Any] = {"url": part.url or f"data:{part.mime};base64,{part.data}"}
    if isinstance(part.extra.get("detail"), str):
        found["detail"] = part.extra["detail"]
    return {"type": "image_url", "image_url": found}


def _from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Cohere's shape."""
    plain, tools, choice = chat.from_chat(request, _OPTIONS)
    options = dict(plain.options)
    if tools:
        options["tools"] = [{"type": "function", "function": function} for function in tools]
    how = "auto" if choice is None else choice[0]
    if how == "named":
        raise chat.refusal("a `tool_choice` that names a function", request)
    if how != "auto":  # which is what holds when nothing is said
        options["tool_choice"] = how.upper()
    return replace(plain, options=options)


# --- Answers ------------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}

_FAILED = ("ERROR", "TIMEOUT")  # reasons to finish that say that the answer is none


def _usage(value: object) -> Usage | None:
    """`tokens`: all that the model read and wrote, cached ones too; `billed_units`, which leave the
    template out, are what is paid (docs.cohere.com, "How does pricing work")."""
    found = replies.object_or_empty(value)
    billed = replies.object_or_empty(found.get("billed_units"))
    counts = replies.object_or_empty(found.get("tokens") or billed)
    if not counts:
        return None
    sides = [replies.token_count(counts.get(name)) for name in ("input_tokens", "output_tokens")]
    paid = [replies.token_count(billed.get(name)) for name in ("input_tokens", "output_tokens")]
    free = [max(0, a - b) if b else 0 for a, b in zip(sides, paid, strict=True)]
    usage = Usage(
        input=sides[0],
        output=sides[1],
        cached_input=replies.token_count(found.get("cached_tokens")),
        free_input=free[0],
        free_output=free[1],
        searches=replies.token_count(billed.get("search_units")),
    )
    return replies.credible(usage)


def _finish(
    reason: object, found: Mapping[str, Any], usage: Usage | None, *, has_text: bool
) -> Finish:
    """The finish of a `finish_reason`. Raises `ServerFailed` where it is a failure, ambiguous
    without a usage, and `ContentFiltered` for a refusal without text; both carry the usage."""
    if reason in _FAILED:
        why = cut(replies.first_text(found, "error") or f"finish_reason {reason}", replies.SHOWN)
        error = ServerFailed(f"the provider gave up on the answer: {why}", http_status=200)
        error.usage, error.ambiguous = usage, usage is None
        raise error
    finish = replies.finish_of(reason, _FINISH) or "other"
    if finish == "content_filter" and not has_text:
        raise replies.content_filtered("the provider's filter stopped the answer", None, usage)
    return finish


class CohereReader(replies.BaseReader):
    """Reads one stream; usage and the reason to finish come with `message-end`."""

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """That of the event's `delta`, or beside it."""
        delta = replies.object_or_empty(found.get("delta"))
        return _usage(delta.get("usage", found.get("usage"))), None

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One event; those that are not known say nothing."""
        kind = found.get("type", event)
        if kind in ("content-start", "content-delta"):
            # Content that is a thought has no `text`.
            content = found["delta"]["message"]["content"]
            return StreamChunk(text=replies.required_text(content.get("text") or ""))
        if kind in ("tool-call-start", "tool-call-delta"):
            call = found["delta"]["message"]["tool_calls"]
            self.call(str(found.get("index")), id=call.get("id"), **(call.get("function") or {}))
        if kind == "citation-start":
            self.citations += replies.kept([found["delta"]["message"]["citations"]])
        if kind == "message-end":
            delta = found["delta"]
            usage = _usage(delta.get("usage"))
            finish = _finish(delta.get("finish_reason"), delta, usage, has_text=self._has_text)
            reason = replies.first_text(delta, "finish_reason")
            return StreamChunk(finish=finish, usage=usage, done=True, reason=reason)
        if kind == "error" or "message" in found:
            raise replies.error_from_event(found)
        return StreamChunk()
