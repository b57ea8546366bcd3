"""Google's Gemini API.

Reference: ai.google.dev/api/generate-content, ai.google.dev/api/tokens, ai.google.dev/api/models.
Pure: no I/O; the clock is passed in.

`options` go into `generationConfig` (`topP`, `seed`, `thinkingConfig`…), except the fields that
stand beside it: those in `TOP_LEVEL`, in either spelling. `generationConfig` itself is merged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from llmctl.errors import CallError
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers.bodies import items, json_object, named, shaped
from llmctl.providers.gemini_answers import Reader, reply
from llmctl.providers.gemini_contents import conversation, from_openai
from llmctl.providers.gemini_errors import error_in, failure
from llmctl.providers.usage import whole
from llmctl.types import ModelInfo, ProviderReply, Request

TOP_LEVEL = frozenset(
    {
        "tools",
        "toolConfig",
        "tool_config",
        "safetySettings",
        "safety_settings",
        "cachedContent",
        "cached_content",
        "systemInstruction",
        "system_instruction",
        "contents",
        "labels",
        "serviceTier",
        "service_tier",
        "store",
    }
)
"""Fields of GenerateContentRequest beside `generationConfig` (ai.google.dev/api/generate-content,
"Request body"; the API reads JSON in both spellings)."""

_CONFIG = ("generationConfig", "generation_config")
_PAGE = 1000
"""Models in one page: the most there can be (ai.google.dev/api/models, `pageSize`)."""


class Gemini:
    """The codec; see `protocols.Codec`. `now` gives seconds since the epoch."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The model is part of the path. An OpenAI-shaped body is translated."""
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return WireRequest(f"/{_model(request)}:{verb}", _body(request))

    def auth(self, key: str) -> Mapping[str, str]:
        """The key has a header of its own; it never stands in the address."""
        return {"x-goog-api-key": key}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer."""
        if status != 200:
            raise self.failure(status, headers, body)
        found = json_object(status, headers, body)
        if found.get("error"):
            raise error_in(found)
        with shaped(status, headers, body):
            return reply(found)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """By status, `details` and message: the wait and what ran out stand in the body."""
        return failure(status, headers, body, self._now)

    def reader(self) -> Reader:
        """A reader for one stream: it has no end mark of its own."""
        return Reader()

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:  # noqa: ARG002 - the seam's
        """Gemini says nothing of its limits in headers."""
        return RateHeaders()

    def probe(self) -> WireRequest:
        """One model of the list."""
        return WireRequest("/models?pageSize=1", None, method="GET")

    def decode_probe(self, body: bytes) -> None:
        """A listing is enough: a key that is not good gets no status 200."""
        json_object(200, {}, body)

    def models(self, after: str | None) -> WireRequest:
        """A page of the list."""
        query = {"pageSize": _PAGE, **({"pageToken": after} if after else {})}
        return WireRequest(f"/models?{urlencode(query)}", None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """Models with their name and limits, without the `models/` before their ids."""
        found, listed = items(body, "models")
        models = [
            ModelInfo(
                id=(named(model, "name") or "").removeprefix("models/"),
                name=named(model, "displayName"),
                context=whole(model.get("inputTokenLimit")) or None,
                output=whole(model.get("outputTokenLimit")) or None,
            )
            for model in listed
        ]
        return models, named(found, "nextPageToken")

    def count(self, request: Request) -> WireRequest:
        """Contents alone are counted as they are; with instructions or tools the whole request
        is handed over, which names its model again."""
        body = _body(request)
        config = body.pop("generationConfig", None)
        if set(body) != {"contents"}:
            if config:
                body["generationConfig"] = config
            body = {"generateContentRequest": {"model": _model(request, quoted=False), **body}}
        return WireRequest(f"/{_model(request)}:countTokens", body)

    def decode_count(self, body: bytes) -> int:
        """`totalTokens`; it is left out where there is nothing to count."""
        found = json_object(200, {}, body)
        with shaped(200, {}, body):
            return int(found.get("totalTokens", 0))


def _model(request: Request, *, quoted: bool = True) -> str:
    """`models/M`; tuned models bring their own collection."""
    model = request.target.model
    first, slash, rest = model.partition("/")
    if not slash or first not in ("models", "tunedModels"):
        first, rest = "models", model
    return f"{first}/{quote(rest, safe='') if quoted else rest}"


def _body(request: Request) -> dict[str, Any]:
    if request.raw is not None:
        request = from_openai(request)
    body: dict[str, Any] = conversation(request)
    config: dict[str, Any] = {}
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.schema is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = request.schema
    for name, value in request.options.items():
        if name in _CONFIG and isinstance(value, Mapping):
            config.update(value)
        elif name in TOP_LEVEL:
            body[name] = value
        else:
            config[name] = value
    if config:
        body["generationConfig"] = config
    return body
