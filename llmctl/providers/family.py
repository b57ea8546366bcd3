"""What OpenAI's interfaces, and the servers that imitate them, have in common: the key's header,
errors, rate limits, the list of models. Pure.

Reference: platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmctl.errors import BadResponse, CallError
from llmctl.protocols import NO_RATE_HEADERS, RateHeaders, WireRequest
from llmctl.providers.chat_answers import chat_reply
from llmctl.providers.failures import error_body, from_event, from_reply, not_json
from llmctl.providers.headers import count, duration
from llmctl.providers.responses_answers import responses_reply
from llmctl.providers.usage import mapping, openai_usage, whole
from llmctl.types import ModelInfo, ProviderReply, Request

_SHAPELESS = (KeyError, IndexError, TypeError, AttributeError, ValueError)


class OpenAIFamily:
    """The base of the family's codecs; see `protocols.Codec`."""

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return {"authorization": f"Bearer {key}"}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer of chat completions, responses or embeddings: rows that are passed
        through raw may ask for any of them."""
        if status != 200:
            raise self.failure(status, headers, body)
        answer = _object(body, status, headers)
        if answer.get("error") or answer.get("object") == "error":
            found = error_body(body)
            raise from_event(found) if found else not_json(status, headers, body, "an error")
        try:
            return _reply(answer)
        except _SHAPELESS as error:
            raise not_json(status, headers, body, f"{type(error).__name__} {error}") from error

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error of a reply that is no success."""
        return from_reply(status, headers, body)

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-{remaining,limit,reset}-{requests,tokens}`."""
        name = "x-ratelimit-"
        if name + "remaining-requests" not in headers and name + "remaining-tokens" not in headers:
            return NO_RATE_HEADERS
        return RateHeaders(
            remaining_requests=count(headers.get(name + "remaining-requests")),
            remaining_tokens=count(headers.get(name + "remaining-tokens")),
            limit_requests=count(headers.get(name + "limit-requests")),
            limit_tokens=count(headers.get(name + "limit-tokens")),
            reset_requests=duration(headers.get(name + "reset-requests", "")),
            reset_tokens=duration(headers.get(name + "reset-tokens", "")),
        )

    def probe(self) -> WireRequest:
        """The list of models costs nothing."""
        return self.models(None)

    def decode_probe(self, body: bytes) -> None:
        """A list says that the key is good; it must be one."""
        self.decode_models(body)

    def models(self, after: str | None) -> WireRequest:  # noqa: ARG002 - it is one page
        """All models."""
        return WireRequest("/models", None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The models, and that there are no more."""
        listed = loads(body)
        found = listed.get("data", listed) if isinstance(listed, dict) else listed
        if found is None:  # Ollama without any model
            found = []
        if not isinstance(found, list):
            raise BadResponse("the list of models is none; check `base_url`", retryable=False)
        return [m for m in map(model_info, found) if m is not None], None

    def count(self, request: Request) -> WireRequest | None:  # noqa: ARG002 - most do not count
        """None: the provider counts no tokens."""
        return None

    def decode_count(self, body: bytes) -> int:
        """`input_tokens` (platform.openai.com/docs/api-reference/responses/input-tokens)."""
        tokens = mapping(loads(body)).get("input_tokens")
        if type(tokens) is not int:
            raise BadResponse("the provider's token count is none", retryable=False)
        return tokens


def model_info(value: object) -> ModelInfo | None:
    """One entry of a list of models; None for what is none.

    `context_window` is Groq's name, `context_length` OpenRouter's, `max_context_length`
    Mistral's, `max_model_len` vLLM's.
    """
    found = mapping(value)
    name = found.get("id")
    if not isinstance(name, str) or not name:
        return None
    names = ("context_window", "context_length", "max_context_length", "max_model_len")
    window = next((whole(found[key]) for key in names if whole(found.get(key))), None)
    provider = mapping(found.get("top_provider"))
    most = whole(found.get("max_completion_tokens") or provider.get("max_completion_tokens"))
    shown = found.get("name")
    return ModelInfo(
        id=name,
        name=shown if isinstance(shown, str) and shown != name else None,
        context=window,
        output=most or None,
        created=float(whole(found.get("created"))) or None,
    )


def loads(body: bytes) -> Any:
    """The JSON of a body. Raises `BadResponse`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(200, {}, body, "no JSON") from error


def _object(body: bytes, status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(status, headers, body, "no JSON") from error
    if not isinstance(found, dict):
        raise not_json(status, headers, body, "no JSON object")
    return found


def _reply(answer: Mapping[str, Any]) -> ProviderReply:
    if "choices" in answer:
        return chat_reply(answer)
    if "output" in answer:
        return responses_reply(answer)
    if isinstance(answer.get("data"), list):  # embeddings
        model = answer.get("model")
        usage = openai_usage(answer.get("usage"))
        return ProviderReply("", "stop", model if isinstance(model, str) else "", usage)
    raise KeyError("choices")
