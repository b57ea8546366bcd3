"""Cohere's chat API, version 2.

Reference: docs.cohere.com/reference/chat, …/reference/chat-stream, …/reference/tokenize,
…/reference/list-models, …/reference/checkapikey. Pure: no I/O; the clock is passed in.

`options` go to the top level of the body (`p`, `k`, `seed`, `documents`, `thinking`…). Only
chat has a second version: the other calls climb from the base URL to `v1`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from llmctl.errors import AuthFailed, CallError
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers.bodies import items, json_object, named, shaped
from llmctl.providers.cohere_answers import Reader, failure, reply, until_reset
from llmctl.providers.cohere_messages import conversation, from_openai, plain_text
from llmctl.providers.parts import refuse
from llmctl.providers.usage import whole
from llmctl.types import ModelInfo, ProviderReply, Request

_PAGE = 1000
"""Models in one page: the most there can be (docs.cohere.com/reference/list-models)."""

_TOKENIZED = 65_536
"""Characters that one call counts at most (docs.cohere.com/reference/tokenize)."""


class Cohere:
    """The codec; see `protocols.Codec`. `now` gives seconds since the epoch: resets are times."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A chat. An OpenAI-shaped body is translated."""
        if request.raw is not None:
            request = from_openai(request)
        body: dict[str, Any] = {"model": request.target.model, **conversation(request)}
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

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return {"authorization": f"Bearer {key}"}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer."""
        if status != 200:
            raise self.failure(status, headers, body)
        found = json_object(status, headers, body)
        with shaped(status, headers, body):
            return reply(found)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """By status; what is terminal is also read out of the message."""
        return failure(status, headers, body, self._now)

    def reader(self) -> Reader:
        """A reader for one stream."""
        return Reader()

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-reset`, in seconds since the epoch; nothing is said of what remains."""
        return RateHeaders(reset_requests=until_reset(headers, self._now()))

    def probe(self) -> WireRequest:
        """Cohere has a call for this very question."""
        return WireRequest("../v1/check-api-key", None)

    def decode_probe(self, body: bytes) -> None:
        """`valid`."""
        if json_object(200, {}, body).get("valid") is not True:
            raise AuthFailed("Cohere says that this key is not valid", http_status=200)

    def models(self, after: str | None) -> WireRequest:
        """A page of the list."""
        query = {"page_size": _PAGE, **({"page_token": after} if after else {})}
        return WireRequest(f"../v1/models?{urlencode(query)}", None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """Models with their window."""
        found, listed = items(body, "models")
        models = [
            ModelInfo(id=named(m, "name") or "", context=whole(m.get("context_length")) or None)
            for m in listed
        ]
        return models, named(found, "next_page_token")

    def count(self, request: Request) -> WireRequest:
        """The tokens of all texts; the template around them, and tools, are not counted."""
        if request.raw is not None:
            request = from_openai(request)
        said = plain_text(request)
        if not 0 < len(said) <= _TOKENIZED:
            raise refuse("this prompt", request, f"it counts 1 to {_TOKENIZED} characters")
        body = {"text": said, "model": request.target.model}
        return WireRequest("../v1/tokenize", body)

    def decode_count(self, body: bytes) -> int:
        """How many `tokens` are listed."""
        found = json_object(200, {}, body)
        with shaped(200, {}, body):
            if not isinstance(found["tokens"], list):
                raise TypeError("`tokens` is no list")
            return len(found["tokens"])
