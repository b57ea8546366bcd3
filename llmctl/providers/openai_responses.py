"""OpenAI's responses: `api: responses` in a profile.

Reference: platform.openai.com/docs/api-reference/responses.
"""

from __future__ import annotations

from typing import Any

from llmctl.protocols import WireRequest
from llmctl.providers.family import OpenAIFamily
from llmctl.providers.responses_answers import ResponsesReader
from llmctl.providers.responses_input import counted, items, text_format
from llmctl.types import Request

PATH = "/responses"


class OpenAIResponses(OpenAIFamily):
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A response, or the raw body as it is."""
        if request.raw is not None:
            return WireRequest(request.raw.path, request.raw.body)
        target = request.target
        body: dict[str, Any] = {
            "model": target.model,
            "input": items(request.messages, target),
        }
        if request.max_tokens is not None and "max_output_tokens" not in request.options:
            body["max_output_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            body["text"] = text_format(request.schema)
        own = dict(request.options)
        if isinstance(own.get("text"), dict) and "text" in body:
            body["text"] = {**body["text"], **own.pop("text")}  # `verbosity` stands beside it
        body.update(own)
        if stream:
            body["stream"] = True
        return WireRequest(PATH, body)

    def reader(self) -> ResponsesReader:
        """A reader for one streamed answer."""
        return ResponsesReader()

    def count(self, request: Request) -> WireRequest | None:
        """`POST /responses/input_tokens`."""
        return counted(request)
