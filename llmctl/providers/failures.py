"""From an HTTP status and an OpenAI-shaped error body to the error tree; pure."""

from __future__ import annotations

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


def error_body(body: bytes) -> Mapping[str, Any]:
    """The `error` object of a body; empty when there is none."""
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    found = whole.get("error") if isinstance(whole, dict) else None
    if isinstance(found, str):
        return {"message": found}
    return found if isinstance(found, dict) else {}


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
    said = str(found.get("message") or "").strip() or _plain(body)
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


def from_event(found: Mapping[str, Any]) -> CallError:
    """The mapped error of an `error` object inside a stream or a successful reply."""
    code = found.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    message = str(found.get("message") or "the provider reported an error")
    return _kind(status, found)(message[:_SHOWN], http_status=status if status == code else None)


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
    for key in ("code", "type"):
        kind = _BY_CODE.get(str(found.get(key)))
        if kind is not None and not (kind is InvalidRequest and status in _BY_STATUS):
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ServerFailed if status >= 500 else InvalidRequest


def _plain(body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else " ".join(text.split())[:_SHOWN]


def _sentence(status: int, said: str) -> str:
    return f"the provider answered {status}" + (f": {said[:_SHOWN]}" if said else "")
