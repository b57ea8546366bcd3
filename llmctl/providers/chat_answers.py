"""Reading chat completions, whole and streamed. Pure.

Reference: platform.openai.com/docs/api-reference/chat; docs.mistral.ai/api;
openrouter.ai/docs/api-reference; console.groq.com/docs/api-reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmctl.errors import ContentFiltered
from llmctl.providers.failures import from_event, not_json
from llmctl.providers.usage import dollars, mapping, openai_usage
from llmctl.types import Finish, ProviderReply, StreamChunk, Usage

FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "model_length": "length",  # Mistral: the model's window is full
}


def chat_reply(whole: Mapping[str, Any]) -> ProviderReply:
    """The answer of a chat completion (or of the older completions).

    Raises `ContentFiltered` for a refusal, the mapped error where the choice is one, and
    `KeyError`, `IndexError` or `TypeError` for what is no completion.
    """
    choice = whole["choices"][0]
    used = whole.get("usage")
    usage, cost = openai_usage(used), dollars(mapping(used).get("cost"))
    if choice.get("error"):
        raise from_event(mapping(choice["error"]))
    message = choice.get("message") or {}
    text = content(message.get("content", choice.get("text")))
    reason = choice.get("finish_reason")
    finish = _finish(reason)
    if reason == "error":
        raise from_event({"message": "the model failed to generate an answer"})
    if not text and (message.get("refusal") or finish == "content_filter"):
        raise filtered(message.get("refusal"), usage, cost)
    return ProviderReply(text, finish, named(whole), usage, cost)


class ChatReader:
    """Reads one streamed chat completion; its end mark is `[DONE]`."""

    def __init__(self) -> None:
        self._refusal = ""
        self._said = False
        self._usage: Usage | None = None

    def piece(self, event: str, data: str) -> StreamChunk:
        """One chunk. Raises the mapped error where the stream carries one."""
        if data.strip() == "[DONE]":
            if self._refusal and not self._said:
                raise filtered(self._refusal, self._usage, None)
            return StreamChunk(done=True)
        chunk = loaded(data)
        # Mistral's errors stand at the top of the object, others under `error`.
        if event == "error" or chunk.get("error") or chunk.get("object") == "error":
            found = chunk.get("error")
            raise from_event(found if isinstance(found, dict) else _plain(chunk))
        try:
            return self._read(chunk)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise not_json(200, {}, data.encode(), f"{type(error).__name__} {error}") from error

    def end(self) -> StreamChunk:
        """A stream that ends without `[DONE]` is incomplete."""
        return StreamChunk()

    def _read(self, chunk: Mapping[str, Any]) -> StreamChunk:
        groq = mapping(chunk.get("x_groq"))
        if groq.get("error"):
            raise from_event({"message": str(groq["error"])})
        found = chunk.get("usage") or groq.get("usage")
        self._usage = openai_usage(found) or self._usage
        choice = _first(chunk.get("choices"))
        if choice.get("error"):
            raise from_event(mapping(choice["error"]))
        reason = choice.get("finish_reason")
        if reason == "error":
            raise from_event({"message": "the model failed while it answered"})
        delta = choice.get("delta") or {}
        text = content(delta.get("content", choice.get("text")))
        self._said = self._said or bool(text)
        self._refusal += content(delta.get("refusal"))
        return StreamChunk(
            text=text,
            finish=_finish(reason) if reason else None,
            model=named(chunk) or None,
            usage=openai_usage(found),
            cost=dollars(mapping(found).get("cost")),
        )


def content(value: object) -> str:
    """The text of a message's content: text, or the text parts of a list (a reasoning model's
    thoughts stand beside them and are left out). Raises `TypeError` for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(
            part["text"]
            for part in value
            if isinstance(part, dict)
            and part.get("type") == "text"
            and isinstance(part.get("text"), str)
        )
    raise TypeError("`content` is neither text nor parts")


def filtered(said: object, usage: Usage | None, cost: Any) -> ContentFiltered:
    """The error for a refusal, which was billed like an answer."""
    why = "the provider's content filter stopped the answer"
    error = ContentFiltered(
        f"the model refused: {said[:500]}" if isinstance(said, str) and said else why,
        http_status=200,
    )
    error.usage, error.cost = usage, cost
    return error


def loaded(data: str) -> dict[str, Any]:
    """The JSON object of a streamed event. Raises `BadResponse`."""
    try:
        chunk = orjson.loads(data)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raw = data.encode("utf-8", "replace")
        raise not_json(200, {}, raw, "a streamed event is no JSON") from error
    if not isinstance(chunk, dict):
        raise not_json(200, {}, data.encode(), "a streamed event is no JSON object")
    return chunk


def named(whole: Mapping[str, Any]) -> str:
    """The model that answered, where it is said."""
    model = whole.get("model")
    return model if isinstance(model, str) else ""


def _finish(reason: object) -> Finish:
    return FINISH.get(reason, "other") if isinstance(reason, str) else "other"


def _first(choices: object) -> Mapping[str, Any]:
    """The first choice's part of a chunk; further choices (`n`) come in chunks of their own."""
    for choice in choices if isinstance(choices, list) else ():
        if choice.get("index", 0) in (0, None):
            found: Mapping[str, Any] = choice
            return found
    return {}


def _plain(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    said = chunk.get("error")
    return {"message": said} if isinstance(said, str) else chunk
