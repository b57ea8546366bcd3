"""A prepared batch, driven through a handler to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from msgspec import Struct

from llmctl.batch.answers import Format
from llmctl.batch.ordered import reorder
from llmctl.batch.prepare import Prepared
from llmctl.batch.records import record
from llmctl.batch.write import Appender, Durable, ErrorsFile, Sink, Stdout
from llmctl.clock import Clock
from llmctl.engines.local import LocalEngine
from llmctl.engines.queued import Queued
from llmctl.engines.source import Sifted
from llmctl.errors import BudgetExhausted, CallError, Cancelled
from llmctl.inflight import InFlight
from llmctl.observers.ledger_observer import SettlingBehind
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Chain, ManyObserver, Observer
from llmctl.shutdown import Stop
from llmctl.storage.files import disk
from llmctl.types import CallRecord, Request, Usage

_CHUNK = 1000


class Files(Struct, frozen=True):
    """Where the records of a batch go."""

    answers: Sink
    errors: Sink

    def check(self) -> None:
        """Raises what has kept a record from being written."""
        self.answers.check()
        self.errors.check()

    async def close(self) -> None:
        """Give both back."""
        await self.answers.close()
        await self.errors.close()


class Writer(Struct, frozen=True):
    """An observer that writes every outcome's record where it belongs; durable when it returns.

    An answer is `in_flight` no more as soon as it is. A failure may be what ends the run: its
    place is not free before all observers have seen it.
    """

    files: Files
    format: Format
    in_flight: InFlight

    async def __call__(self, outcome: CallRecord) -> None:
        """Append the record. Raises `DiskError`, or `BrokenPipeError` for stdout."""
        line = record(outcome, self.format)
        if outcome.ok:
            await self.files.answers.append(line, self.in_flight.leaving())
        else:
            await self.files.errors.append(line)

    async def many(self, outcomes: Sequence[CallRecord]) -> None:
        """Append the records with one write to each file. Raises as for one."""
        for sink, ok in ((self.files.answers, True), (self.files.errors, False)):
            lines = [record(o, self.format) for o in outcomes if o.ok is ok]
            if lines:
                await sink.append(b"".join(lines))


@dataclass(slots=True)
class Limits:
    """An observer that ends the run when going on makes no sense: after an error that every
    other call would meet too, or once more than `allowed` rows have failed."""

    stop: Stop
    tally: Tally
    allowed: int | None = None
    because: CallError | None = None

    async def __call__(self, outcome: CallRecord) -> None:
        """Look at how one call ended."""
        error = outcome.result
        if not isinstance(error, CallError) or self.because is not None:
            return
        if error.fatal_to_run or (self.allowed is not None and self.tally.failed > self.allowed):
            self.because = error
            self.stop.ask(self.unsent)

    def unsent(self) -> CallError:
        """The error of the rows that were not sent because of it."""
        error = self.because
        if isinstance(error, BudgetExhausted):
            return BudgetExhausted(f"not sent: {error.message}", sent=False)
        if error is not None and error.fatal_to_run:
            return type(error)(
                f"not sent, because another row failed: {error.message}",
                http_status=error.http_status,
                sent=False,
            )
        return Cancelled("not sent: the run stopped after too many errors", sent=False)


class Recorded(Struct, frozen=True):
    """Tells `observer` of the rows that have a record: not of those that were getting ready when
    the run was stopped from outside, and not by `limits`; they are sent next time."""

    observer: ManyObserver
    limits: Limits

    async def __call__(self, outcome: CallRecord) -> None:
        """Pass on how one call ended, if it was one. Raises what the observer does."""
        result = outcome.result
        if isinstance(result, Cancelled) and not result.sent and self.limits.because is None:
            return
        await self.observer(outcome)

    async def many(self, outcomes: Sequence[CallRecord]) -> None:
        """Pass on kept answers. Raises what the observer does."""
        await self.observer.many(outcomes)


def open_files(batch: Prepared) -> Files:
    """The files (or streams) that the batch's records go to."""
    answers: Sink
    errors: Sink
    if batch.output is None:
        answers, errors = Stdout(), Stdout(2, "stderr")
    else:
        path = batch.errors
        assert path is not None
        answers, errors = Appender(Durable(batch.output)), ErrorsFile(path)
    return Files(answers, errors)


async def drive(
    batch: Prepared,
    make_handler: Callable[[Sequence[Observer], InFlight], Chain],
    call_id: Callable[[], str],
    settle: SettlingBehind,
    tally: Tally,
    stop: Stop,
    clock: Clock,
    *,
    allowed_errors: int | None,
    prepare: Callable[[], None] | None = None,
) -> CallError | None:
    """Send what has no answer yet; gives the error that ended the run early, if one did.
    `prepare` is called before the first call, if there is one.

    The order of durability is the order of the observers: a row is in the output, then in the
    ledger, then counted. When the run ends on its own every row has its record: what was not
    sent is an error row. After a stop from outside the rest has none, and is sent next time.
    Raises `DiskError` and `BrokenPipeError`.
    """
    files = open_files(batch)
    limits = Limits(stop, tally, allowed_errors)
    at_once = batch.job.profile.limits.concurrency

    def check() -> None:
        files.check()
        settle.check()

    in_flight = InFlight(at_once, stop, check)
    writer = Writer(files, batch.job.format, in_flight)
    observers: list[Observer] = [Recorded(writer, limits), settle, Recorded(tally, limits), limits]
    handler = make_handler(observers, in_flight)

    def stopped() -> bool:
        return stop.asked

    sifted = Sifted(batch.requests(call_id), handler, stopped, prepare, at_once, clock)
    source = Queued(sifted, handler, stopped, in_flight.tasks, clock)
    try:
        engine = LocalEngine(in_flight.tasks, stop, clock, in_flight)
        try:
            await engine.run(source, handler)
        finally:
            await source.close()
        if limits.because is not None:
            await _give_up(source.rest(), limits.unsent(), writer, tally, clock)
    finally:
        try:
            await handler.finish()
        finally:
            await files.close()
    if batch.job.ordered and batch.output is not None and (limits.because or not stop.asked):
        await asyncio.to_thread(reorder, batch.output, batch.index, batch.job.format)
    return limits.because


def nothing_to_send(batch: Prepared) -> None:
    """Leave the files as a run would that had rows to send and no failure. Raises `DiskError`."""
    if batch.output is None or batch.errors is None:
        return
    with disk("remove", batch.errors):
        batch.errors.unlink(missing_ok=True)
    if batch.job.ordered:
        reorder(batch.output, batch.index, batch.job.format)


async def _give_up(
    rest: Iterator[Request], error: CallError, writer: Writer, tally: Tally, clock: Clock
) -> None:
    """Write error rows for the rows that will not be sent."""
    while chunk := list(islice(rest, _CHUNK)):
        outcomes = [
            CallRecord(request, error, Usage(), Decimal(0), None, clock.wall(), 0.0, None)
            for request in chunk
        ]
        await asyncio.gather(*(writer(outcome) for outcome in outcomes))
        for outcome in outcomes:
            tally.add(outcome)
