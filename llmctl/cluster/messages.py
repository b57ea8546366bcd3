"""What driver, nodes and governor send each other: msgpack, never a pickle of ours.

No message holds a key: profiles name where a key is, and each node looks there itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from llmctl import errors
from llmctl.config.settings import Budget, Period, Profile
from llmctl.errors import CallError, LlmctlError
from llmctl.protocols import (
    BudgetDenied,
    BudgetUsage,
    BudgetWindow,
    CachedAnswer,
    Claim,
    Lease,
    ProcessStatus,
    Quota,
)
from llmctl.storage.process import Process
from llmctl.types import Answer, Billed, CallRecord, Request, RouteDecision, Summary, Usage

T = TypeVar("T")

MOST_ROWS = 256
"""Rows, records or questions of one message."""

MOST_BYTES = 1 << 20
"""Bytes of one message; a larger row goes alone."""


def encode(message: object) -> bytes:
    """The message as bytes."""
    return msgspec.msgpack.encode(message, enc_hook=str)


def decode(data: bytes | Raw, kind: type[T]) -> T:
    """The message that the bytes are."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_made)


def _made(kind: type, value: Any) -> Any:
    return kind(value)


# Errors.


class Failure(Struct, frozen=True, omit_defaults=True):
    """An error as it travels: the name of its class in `errors.py`, and its attributes."""

    name: str
    message: str
    exit_code: int = 1
    http_status: int | None = None
    provider_request_id: str | None = None
    retry_after: float | None = None
    retryable: bool = False
    ambiguous: bool = False
    sent: bool = True
    cause: Failure | None = None
    attempts: int = 0
    uncertain: int = 0
    limited: int = 0
    elsewhere: int = 0
    refused_for: float = 0.0
    held: bool = False
    excused: bool = False
    kept_ended: bool = False
    route: RouteDecision | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    earlier: tuple[Billed, ...] = ()
    text: str | None = None
    summary: Summary | None = None
    server_time: float | None = None
    rule: str = ""
    window: BudgetWindow | None = None
    reached: bool = False

    @classmethod
    def of(cls, error: LlmctlError) -> Failure:
        """How the error travels."""
        known = (each for each in type(error).__mro__ if each.__module__ == errors.__name__)
        said = {name: getattr(error, name) for name in _SAID if hasattr(error, name)}
        if said.get("cause") is not None:
            said["cause"] = cls.of(said["cause"])
        return cls(next(known).__name__, error.message, **said)

    def error(self) -> LlmctlError:
        """The error itself."""
        kind = getattr(errors, self.name)
        made: LlmctlError = kind.__new__(kind, self.message)
        if isinstance(made, CallError):
            made.__dict__.update({name: getattr(self, name) for name in _SAID})
            made.cause = None if self.cause is None else _call_error(self.cause)
            made.request = None
        if self.exit_code != kind.exit_code:
            made.exit_code = self.exit_code
        return made


_SAID = tuple(name for name in Failure.__struct_fields__ if name not in {"name", "message"})


def _call_error(failure: Failure) -> CallError:
    error = failure.error()
    assert isinstance(error, CallError)
    return error


# Rows and their records.


class BudgetRule(Struct, frozen=True):
    """A budget as it travels: what matches by a tag is no key of a file any more."""

    name: str
    limit: Decimal
    period: Period
    warn_at: tuple[Decimal, ...]
    match: Mapping[str, str]

    @classmethod
    def of(cls, budget: Budget) -> BudgetRule:
        """How the budget travels."""
        return cls(*msgspec.structs.astuple(budget))

    @property
    def budget(self) -> Budget:
        """The budget itself."""
        return Budget(*msgspec.structs.astuple(self))


class Setup(Struct, frozen=True, kw_only=True):
    """What a node must know to answer rows. `own` is the budget of the run, by `--budget`;
    `concurrency` are calls in flight on each node."""

    version: str
    run_id: str
    user: str
    profile: Profile
    fallbacks: tuple[Profile, ...]
    routed: tuple[Profile, ...]
    own: BudgetRule | None
    budgets: tuple[BudgetRule, ...]
    schema_retries: int
    concurrency: int


class Pause(Struct, frozen=True, tag=True):
    """A provider wants peace: nothing goes to `model` by way of `profile` for so many seconds."""

    profile: str
    model: str
    seconds: float


class Outage(Struct, frozen=True, tag=True):
    """The circuit of a profile has opened on a node; `reached`: the provider had answered it."""

    profile: str
    reached: bool


class Rows(Struct, frozen=True, omit_defaults=True):
    """From the driver to a node: further rows, each an encoded `Request`, pauses and outages of
    other nodes, the numbers of records that are `durable`, and whether to `stop`: the error of what
    is not sent then. `at_once`: what is in flight is given up."""

    rows: tuple[Raw, ...] = ()
    pauses: tuple[Pause | Outage, ...] = ()
    durable: tuple[int, ...] = ()
    stop: Failure | None = None
    at_once: bool = False


class Ended(Struct, frozen=True, omit_defaults=True):
    """The record of a call: `number` is what the driver says once it is durable. `row` is the call
    id that the row came with; empty for a call that answers no row. `request` and `asked` are those
    of the record where they are not the row's own. `ledger_started`: when it counts as begun in the
    ledger; `held`: the dollars it was held at, an attempt, and how many attempts."""

    number: int
    row: str
    request: Request | None
    asked: Request | None
    answer: Answer | None
    failure: Failure | None
    usage: Usage
    cost: Decimal | None
    saved: Decimal | None
    started: float
    ledger_started: float
    elapsed: float
    first_token: float | None
    uncertain: int = 0
    worst: Decimal | None = None
    routed_saved: Decimal | None = None
    provider_saved: Decimal | None = None
    held: tuple[Decimal | None, int] | None = None

    @classmethod
    def of(
        cls,
        number: int,
        record: CallRecord,
        row: Request | None,
        ledger_started: float,
        held: tuple[Decimal | None, int] | None,
    ) -> Ended:
        """How the record of the row travels; `row` None: of another call."""
        result, request = record.result, record.request
        answer = copy.copy(result) if isinstance(result, Answer) else None
        if answer is not None and answer.request is not None:
            answer = msgspec.structs.replace(answer, request=None)
        return cls(
            number,
            "" if row is None else row.call_id,
            None if request is row else request,
            None if row is not None else record.asked,
            answer,
            Failure.of(result) if isinstance(result, CallError) else None,
            record.usage,
            record.cost,
            record.saved,
            record.started,
            ledger_started,
            record.elapsed,
            record.first_token,
            record.uncertain,
            record.worst,
            record.routed_saved,
            record.provider_saved,
            held,
        )

    def record(self, row: Request | None) -> CallRecord:
        """The record, of the row as the driver knows it."""
        request, asked = self.request, self.asked
        if row is not None and request is not None:
            request = msgspec.structs.replace(request, kept=row.kept, masked=row.masked)
            asked = row
        result = self.answer if self.failure is None else _call_error(self.failure)
        request = request or row
        assert request is not None
        assert result is not None
        return CallRecord(
            request,
            result,
            self.usage,
            self.cost,
            self.saved,
            self.started,
            self.elapsed,
            self.first_token,
            self.uncertain,
            self.worst,
            asked=asked,
            routed_saved=self.routed_saved,
            provider_saved=self.provider_saved,
        )


class Note(Struct, frozen=True):
    """A sentence for the user; `warning`: also where nothing else is said."""

    text: str
    warning: bool = False


class Records(Struct, frozen=True, omit_defaults=True):
    """From a node to the driver. `waits` is what calls wait for there; `over`: nothing comes any
    more, and the rows of these call ids (`left`) were not begun. `failure` ends the run."""

    ended: tuple[Ended, ...] = ()
    notes: tuple[Note, ...] = ()
    pauses: tuple[Pause | Outage, ...] = ()
    waits: str | None = None
    over: bool = False
    left: tuple[str, ...] = ()
    failure: Failure | None = None


# What nodes ask the governor.


class Files(Struct, frozen=True, kw_only=True):
    """What the governor keeps for the run, in the driver's own files: `driver` is its process, and
    `cache` None where no answers are kept; `size` as in `SqliteCache`."""

    run_id: str
    user: str
    driver: Process
    ledger: Path
    limits: Path
    cache: Path | None
    size: int | None
    encrypt: bool


class Question(Struct, frozen=True):
    """A verb of `Coordinator`, with its encoded arguments."""

    verb: str
    arguments: Raw


class Granted(Struct, frozen=True, omit_defaults=True):
    """What a lease came to: one of the three."""

    wait: float | None = None
    quota: Quota | None = None
    denied: BudgetDenied | None = None


VERBS: Mapping[str, tuple[Any, Any]] = {
    "lease": (tuple[Lease], Granted),
    "extend": (tuple[ProcessStatus], None),
    "report": (tuple[str, float], None),
    "usage": (tuple[BudgetWindow], BudgetUsage),
    "used": (tuple[str, int], int),
    "get_many": (tuple[tuple[str, ...]], dict[str, CachedAnswer]),
    "put": (tuple[str, CachedAnswer], None),
    "claim": (tuple[str], Claim),
    "release": (tuple[str], None),
}
"""The types of each verb's arguments, and of what it gives."""


class Reply(Struct, frozen=True, omit_defaults=True):
    """What one question came to: an encoded value, or why there is none."""

    value: Raw = Raw(b"\xc0")
    failure: Failure | None = None
