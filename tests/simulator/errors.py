"""Faults that are an answer of their own: error statuses, redirects. None of them is billed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import partial
from time import time
from typing import Literal

from .call import Call
from .fault import Fault
from .http1 import Answer
from .reply import Problem
from .wires.wire import Wire, dump

JSON = ("content-type", "application/json")


@dataclass(frozen=True, kw_only=True)
class Status(Fault):
    """An HTTP status with the provider's own error body.

    `headers` are added as they are (`{key}` becomes the client's key); `retry_date` adds a
    Retry-After with the HTTP date so many seconds from the moment of answering.
    """

    status: int
    problem: Problem
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_date: float | None = None

    @property
    def name(self) -> str:
        """`Status 429 rate_limit_exceeded`."""
        return f"Status {self.status} {self.problem.code or self.problem.type}"

    def instead(self, call: Call, wire: Wire) -> Answer:
        """Give the error."""
        key = call.api_key or ""
        given = self.problem
        extra = {name: value.replace("{key}", key) for name, value in self.headers.items()}
        if self.retry_date is not None:
            extra["retry-after"] = formatdate(time() + self.retry_date, usegmt=True)
        said = given.message.replace("{key}", key)
        problem = replace(given, message=said, wait=extra.get("retry-after"))
        code, body = wire.refuse(self.status, problem)
        shown = (pair for pair in extra.items() if pair[0] not in wire.unsaid)
        return Answer(code, (JSON, *shown), (dump(body),))


@dataclass(frozen=True, kw_only=True)
class Redirect(Fault):
    """A redirect to another place, which a careful client does not follow."""

    location: str
    status: int = 302

    def instead(self, call: Call, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Give the redirect, without a body."""
        return Answer(self.status, (("location", self.location),), ())


def status(code: int, message: str | None = None, *, delay: float = 0.0) -> Status:
    """Any status without further meaning: 500, 503, 529, 418; `delay` in seconds."""
    kind = "server_error" if code >= 500 else "invalid_request_error"
    return Status(status=code, problem=Problem(message or f"status {code}", kind), delay=delay)


def rate_limited(
    retry_after: float | str | None = None, *, form: Literal["seconds", "ms", "date"] = "seconds"
) -> Status:
    """429 that passes by itself.

    `retry_after` in seconds goes out as `retry-after` seconds, as `retry-after-ms`, or as an HTTP
    date; a text goes out as it is (`"NaN"`, `"1e9"`); None sends no such header.
    """
    problem = Problem("Rate limit reached", "requests", "rate_limit_exceeded")
    if form == "date" and retry_after is not None:
        return Status(status=429, problem=problem, retry_date=float(retry_after))
    headers: dict[str, str] = {}
    if isinstance(retry_after, str):
        headers["retry-after"] = retry_after
    elif retry_after is not None and form == "ms":
        headers["retry-after-ms"] = f"{retry_after * 1000:.0f}"
    elif retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    return Status(status=429, problem=problem, headers=headers)


def out_of_quota() -> Status:
    """429 that no waiting cures: the account is used up."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return Status(status=429, problem=Problem(message, "insufficient_quota", "insufficient_quota"))


def context_too_long() -> Status:
    """400 because the prompt is longer than the model's window."""
    message = "This model's maximum context length is 128000 tokens."
    problem = Problem(message, "invalid_request_error", "context_length_exceeded", "messages")
    return Status(status=400, problem=problem)


def unauthorized(*, echo_key: bool = False) -> Status:
    """401; with `echo_key` the body carries the client's whole key, which must not be shown."""
    shown = "{key}" if echo_key else "sk-****"
    message = f"Incorrect API key provided: {shown}."
    problem = Problem(message, "invalid_request_error", "invalid_api_key")
    return Status(status=401, problem=problem)


_GONE = "The model does not exist or you do not have access to it."
payment_required = partial(Status, status=402, problem=Problem("No credits", "billing_error"))
forbidden = partial(Status, status=403, problem=Problem("Not this model", "permission_error"))
model_not_found = partial(
    Status, status=404, problem=Problem(_GONE, "invalid_request_error", "model_not_found", "model")
)
server_error = partial(status, 500, "The server had an error while processing your request.")
unavailable = partial(status, 503, "The engine is currently overloaded, please try again later.")
overloaded = partial(Status, status=529, problem=Problem("Overloaded", "overloaded_error"))
