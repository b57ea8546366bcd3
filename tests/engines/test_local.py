"""The asyncio workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator

import pytest
from msgspec.structs import replace

from llmctl.engines.local import LocalEngine
from llmctl.errors import DiskError, ServerFailed
from llmctl.guards.sending import Sending
from llmctl.inflight import InFlight
from llmctl.protocols import Emit
from llmctl.shutdown import DRAIN, Stop
from llmctl.types import Answer, Request
from tests.support import FakeClock, request, response


class Counting:
    """A handler that takes `seconds` and knows how many calls were in flight at most."""

    def __init__(self, clock: FakeClock, seconds: float = 1.0) -> None:
        self._clock, self._seconds = clock, seconds
        self.now = self.most = self.done = self.cancelled = 0

    async def __call__(self, asked: Request, _: object) -> Answer:
        """Answer after a while; every third row fails."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._clock.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        self.done += 1
        if asked.index % 3 == 2:
            raise ServerFailed("every third")
        return response()


class Ready:
    """A handler that gets a row ready in half a second, sends it through `in_flight`, for one and
    a half and every third time in vain, and writes its line in another half. The answers of
    `kept` rows are there. It knows how many rows it had at most, and how many of them between
    their being sent and their line."""

    def __init__(
        self, clock: FakeClock, in_flight: InFlight, kept: frozenset[int] = frozenset()
    ) -> None:
        self._clock, self._kept = clock, kept
        self._send = Sending(self._wire, in_flight)
        self.now = self.most = self.most_at_work = self.under_way = 0
        self.sent: list[int] = []
        self.ended: dict[int, float] = {}

    async def __call__(self, asked: Request, emit: Emit | None) -> Answer:
        """From a row to its line."""
        self.now += 1
        self.most_at_work = max(self.most_at_work, self.now)
        try:
            await self._clock.sleep(0.5)
            if asked.index in self._kept:
                return response()
            return await self._send(asked, emit)
        finally:
            if asked.index in self.sent:
                await self._clock.sleep(0.5)
                self.under_way -= 1
            self.now -= 1
            self.ended[asked.index] = self._clock.now - 1000

    async def _wire(self, asked: Request, _: Emit | None) -> Answer:
        self.sent.append(asked.index)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self._clock.sleep(1.5)
        if asked.index % 3 == 2:
            raise ServerFailed("every third")
        return response()


async def limited(work: Awaitable[None]) -> None:
    """Not for ever: on a clock that jumps, who waits in vain does so at full speed."""
    async with asyncio.timeout(20):
        await work


def rows(n: int, drawn: list[int] | None = None) -> Iterator[Request]:
    """`n` requests; `drawn` gets the index of each as it is taken."""
    for index in range(n):
        if drawn is not None:
            drawn.append(index)
        yield replace(request(), index=index)


def test_all_rows_are_dealt_with_and_concurrency_holds() -> None:
    """Every row is handled once, failures included, and never more than the limit at a time."""
    clock = FakeClock()
    handler = Counting(clock)
    clock.run(LocalEngine(7, Stop(), clock).run(rows(100), handler))
    assert (handler.done, handler.most) == (100, 7)


def test_nothing_is_read_ahead() -> None:
    """No more rows have been drawn than are done or in flight."""
    clock, drawn = FakeClock(), list[int]()
    ahead: list[int] = []

    class Watching(Counting):
        async def __call__(self, asked: Request, emit: object) -> Answer:
            ahead.append(len(drawn) - self.done - self.now)
            return await super().__call__(asked, emit)

    clock.run(LocalEngine(3, Stop(), clock).run(rows(30, drawn), Watching(clock)))
    assert max(ahead) <= 3


def test_a_stop_lets_what_is_in_flight_finish() -> None:
    """After a stop nothing new is sent and the calls in flight end on their own."""
    clock, stop = FakeClock(), None

    async def run() -> Counting:
        stop = Stop()
        handler = Counting(clock)
        running = asyncio.ensure_future(LocalEngine(5, stop, clock).run(rows(100), handler))
        await clock.sleep(1.5)
        stop.ask()
        await running
        return handler

    assert stop is None
    handler = clock.run(run())
    assert (handler.done, handler.cancelled) == (10, 0)


def test_draining_ends_after_its_time() -> None:
    """Calls that do not finish within the drain time are cancelled, and the run returns."""
    clock = FakeClock()

    async def run() -> Counting:
        stop = Stop()
        handler = Counting(clock, seconds=1000)
        running = asyncio.ensure_future(LocalEngine(5, stop, clock).run(rows(100), handler))
        await clock.sleep(1)
        stop.ask()
        await running
        return handler

    handler = clock.run(run())
    assert handler.cancelled == 5
    assert clock.now - 1000 == pytest.approx(1 + DRAIN)


def test_a_second_stop_does_not_wait() -> None:
    """Told to stop at once, the engine gives up what is in flight."""
    clock = FakeClock()

    async def run() -> float:
        stop = Stop()
        running = asyncio.ensure_future(
            LocalEngine(5, stop, clock).run(rows(100), Counting(clock, seconds=1000))
        )
        await clock.sleep(1)
        stop.ask()
        await clock.sleep(1)
        stop.at_once()
        await running
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(2)


def test_a_disk_error_ends_the_run_at_once() -> None:
    """An error that is not a call's own stops the dispatch and is raised."""
    clock = FakeClock()
    started = 0

    class Full:
        async def __call__(self, _: Request, __: object) -> Answer:
            nonlocal started
            started += 1
            await clock.sleep(1)
            raise DiskError("full")

    with pytest.raises(DiskError):
        clock.run(LocalEngine(4, Stop(), clock).run(rows(100), Full()))
    assert started == 4


def test_rows_get_ready_while_others_are_under_way() -> None:
    """Never more than five rows are between their being sent and their line, failed ones
    included. Four more get ready meanwhile: it takes 2 s and not 2.5 for each five, once they
    no longer all come at the same time."""
    clock, stop = FakeClock(), Stop()
    in_flight = InFlight(5, stop)
    handler = Ready(clock, in_flight)
    engine = LocalEngine(in_flight.tasks, stop, clock, in_flight)
    clock.run(limited(engine.run(rows(100), handler)))
    assert sorted(handler.sent) == list(range(100))
    assert (handler.most, handler.most_at_work) == (5, 9)
    assert 0.5 + 100 / 5 * 2 <= clock.now - 1000 < 0.5 + 100 / 5 * 2 + 2


def test_rows_that_are_not_sent_take_no_place() -> None:
    """Kept answers pass by the one row that is under way."""
    clock, stop = FakeClock(), Stop()
    in_flight = InFlight(1, stop)
    handler = Ready(clock, in_flight, frozenset(range(1, 4)))
    engine = LocalEngine(2, stop, clock, in_flight)
    clock.run(limited(engine.run(rows(6), handler)))
    assert handler.ended == pytest.approx({1: 0.5, 2: 1, 3: 1.5, 0: 2.5, 4: 4.5, 5: 6.5})


def test_a_stop_sends_no_row_that_is_ready() -> None:
    """Rows under way end on their own; those that wait for a place are not sent after them."""
    clock = FakeClock()

    async def run() -> Ready:
        stop = Stop()
        in_flight = InFlight(4, stop)
        handler = Ready(clock, in_flight)
        engine = LocalEngine(in_flight.tasks, stop, clock, in_flight)
        running = asyncio.ensure_future(engine.run(rows(100), handler))
        await clock.sleep(1)
        assert handler.now == 7
        stop.ask()
        await limited(running)
        return handler

    handler = clock.run(run())
    assert sorted(handler.sent) == [0, 1, 2, 3]
    assert sorted(handler.ended) == list(range(7))
    assert clock.now - 1000 == pytest.approx(2.5)
