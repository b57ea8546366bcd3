"""Every call is timed, priced and handed over once, whatever becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal

import pytest

from llmctl.errors import CallError, CallTimeout, Cancelled, DiskError, Interrupted, ServerFailed
from llmctl.guards.accounting import accounting
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Handler
from llmctl.types import Answer, CallRecord, Request, StreamChunk, Usage
from tests.guards.fakes import FakeCosts
from tests.support import FakeClock, Scripted, request, response


def recorded(inner: Handler, records: list[CallRecord], clock: FakeClock | None = None) -> Handler:
    """The guard, and where its records go."""

    async def note(record: CallRecord) -> None:
        records.append(record)

    clock = clock or FakeClock()
    return accounting(inner, note, clock, FakeCosts(clock))


def test_an_answer_is_timed_and_priced() -> None:
    """Seconds since its beginning, to the first token and in all; dollars by usage."""
    clock, records = FakeClock(), list[CallRecord]()

    async def slow(_: Request, emit: object) -> Answer:
        assert callable(emit)
        await clock.sleep(1)
        emit(StreamChunk("h"))
        await clock.sleep(2)
        emit(StreamChunk("i"))
        return response("hi")

    clock.run(recorded(slow, records, clock)(request(), lambda _: None))
    (record,) = records
    assert (record.started, record.first_token, record.elapsed) == (1_800_000_000, 1, 3)
    assert (record.cost, record.saved, record.ok) == (Decimal(2), None, True)


BILLED = ServerFailed("x")
BILLED.usage = Usage(output=7)


@pytest.mark.parametrize(
    ("result", "cost", "saved"),
    [
        (response(cache="hit"), 0, 2),  # what kept answers would have cost
        (response(cache="shared"), 0, 2),
        (BILLED, 7, None),  # a refusal
        (ServerFailed("x"), 0, None),  # surely not served
        (CallTimeout("late"), 0, None),
    ],
)
def test_what_was_billed(result: Answer | CallError, cost: int, saved: int | None) -> None:
    """Only what the provider may have charged for this call is its cost."""
    records: list[CallRecord] = []
    with suppress(CallError):
        asyncio.run(recorded(Scripted(result), records)(request(), None))
    assert records[0].cost == cost
    assert records[0].saved == saved


@pytest.mark.parametrize("end", [Interrupted(ServerFailed("x")), CancelledAfterSending()])
def test_a_stream_that_broke_off_counts_what_was_received(end: BaseException) -> None:
    """Marked as estimated, whether the connection broke or the user pressed Ctrl-C: of a stream
    something is known, so it is not held in full as a call whose end nobody knows."""
    records: list[CallRecord] = []

    async def breaks(_: Request, emit: object) -> Answer:
        assert callable(emit)
        emit(StreamChunk("hell"))
        raise end

    with pytest.raises(type(end)):
        asyncio.run(recorded(breaks, records)(request(), lambda _: None))
    (record,) = records
    assert (record.usage, record.cost) == (Usage(output=4, estimated=True), Decimal(4))
    assert record.first_token is not None


def test_a_stream_that_broke_off_counts_the_usage_it_had_said() -> None:
    """Case 51: what was read of the bill before the stream broke is not dropped for less."""
    records: list[CallRecord] = []
    end = Interrupted(ServerFailed("x"))
    end.usage = Usage(input=9, output=7)

    with suppress(CallError):
        asyncio.run(recorded(Scripted(end), records)(request(), None))
    assert records[0].usage == Usage(9, 7, estimated=True)
    assert records[0].cost == 7


@pytest.mark.parametrize(
    ("end", "attempts", "ambiguous"),
    [
        (asyncio.CancelledError(), 0, False),
        (CancelledAfterSending(attempts=3, uncertain=2), 3, True),
        (CancelledAfterSending(attempts=1, uncertain=0), 1, False),
    ],
)
def test_a_cancelled_call_is_recorded(
    end: BaseException, attempts: int, *, ambiguous: bool
) -> None:
    """One that was never sent is free; one that was is in doubt, with its attempts."""
    records: list[CallRecord] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(recorded(Scripted(end), records)(request(), None))
    error = records[0].result
    assert isinstance(error, Cancelled)
    assert (error.attempts, error.ambiguous) == (attempts, ambiguous)


def test_a_record_is_handed_over_even_when_the_call_is_cancelled_meanwhile() -> None:
    """The answer was paid for: its record is dealt with."""
    clock, seen = FakeClock(), list[str]()

    async def sink(_: CallRecord) -> None:
        await clock.sleep(1)
        seen.append("recorded")

    async def run() -> None:
        guard = accounting(Scripted(response()), sink, clock, FakeCosts(clock))
        call = asyncio.ensure_future(guard(request(), None))
        await clock.sleep(0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert seen == ["recorded"]

    clock.run(run())


def test_what_the_sink_raises_ends_the_call() -> None:
    """A full disk is not hidden behind an answer."""

    async def full(_: CallRecord) -> None:
        raise DiskError("full")

    guard = accounting(Scripted(response()), full, FakeClock(), FakeCosts(FakeClock()))
    with pytest.raises(DiskError):
        asyncio.run(guard(request(), None))
