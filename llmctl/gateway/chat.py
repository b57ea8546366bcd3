"""OpenAI's chat completions, embeddings and model list, as callers speak them. Pure.

Reference: platform.openai.com/docs/api-reference/chat, …/chat-streaming, …/embeddings, …/models and
platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from msgspec import Struct

from llmctl.errors import BadResponse, InvalidRequest
from llmctl.gateway.dialect import Asked, Failure, StreamWriter, event
from llmctl.providers.replies import load_json
from llmctl.types import JSON, Answer, StreamChunk, Usage

_STREAMED = ("stream", "stream_options")
_DONE = b"data: [DONE]\n\n"
_FINISH = {"other": "stop"}


class Chat:
    """Chat completions; see `dialect.Dialect`. `now` gives seconds since the epoch."""

    path = "/chat/completions"

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def read(self, body: JSON, headers: Mapping[str, str]) -> Asked:  # noqa: ARG002 - the seam's
        """The body: `model`, `messages`, and how it is streamed. Raises `InvalidRequest`."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise refusal("messages", "give at least one message")
        if not all(isinstance(message, dict) for message in messages):
            raise refusal("messages", "every message is an object of `role` and `content`")
        options = body.get("stream_options")
        modern = body.get("max_completion_tokens") is not None
        return Asked(
            body=without_stream(body),
            model=model_of(body),
            stream=is_streamed(body),
            usage=isinstance(options, dict) and options.get("include_usage") is True,
            limit="max_completion_tokens" if modern else "max_tokens",
        )

    def as_chat(self, asked: Asked) -> JSON:
        """The body itself."""
        return asked.body

    def answer(self, asked: Asked, answer: Answer, id: str) -> bytes:
        """A `chat.completion`."""
        calls = tool_calls(answer, id)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if calls else ""),
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        if cited := url_citations(answer):
            message["annotations"] = [{"type": "url_citation", "url_citation": c} for c in cited]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _end(answer)}
        head = self._head(id, "chat.completion", answer.model or asked.model)
        return orjson.dumps({**head, "choices": [choice], "usage": _usage(answer.usage)})

    def writer(self, asked: Asked, id: str) -> StreamWriter:
        """A writer of `chat.completion.chunk`s."""
        return ChatWriter(asked, id, self._head(id, "chat.completion.chunk", asked.model))

    def failure(self, failure: Failure) -> bytes:
        """`{"error": …}`."""
        return error_body(failure)

    def _head(self, id: str, object: str, model: str) -> dict[str, Any]:
        created = int(self._now())
        return {"id": f"chatcmpl-{id}", "object": object, "created": created, "model": model}


class ChatWriter:
    """Writes one streamed chat completion; `head` is what all chunks of its own begin with."""

    def __init__(self, asked: Asked, id: str, head: dict[str, Any]) -> None:
        self._asked, self._id, self._head = asked, id, head
        self._begun = self._relayed = self._usage_told = False
        self._length = 0

    def piece(self, chunk: StreamChunk) -> bytes:
        """The provider's own chunk, or one of the text. That with nothing but the usage, which
        every stream is asked for, goes only to callers who asked for it too."""
        if not chunk.data:
            self._head["model"] = chunk.model or self._head["model"]
            return self._text(chunk.text)
        self._relayed = True
        if chunk.data.strip() == "[DONE]":
            return b""
        if self._asked.usage:
            self._usage_told = self._usage_told or chunk.usage is not None
        elif not chunk.text and '"usage"' in chunk.data and _is_usage_alone(chunk.data):
            return b""
        return event(chunk.data.encode())

    def end(self, answer: Answer) -> bytes:
        """What was not told yet of text, tool calls and usage; the reason to finish; `[DONE]`."""
        said = b"" if self._relayed else self._rest(answer)
        if self._asked.usage and not self._usage_told:
            usage = {**self._head, "choices": [], "usage": _usage(answer.usage)}
            said += event(orjson.dumps(usage))
        return said + _DONE

    def error(self, failure: Failure) -> bytes:
        """`{"error": …}`, in place of a chunk."""
        return event(error_body(failure))

    def _rest(self, answer: Answer) -> bytes:
        if not self._begun:
            self._head["model"] = answer.model or self._head["model"]
        said = self._text(answer.text[self._length :])
        calls = tool_calls(answer, self._id)
        if not self._begun:
            said += self._begin(None if calls else "")
        for index, call in enumerate(calls):
            said += self._chunk({"tool_calls": [{"index": index, **call}]})
        return said + self._chunk({}, _end(answer))

    def _text(self, text: str) -> bytes:
        if not text:
            return b""
        begin = b"" if self._begun else self._begin("")
        self._length += len(text)
        return begin + self._chunk({"content": text})

    def _begin(self, content: str | None) -> bytes:
        self._begun = True
        return self._chunk({"role": "assistant", "content": content, "refusal": None})

    def _chunk(self, delta: JSON, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(orjson.dumps({**self._head, "choices": [choice]}))


class Embeddings:
    """Embeddings, which only providers of OpenAI's language have; see `dialect.Dialect`."""

    path = "/embeddings"

    def read(self, body: JSON, headers: Mapping[str, str]) -> Asked:  # noqa: ARG002 - the seam's
        """The body: `model` and `input`. Raises `InvalidRequest`."""
        if not body.get("input"):
            raise refusal("input", "give a text, or a list of texts")
        if is_streamed(body):
            raise refusal("stream", "embeddings are not streamed; leave it out")
        return Asked(without_stream(body), model_of(body))

    def as_chat(self, asked: Asked) -> JSON:
        """Raises `InvalidRequest`: a chat completion holds no embeddings."""
        why = f"`{asked.model}` has no embeddings: name a profile whose provider speaks OpenAI's"
        raise refusal("model", why)

    def answer(self, asked: Asked, answer: Answer, id: str) -> bytes:  # noqa: ARG002 - the seam's
        """The provider's own body. Raises `BadResponse` where there is none."""
        if answer.body is None:
            raise BadResponse("the provider sent no embeddings; check its `base_url`")
        return answer.body

    def writer(self, asked: Asked, id: str) -> StreamWriter:  # noqa: ARG002 - the seam's
        """Raises `InvalidRequest`: `read` lets no stream through."""
        raise refusal("stream", "embeddings are not streamed; leave it out")

    def failure(self, failure: Failure) -> bytes:
        """`{"error": …}`."""
        return error_body(failure)


# --- Models -------------------------------------------------------------------------------------


class ModelEntry(Struct, frozen=True):
    """A name that callers may give as `model`; `created` in seconds since the epoch."""

    id: str
    owned_by: str
    created: int = 0


def models_body(entries: Iterable[ModelEntry]) -> bytes:
    """The list of models, one page."""
    return orjson.dumps({"object": "list", "data": [_model(entry) for entry in entries]})


def model_body(entry: ModelEntry) -> bytes:
    """One model."""
    return orjson.dumps(_model(entry))


def _model(entry: ModelEntry) -> JSON:
    made = {"id": entry.id, "object": "model", "created": entry.created}
    return {**made, "owned_by": entry.owned_by}


# --- What OpenAI's dialects share ---------------------------------------------------------------


def refusal(name: str, why: str) -> InvalidRequest:
    """The error for a field of the body, which it names first."""
    return InvalidRequest(f"`{name}`: {why}", sent=False)


def model_of(body: JSON) -> str:
    """The `model`. Raises `InvalidRequest` where it is no text."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise refusal("model", "name a profile, `profile/model`, or one of `GET /v1/models`")
    return model


def is_streamed(body: JSON) -> bool:
    """Whether the body asks for a stream. Raises `InvalidRequest` where that is no truth value."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise refusal("stream", "it is true or false")
    return stream is True


def without_stream(body: JSON) -> JSON:
    """The body without what says how it is streamed."""
    return {name: value for name, value in body.items() if name not in _STREAMED}


def tool_calls(answer: Answer, id: str) -> list[dict[str, Any]]:
    """The tool calls of the answer, each with an id: Gemini gives none, and callers go by it."""
    listed = enumerate(answer.tool_calls)
    return [{**call, "id": call.get("id") or f"call_{id}_{n}"} for n, call in listed]


def url_citations(answer: Answer) -> list[dict[str, Any]]:
    """The citations of the answer that have OpenAI's shape: `url`, `title`, `start_index` and
    `end_index`, which responses hold flat and chat completions one level down."""
    found = [c for c in answer.citations if isinstance(c, dict) and c.get("type") == "url_citation"]
    inner = [c.get("url_citation", c) for c in found]
    return [{name: c[name] for name in c if name != "type"} for c in inner]


_KINDS = {
    "context_length": ("invalid_request_error", "context_length_exceeded"),
    "content_filter": ("invalid_request_error", "content_filter"),
    "not_found": ("invalid_request_error", "model_not_found"),
    "auth": ("authentication_error", "invalid_api_key"),
    "permission": ("permission_error", None),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "budget": ("insufficient_quota", "insufficient_quota"),
    "quota": ("insufficient_quota", "insufficient_quota"),
}
"""Kinds of failures → OpenAI's `type` and `code`."""


def error_object(failure: Failure) -> JSON:
    """The failure in OpenAI's words. What the server is to blame for keeps its kind as `code`."""
    kind, code = _KINDS.get(failure.kind, ("invalid_request_error", None))
    if failure.status >= 500:
        kind, code = "server_error", failure.kind
    return {"message": failure.message, "type": kind, "param": failure.field, "code": code}


def error_body(failure: Failure) -> bytes:
    """`{"error": …}`."""
    return orjson.dumps({"error": error_object(failure)})


def _is_usage_alone(data: str) -> bool:
    found = load_json(data.encode())
    return not found.get("choices") and bool(found.get("usage"))


def _end(answer: Answer) -> str:
    return _FINISH.get(answer.finish, answer.finish)


def _usage(usage: Usage) -> JSON:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
