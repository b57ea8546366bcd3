"""Gemini's errors; pure.

Reference: ai.google.dev/gemini-api/docs/troubleshooting, …/docs/rate-limits, and
google.rpc's ErrorInfo, QuotaFailure and RetryInfo (cloud.google.com/apis/design/errors).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from llmctl.errors import CallError, QuotaExhausted
from llmctl.providers.failures import from_event, from_reply
from llmctl.providers.headers import MAX_WAIT, duration
from llmctl.providers.usage import mapping

_STATUS = {
    "UNAUTHENTICATED": "invalid_api_key",
    "PERMISSION_DENIED": "permission_error",
    "FAILED_PRECONDITION": "permission_error",  # the country, or a project without billing
    "NOT_FOUND": "not_found_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAVAILABLE": "overloaded_error",
    "INVALID_ARGUMENT": "invalid_request_error",
}
"""Google's status names → codes that `failures` knows; the rest goes by the HTTP status."""

_BAD_KEY = re.compile(
    r"API key (?:not valid|not found|expired|was reported as leaked)|unregistered callers"
    r"|missing a valid API key",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"token count .*exceeds the maximum|exceeds the maximum number of tokens", re.DOTALL
)
_NO_CREDIT = re.compile(
    r"credits? (?:are|is|have been) (?:depleted|exhausted)|spending cap", re.IGNORECASE
)


def failure(
    status: int, headers: Mapping[str, str], body: bytes, now: Callable[[], float]
) -> CallError:
    """The mapped error of a reply. `retry_after` is RetryInfo's where no header says it."""
    found = _error(_load(body))
    known = orjson.dumps({"error": _coded(found)}) if found else body
    return _with_wait(from_reply(status, headers, known, now=now), found)


def error_in(whole_body: object) -> CallError:
    """The mapped error of an `error` inside a successful reply or a stream."""
    found = _error(whole_body)
    return _with_wait(from_event(_coded(found)), found)


def _load(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _error(whole_body: object) -> Mapping[str, Any]:
    """The `error` object; a stream that was not asked for as events wraps it in a list."""
    if isinstance(whole_body, list) and whole_body:
        whole_body = whole_body[0]
    error = mapping(whole_body).get("error")
    return {"message": error} if isinstance(error, str) else mapping(error)


def _details(found: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    details = found.get("details")
    for item in details if isinstance(details, list) else ():
        if str(mapping(item).get("@type", "")).endswith(f".{name}"):
            yield mapping(item)


def _coded(found: Mapping[str, Any]) -> dict[str, Any]:
    """The error with a `type` that `failures` knows."""
    status, message = str(found.get("status") or ""), str(found.get("message") or "")
    reasons = {str(info.get("reason")) for info in _details(found, "ErrorInfo")}
    if any(reason.startswith("API_KEY_INVALID") for reason in reasons) or _BAD_KEY.search(message):
        kind = "invalid_api_key"
    elif _per_day(found) or _NO_CREDIT.search(message):
        kind = "insufficient_quota"
    elif _TOO_LONG.search(message):
        kind = "context_length_exceeded"
    else:
        kind = _STATUS.get(status, status)
    return {**found, "message": message, "type": kind}


def _per_day(found: Mapping[str, Any]) -> bool:
    """Whether a quota of the day ran out: waiting a minute does not help."""
    for failed in _details(found, "QuotaFailure"):
        violations = failed.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if "perday" in str(mapping(violation).get("quotaId", "")).lower():
                return True
    return False


def _with_wait(error: CallError, found: Mapping[str, Any]) -> CallError:
    if error.retry_after is None and not isinstance(error, QuotaExhausted):
        for info in _details(found, "RetryInfo"):
            wait = duration(str(info.get("retryDelay", "")))
            if wait is not None:
                error.retry_after = min(wait, MAX_WAIT)
    return error
