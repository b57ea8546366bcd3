"""The asyncio workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from llmctl.engines.local import LocalEngine
from llmctl.errors import DiskError, ServerFailed
from llmctl.guards.sending import Sending
from llmctl.inflight import InFlight
from llmctl.protocols import Emit
from llmctl.stopping import DRAIN, Stop
from llmctl.types import Request, Response
from tests.support import FakeClock, request, response


class Counting:
    """A handler that takes `seconds` and knows how many calls were in flight at most."""

    def __init__(self, clock: FakeClock, seconds: float = 1.0) -> None:
        self._clock, self._seconds = clock, seconds
        self.now = self.most = self.done = self.cancelled = 0

    async def __call__(self, asked: Request, _: object) -> Response:
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
    """Gets a row ready in half a second, has it sent through `in_flight` by a handler that takes
    two, every third time in vain; of the rows in `kept` the answer is there."""

    def __init__(self, clock: FakeClock, in_flight: InFlight, kept: frozenset[int]) -> None:
        self._clock, self._kept = clock, kept
        self.wire = Counting(clock, seconds=1.5)
        self._send = Sending(self.wire, in_flight)
        self.at_work = self.most_at_work = self.under_way = self.most_under_way = 0
        self.ended: dict[int, float] = {}

    async def __call__(self, asked: Request, emit: Emit | None) -> Response:
        """The row is under way until its line is written, half a second after its call."""
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self._clock.sleep(0.5)
            return response() if asked.index in self._kept else await self._sent(asked, emit)
        finally:
            self.at_work -= 1
            self.ended[asked.index] = self._clock.now - 1000

    async def _sent(self, asked: Request, emit: Emit | None) -> Response:
        try:
            return await self._send(asked, emit)
        finally:
            self.under_way = self.wire.now + 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            await self._clock.sleep(0.5)


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
        async def __call__(self, asked: Request, emit: object) -> Response:
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
        async def __call__(self, _: Request, __: object) -> Response:
            nonlocal started
            started += 1
            await clock.sleep(1)
            raise DiskError("full")

    with pytest.raises(DiskError):
        clock.run(LocalEngine(4, Stop(), clock).run(rows(100), Full()))
    assert started == 4
