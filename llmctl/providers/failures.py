"""From an HTTP status and an error body to the error tree; pure.

Sources: platform.openai.com/docs/guides/error-codes, docs.mistral.ai/api,
openrouter.ai/docs/api-reference/errors, console.groq.com/docs/errors and
learn.microsoft.com/azure/ai-services/openai/how-to/content-filter.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    CallTimeout,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.providers.headers import retry_after, should_retry

_SHOWN = 500

_BY_STATUS: dict[int, type[CallError]] = {
    400: InvalidRequest,
    401: AuthFailed,
    402: QuotaExhausted,
    403: PermissionRefused,
    404: NotFound,
    408: CallTimeout,
    409: ServerFailed,
    413: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    498: Overloaded,  # Groq: no room in the flexible tier
    503: Overloaded,
    504: ServerFailed,
    529: Overloaded,
}

_BY_CODE: dict[str, type[CallError]] = {
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "context_length_exceeded": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,
    "invalid_api_key": AuthFailed,
    "authentication_error": AuthFailed,
    "permission_error": PermissionRefused,
    "model_not_found": NotFound,
    "invalid_model": NotFound,  # Mistral, with status 400
    "DeploymentNotFound": NotFound,  # Azure
    "not_found_error": NotFound,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "overloaded_error": Overloaded,
    "server_error": ServerFailed,
    "invalid_request_error": InvalidRequest,
}
"""Codes and types of OpenAI, and of the servers that speak its language; a code says more
than the status it came with."""


_TOO_LONG = re.compile(
    r"maximum context|context[ _-]length|context window|too large for model with",
    re.IGNORECASE,
)
"""How servers without a code of their own say that a prompt is too long: Mistral, OpenRouter,
vLLM, llama.cpp."""

_PER_DAY = re.compile(r"\bper[ -]day\b|\b[RT]PD\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
"""OpenAI and Groq: a request above the tokens of a whole minute is refused for ever."""


def error_body(body: bytes) -> Mapping[str, Any]:
    """The error object of a body: under `error`, or the body itself where it has a `message` or
    `detail` (Mistral, and gateways in front of others); empty when there is none."""
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(whole, dict):
        return {}
    found = whole.get("error")
    if isinstance(found, str):
        return {**whole, "message": found}
    if isinstance(found, dict):
        return found
    if "message" not in whole and "detail" in whole:
        detail = whole["detail"]
        said = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
        return {**whole, "message": said}
    return whole if "message" in whole else {}


def from_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: Callable[[], float] = time.time,
) -> CallError:
    """The mapped error of a reply that is not a success. `now`: seconds since the epoch."""
    found = error_body(body)
    kind = _kind(status, found)
    said = _said(found) or _plain(body)
    where = headers.get("location")
    if 300 <= status < 400:
        said = f"a redirect to {where!r}, which is not followed; mend `base_url`"
    error = kind(
        _sentence(status, said), http_status=status, provider_request_id=request_id(headers)
    )
    error.retry_after = retry_after(headers, now=now())
    told = should_retry(headers)
    if told is not None:
        error.retryable = told
    if isinstance(error, CallTimeout):
        error.ambiguous = False
    return error


def _said(found: Mapping[str, Any]) -> str:
    """The provider's own words; OpenRouter puts those of the one behind it into `metadata`."""
    message = found.get("message")
    said = message if isinstance(message, str) else orjson.dumps(message).decode()
    metadata = found.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, str) and raw and raw not in said:
        said += f" ({raw})"
    return " ".join(said.split()) if message or raw else ""


def from_event(found: Mapping[str, Any]) -> CallError:
    """The mapped error of an `error` object inside a stream or a successful reply."""
    status = next(
        (
            value
            for value in map(found.get, ("status_code", "raw_status_code", "code", "status"))
            if type(value) is int and 400 <= value < 600
        ),
        None,
    )
    message = _said(found) or "the provider reported an error"
    return _kind(status or 500, found)(message[:_SHOWN], http_status=status)


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the request, for its support desk."""
    return headers.get("x-request-id") or headers.get("request-id")


def not_json(status: int, headers: Mapping[str, str], body: bytes, why: str) -> BadResponse:
    """The error for a successful reply that is not what it should be."""
    shown = _plain(body)
    return BadResponse(
        f"the answer is not what this API sends ({why}){': ' + shown if shown else ''}; "
        "check `base_url`",
        http_status=status,
        provider_request_id=request_id(headers),
    )


def _kind(status: int, found: Mapping[str, Any]) -> type[CallError]:
    said = _said(found)
    kind = _by_code(status, found) or _BY_STATUS.get(status)
    if kind is None:
        kind = ServerFailed if status >= 500 else InvalidRequest
    if kind is RateLimited and (status == 413 or _TOO_LARGE.search(said)):
        return InvalidRequest
    if kind is RateLimited and _PER_DAY.search(said):
        return QuotaExhausted
    if kind is InvalidRequest and _TOO_LONG.search(said):
        return ContextTooLong
    if kind is PermissionRefused and _flagged(found):
        return ContentFiltered
    return kind


def _by_code(status: int, found: Mapping[str, Any]) -> type[CallError] | None:
    for key in ("code", "type"):
        kind = _BY_CODE.get(str(found.get(key)))
        if kind is not None and not (kind is InvalidRequest and status in _BY_STATUS):
            return kind
    return None


def _flagged(found: Mapping[str, Any]) -> bool:
    """OpenRouter's moderation is a 403 that says why (openrouter.ai/docs, "Moderation errors")."""
    metadata = found.get("metadata")
    return isinstance(metadata, Mapping) and bool(metadata.get("reasons"))


def _plain(body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else " ".join(text.split())[:_SHOWN]


def _sentence(status: int, said: str) -> str:
    return f"the provider answered {status}" + (f": {said[:_SHOWN]}" if said else "")
