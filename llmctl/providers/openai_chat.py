"""Chat completions of OpenAI and of every server that imitates them. Pure.

vLLM, Ollama, llama.cpp, LM Studio, Azure OpenAI. Reference: platform.openai.com/docs/
api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.openai_base import (
    AttachmentKind,
    OpenAIFamily,
    chat_finish,
    content_text,
    json_schema_format,
    model_of,
    openai_cost,
    openai_usage,
    refused,
    require_taken,
)
from llmctl.providers.openai_responses import count_request
from llmctl.types import JSON, Message, Request, StreamChunk, Target, Usage

_LIMITS = ("max_tokens", "max_completion_tokens")
_REASONING = ("o1", "o3", "o4", "gpt-5", "gpt-6")


class ChatCompletions(OpenAIFamily):
    """The base of the family's codecs; see `protocols.Codec`.

    `takes` are the attachments that the provider understands; `streams_usage` says whether a
    stream must be asked for its usage.
    """

    takes: ClassVar[frozenset[AttachmentKind]] = frozenset({"image", "image_url", "file", "audio"})
    streams_usage: ClassVar[bool] = True

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A chat completion, or the raw body as it is."""
        if request.raw is not None:
            return WireRequest(request.raw.path, request.raw.body)
        target = request.target
        body: dict[str, Any] = {
            "model": target.model,
            "messages": [self.turn(message, target) for message in request.messages],
        }
        if request.max_tokens is not None and request.options.keys().isdisjoint(_LIMITS):
            body[self.limit_name(target)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            form = {"type": "json_schema", "json_schema": json_schema_format(request.schema)}
            body["response_format"] = form
        body.update(request.options)
        if stream:
            body["stream"] = True
            if self.streams_usage:
                body["stream_options"] = {"include_usage": True}
        return WireRequest("/chat/completions", body)

    def limit_name(self, target: Target) -> str:  # noqa: ARG002 - OpenAI's own depends on it
        """What the output limit is called."""
        return "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message as this provider wants it. Raises `InvalidRequest`."""
        if not isinstance(message.content, tuple):
            return message.as_json()
        parts = [self.part(require_taken(part, self.takes, target)) for part in message.content]
        return {"role": message.role, "content": parts, **message.extra}

    def part(self, part: JSON) -> JSON:
        """A part that the provider takes, in its words."""
        return part

    def reader(self) -> ChatReader:
        """A reader for one streamed answer."""
        return ChatReader()


class OpenAIChat(ChatCompletions):
    """The codec of OpenAI and its imitators; see `protocols.Codec`."""

    def limit_name(self, target: Target) -> str:
        """OpenAI's own models want `max_completion_tokens` (its reasoning models refuse
        `max_tokens`); other servers mostly know `max_tokens` only."""
        own = "api.openai.com" in target.base_url or ".azure.com" in target.base_url
        reasoning = target.model.startswith(_REASONING)
        return "max_completion_tokens" if own or reasoning else "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message; to the embedded model nothing can be attached."""
        if target.provider == "local" and isinstance(message.content, tuple):
            for part in message.content:
                require_taken(part, (), target)
        return super().turn(message, target)

    def count(self, request: Request) -> WireRequest | None:
        """Chat completions and responses read the same tokens; only the latter are counted."""
        return count_request(request) if request.target.provider == "openai" else None


class ChatReader(replies.BaseReader):
    """Reads one streamed chat completion; its end mark is `[DONE]`."""

    def __init__(self) -> None:
        super().__init__()
        self._refusal = ""
        self._usage: Usage | None = None

    def done(self) -> StreamChunk:
        """The end. Raises `ContentFiltered` for a refusal, which also comes in pieces."""
        if self._refusal and not self._has_text:
            raise refused(self._refusal, self._usage, None)
        return StreamChunk(done=True)

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One chunk."""
        error = found.get("error")
        # Mistral's errors stand at the top of the object, others under `error`.
        if event == "error" or error or found.get("object") == "error":
            whole = {"message": error} if isinstance(error, str) else found
            raise replies.error_from_event(error if isinstance(error, dict) else whole)
        groq = replies.object_or_empty(found.get("x_groq"))
        if groq.get("error"):
            raise replies.error_from_event({"message": str(groq["error"])})
        counted = found if found.get("usage") else groq
        usage = openai_usage(counted)
        self._usage = usage or self._usage
        # Further choices (`n`) come in chunks of their own.
        choices = found.get("choices")
        listed = choices if isinstance(choices, list) else ()
        choice: Mapping[str, Any] = next((c for c in listed if c.get("index") in (0, None)), {})
        if choice.get("error"):
            raise replies.error_from_event(replies.object_or_empty(choice["error"]))
        finish = chat_finish(choice.get("finish_reason"))
        delta = choice.get("delta") or {}
        text = content_text(delta.get("content", choice.get("text")))
        self._refusal += content_text(delta.get("refusal"))
        return StreamChunk(
            text=text,
            finish=finish,
            model=model_of(found) or None,
            usage=usage,
            cost=openai_cost(counted),
        )
