"""Chat completions, as OpenAI and every server that speaks them understand them: what the codecs
of that family share. Pure: no I/O, no clock.

Reference: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from typing import Any, ClassVar

from llmctl.protocols import WireRequest
from llmctl.providers.attached import Kind, checked
from llmctl.providers.chat_answers import ChatReader
from llmctl.providers.family import OpenAIFamily
from llmctl.providers.strict import named_schema
from llmctl.types import JSON, Message, Request, Target

PATH = "/chat/completions"
LIMITS = ("max_tokens", "max_completion_tokens")


class ChatCompletions(OpenAIFamily):
    """The base of the family's codecs; see `protocols.Codec`.

    `takes` are the attachments that the provider understands; `streams_usage` says whether a
    stream must be asked for its usage.
    """

    takes: ClassVar[frozenset[Kind]] = frozenset({"image", "image_url", "file", "audio"})
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
        if request.max_tokens is not None and request.options.keys().isdisjoint(LIMITS):
            body[self.limit_name(target)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            form = {"type": "json_schema", "json_schema": named_schema(request.schema)}
            body["response_format"] = form
        body.update(request.options)
        if stream:
            body["stream"] = True
            if self.streams_usage:
                body["stream_options"] = {"include_usage": True}
        return WireRequest(PATH, body)

    def limit_name(self, target: Target) -> str:  # noqa: ARG002 - OpenAI's own depends on it
        """What the output limit is called."""
        return "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message as this provider wants it. Raises `InvalidRequest`."""
        if not isinstance(message.content, tuple):
            return message.as_json()
        parts = [self.part(checked(part, self.takes, target)) for part in message.content]
        return {"role": message.role, "content": parts, **message.extra}

    def part(self, part: JSON) -> JSON:
        """A part that the provider takes, in its words."""
        return part

    def reader(self) -> ChatReader:
        """A reader for one streamed answer."""
        return ChatReader()
