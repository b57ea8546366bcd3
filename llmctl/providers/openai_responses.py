"""OpenAI's responses: `api: responses` in a profile. Pure.

Reference: platform.openai.com/docs/api-reference/responses, …/responses/create and
…/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.protocols import BodyFields, WireRequest
from llmctl.providers import replies
from llmctl.providers.model_parameters import require_accepted
from llmctl.providers.openai_chat import (
    ChatReader,
    OpenAIChat,
    count_request,
    input_items,
    is_commentary,
    openai_usage,
    responses_reply,
    text_format,
)
from llmctl.types import Request, StreamChunk


class OpenAIResponses(OpenAIChat):
    """The codec; see `protocols.Codec`. A chat's body passes, too: the same server takes it."""

    fields = BodyFields(("max_output_tokens",), ("input",))

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A response, or the raw body as it is."""
        if request.raw is not None:
            return self.passed(request.raw, stream=stream)
        require_accepted(request)
        items = input_items(request.messages, request.target)
        body: dict[str, Any] = {"model": request.target.model, "input": items}
        if request.max_tokens is not None and "max_output_tokens" not in request.options:
            body["max_output_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            body["text"] = text_format(request.schema)
        options = dict(request.options)
        if isinstance(options.get("text"), dict) and "text" in body:
            body["text"] = {**body["text"], **options.pop("text")}  # `verbosity` stands beside it
        body.update(options)
        if stream:
            body["stream"] = True
        return WireRequest("/responses", body)

    def reader(self) -> ResponsesReader:
        """A reader for one streamed answer."""
        return ResponsesReader()

    def count(self, request: Request) -> WireRequest | None:
        """`POST /responses/input_tokens`."""
        return count_request(request)


class ResponsesReader(ChatReader):
    """Reads one streamed response; `response.completed` or `.incomplete` end it. A body that is
    passed through may ask for a chat completion of the same server."""

    def __init__(self) -> None:
        super().__init__()
        self._commentary: set[str] = set()

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """That of the response in the event, or of the chunk."""
        if "choices" in found:
            return super().bill(found)
        return openai_usage(replies.object_or_empty(found.get("response")) or found)

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One event; the last one holds the whole answer."""
        if "choices" in found:
            return super().read(event, found)
        kind = found.get("type", event)
        if kind == "error" or found.get("error"):
            raise replies.error_from_event(found)
        if kind == "response.output_item.added" and is_commentary(found.get("item") or {}):
            self._commentary.add(str(found.get("output_index")))
        if kind == "response.output_text.delta":
            if str(found.get("output_index")) in self._commentary:
                return StreamChunk()
            return StreamChunk(text=replies.required_text(found.get("delta")))
        if kind not in ("response.completed", "response.incomplete", "response.failed"):
            return StreamChunk()
        reply = responses_reply(found["response"])
        text = "" if self._has_text else reply.text
        return StreamChunk(
            text, reply.finish, reply.model, reply.usage, reply.cost, done=True,
            reason=reply.reason, tool_calls=reply.tool_calls, citations=reply.citations,
        )  # fmt: skip
