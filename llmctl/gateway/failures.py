"""What callers are told of an error: a status, and a sentence that gives nothing of the host away.

The program's own sentences speak to whoever runs it: they name keys, addresses and commands. Those
go to the log; a caller hears what concerns the request.
"""

from __future__ import annotations

import re

from llmctl.errors import (
    AuthFailed,
    BudgetRefused,
    CallError,
    CallTimeout,
    Cancelled,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    DataRefused,
    Interrupted,
    InvalidRequest,
    LlmctlError,
    NotFound,
    Overloaded,
    PermissionRefused,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    Unpriced,
)
from llmctl.gateway.dialect import Failure

_BAD_GATEWAY = 502
_STATUSES: tuple[tuple[type[CallError], int], ...] = (
    (ContextTooLong, 400),
    (ContentFiltered, 400),
    (DataRefused, 403),
    (NotFound, 404),
    (RateLimited, 429),
    (ProviderDown, 503),
    (Overloaded, 503),
    (QuotaExhausted, 503),
    (CallTimeout, 504),
    (Cancelled, 503),
    (InvalidRequest, 400),
)
"""Everything else that befell the call behind the gateway is a bad gateway."""

_HIDDEN: dict[type[CallError], str] = {
    AuthFailed: "the gateway's own key was refused by the provider: tell whoever runs it",
    PermissionRefused: "the gateway's own key may not do this at the provider: tell whoever runs "
    "it, or ask for another model",
    QuotaExhausted: "the gateway's account at the provider is used up: tell whoever runs it",
    NotFound: "the provider has no such model",
    Cancelled: "the gateway is being stopped: try again",
    ConnectionFailed: "there is no connection to the provider: try again later, or ask for another "
    "model",
    CallTimeout: "the provider took too long: try again, or ask for a shorter answer",
}
"""Of these the program's own sentence tells more than a caller should know."""

_FIELD = re.compile(r"`([\w.\[\]-]+)`")  # with which the refusal of one begins

_RETRY = 1.0  # seconds, for what passes soon


class Refused(LlmctlError):
    """The gateway itself refuses a request: `failure` is what the caller hears, `reason` what the
    log says."""

    def __init__(self, failure: Failure, reason: str = "") -> None:
        super().__init__(reason or failure.message)
        self.failure = failure


def refused(
    status: int, kind: str, message: str, *, retry_after: float | None = None, reason: str = ""
) -> Refused:
    """The error of a request that the gateway refuses."""
    return Refused(Failure(status, kind, message, retry_after), reason)


def failure_of(error: CallError, now: float) -> Failure:
    """What a caller is told of a call that failed; `now` in seconds since the epoch."""
    if isinstance(error, BudgetRefused):
        return _of_budget(error, now)
    kind, message = error.row_type, _sentence(error)
    status = next((status for of, status in _STATUSES if isinstance(error, of)), _BAD_GATEWAY)
    if isinstance(error, InvalidRequest) and error.http_status in (413, 415, 422):
        status = error.http_status
    wait = error.retry_after
    if wait is None and status in (429, 503):
        wait = _RETRY
    field = _FIELD.match(message) if isinstance(error, InvalidRequest) else None
    return Failure(status, kind, message, wait, field[1] if field else None)


def _sentence(error: CallError) -> str:
    """What befell the call, in words for a caller."""
    if isinstance(error, Interrupted) and error.cause is not None:
        return f"the answer broke off: {_sentence(error.cause)}"
    cause = error.cause if isinstance(error, ProviderDown) and error.cause else error
    for of, sentence in _HIDDEN.items():
        if isinstance(cause, of):
            return sentence
    if isinstance(error, DataRefused):  # its own sentence names profiles
        return (
            f"where data may go is limited here ({error.rule}), and the model asked for is not "
            "there: ask for another"
        )
    if isinstance(error, ProviderDown):
        return "the provider is down: try again later, or ask for another model"
    if 300 <= (error.http_status or 0) < 400:
        return "the provider has moved: tell whoever runs the gateway"
    return error.message


def _of_budget(error: BudgetRefused, now: float) -> Failure:
    """A cap that is used up, or that the call does not fit into."""
    window = error.window
    if isinstance(error, Unpriced):
        sentence = "the gateway does not know the model's price, so no cap of dollars can hold it: "
        return Failure(402, "budget", f"{sentence}ask for another, or tell whoever runs it")
    if window is None:
        return Failure(402, "budget", error.message)
    name = f"the cap of ${window.limit:f} ({window.name})"
    ends = max(_RETRY, window.end / 1000 - now)
    if error.retryable:  # held by calls under way
        held = f"{name} is held by calls under way: try again"
        return Failure(429, "budget", held, error.retry_after or _RETRY)
    if error.fatal_to_run:
        return Failure(402, "budget", f"{name} is used up: it begins anew in {ends:.0f} s", ends)
    return Failure(402, "budget", f"the call may cost more than all of {name}: lower max_tokens")
