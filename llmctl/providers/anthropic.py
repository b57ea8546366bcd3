"""Anthropic's Messages API.

Reference: platform.claude.com/docs/en/api/messages, …/api/messages-count-tokens,
…/api/models-list, …/api/rate-limits. Pure: no I/O; the clock is passed in.

`options` go to the top level of the body (`thinking`, `tools`, `stop_sequences`, `top_p`…),
except `betas`, a list of names for the `anthropic-beta` header, as in Anthropic's own SDKs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from llmctl.errors import CallError
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers.anthropic_answers import Reader, failure, reply
from llmctl.providers.anthropic_messages import conversation, from_openai
from llmctl.providers.anthropic_schema import fitted
from llmctl.providers.bodies import items, json_object, named, shaped, since_epoch
from llmctl.providers.headers import count
from llmctl.providers.usage import whole
from llmctl.tokens import anthropic_limit
from llmctl.types import ModelInfo, ProviderReply, Request

VERSION = "2023-06-01"
"""`anthropic-version`. The later 2026-10-21 refuses `temperature`, `top_p` and `top_k`, and
answers alike (platform.claude.com/docs/en/api/versioning, …/api/migration-2026-10-21)."""

_PAGE = 1000
"""Models in one page: the most there can be (…/api/models-list)."""

_COUNTED = frozenset(
    {
        "model",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "cache_control",
        "context_management",
        "mcp_servers",
    }
)
"""What count_tokens takes of a request's fields."""

_LIMITS = "anthropic-ratelimit-"


class Anthropic:
    """The codec; see `protocols.Codec`. `now` gives seconds since the epoch: resets are dates."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A message. An OpenAI-shaped body is translated."""
        body, headers = _body(request)
        if stream:
            body["stream"] = True
        return WireRequest("/messages", body, headers)

    def auth(self, key: str) -> Mapping[str, str]:
        """The key has a header of its own."""
        return {"x-api-key": key}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete message."""
        if status != 200:
            raise self.failure(status, headers, body)
        found = json_object(status, headers, body)
        if found.get("type") == "error" or found.get("error"):
            raise failure(None, headers, body, self._now)
        with shaped(status, headers, body):
            return reply(found)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """By `error.type` and status; what is terminal is also read out of the message."""
        return failure(status, headers, body, self._now)

    def reader(self) -> Reader:
        """A reader for one stream: usage comes in two events."""
        return Reader()

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`anthropic-ratelimit-{requests,tokens}-{remaining,reset}`; where tokens are limited
        only by direction, those of the input, which run out first in a batch."""
        tokens = next(
            (n for n in ("tokens", "input-tokens") if f"{_LIMITS}{n}-remaining" in headers), None
        )
        if tokens is None and f"{_LIMITS}requests-remaining" not in headers:
            return RateHeaders()
        return RateHeaders(
            remaining_requests=count(headers.get(f"{_LIMITS}requests-remaining")),
            remaining_tokens=count(headers.get(f"{_LIMITS}{tokens}-remaining")),
            limit_requests=count(headers.get(f"{_LIMITS}requests-limit")),
            limit_tokens=count(headers.get(f"{_LIMITS}{tokens}-limit")),
            reset_requests=self._until(headers.get(f"{_LIMITS}requests-reset")),
            reset_tokens=self._until(headers.get(f"{_LIMITS}{tokens}-reset")),
        )

    def _until(self, when: str | None) -> float | None:
        at = since_epoch(when)
        return None if at is None else max(0.0, at - self._now())

    def probe(self) -> WireRequest:
        """One model of the list."""
        return self._list(limit=1)

    def decode_probe(self, body: bytes) -> None:
        """A listing is enough: a key that is not good gets no status 200."""
        json_object(200, {}, body)

    def models(self, after: str | None) -> WireRequest:
        """A page of the list, after the model `after`."""
        return self._list(limit=_PAGE, **({"after_id": after} if after else {}))

    def _list(self, **query: Any) -> WireRequest:
        return WireRequest(f"/models?{urlencode(query)}", None, _headers(), "GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """Models with their name, limits and date; the last one's id is the next page's token."""
        found, listed = items(body, "data")
        models = [
            ModelInfo(
                id=str(model.get("id") or ""),
                name=named(model, "display_name"),
                context=whole(model.get("max_input_tokens")) or None,
                output=whole(model.get("max_tokens")) or None,
                created=since_epoch(model.get("created_at")),
            )
            for model in listed
        ]
        return models, named(found, "last_id") if found.get("has_more") is True else None

    def count(self, request: Request) -> WireRequest:
        """Anthropic counts whatever it would answer, for nothing."""
        body, headers = _body(request)
        kept = {name: value for name, value in body.items() if name in _COUNTED}
        return WireRequest("/messages/count_tokens", kept, headers)

    def decode_count(self, body: bytes) -> int:
        """`input_tokens`."""
        found = json_object(200, {}, body)
        with shaped(200, {}, body):
            return int(found["input_tokens"])


def _headers(betas: object = None) -> Mapping[str, str]:
    headers = {"anthropic-version": VERSION}
    if isinstance(betas, list | tuple):
        betas = ",".join(map(str, betas))
    if betas:
        headers["anthropic-beta"] = str(betas)
    return headers


def _body(request: Request) -> tuple[dict[str, Any], Mapping[str, str]]:
    if request.raw is not None:
        request = from_openai(request)
    options = dict(request.options)
    betas = options.pop("betas", None)
    body: dict[str, Any] = {"model": request.target.model, "max_tokens": _limit(request)}
    body.update(conversation(request))
    if request.temperature is not None:
        body["temperature"] = request.temperature
    body.update(options)
    if request.schema is not None:
        form = {"type": "json_schema", "schema": fitted(request.schema)}
        given = options.get("output_config")
        body["output_config"] = {**(given if isinstance(given, Mapping) else {}), "format": form}
    return body, _headers(betas)


def _limit(request: Request) -> int:
    if request.max_tokens is not None:
        return request.max_tokens
    return anthropic_limit(request.options)
