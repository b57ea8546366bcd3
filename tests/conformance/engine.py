"""What every engine promises, whatever drives it: run by each engine's own test module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

from llmctl.errors import DiskError, ServerFailed
from llmctl.protocols import Emit, Engine
from llmctl.shutdown import DRAIN, Stop
from llmctl.types import Answer, CallRecord, Request
from tests.support import FakeClock, request, response


async def nothing(_: CallRecord) -> None:
    """A sink for handlers that keep their own records."""


async def rows(number: int, drawn: list[int] | None = None) -> AsyncIterator[Request]:
    """So many requests; `drawn` gets the index of each as it is taken."""
    for index in range(number):
        if drawn is not None:
            drawn.append(index)
        yield replace(request(), index=index)


class Counting:
    """A handler that takes `seconds`, fails on every third row, and counts."""

    def __init__(self, clock: FakeClock, seconds: float = 1.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self.begun: list[int] = []
        self.now = self.most = self.done = self.cancelled = 0

    async def __call__(self, asked: Request, _: Emit | None) -> Answer:
        """Take the time."""
        self.begun.append(asked.index)
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


class EngineSuite:
    """`make(concurrency, stop, clock)` gives the engine."""

    make: Callable[[int, Stop, FakeClock], Engine]

    def test_every_row_is_handled_once_within_the_concurrency(self) -> None:
        """Failures included; with one place rows go in the order they came in."""
        for concurrency in (1, 7):
            clock = FakeClock()
            handler = Counting(clock)
            clock.run(self.make(concurrency, Stop(), clock).run(rows(50), handler, nothing))
            assert sorted(handler.begun) == list(range(50))
            assert concurrency > 1 or handler.begun == list(range(50))
            assert (handler.done, handler.most) == (50, concurrency)

    def test_nothing_is_read_ahead(self) -> None:
        """No more rows have been drawn than are done or in flight: memory stays constant."""
        clock, drawn = FakeClock(), list[int]()
        ahead: list[int] = []

        class Watching(Counting):
            async def __call__(self, asked: Request, emit: Emit | None) -> Answer:
                ahead.append(len(drawn) - self.done - self.now)
                return await super().__call__(asked, emit)

        clock.run(self.make(3, Stop(), clock).run(rows(30, drawn), Watching(clock), nothing))
        assert max(ahead) <= 3

    def test_a_stop_lets_what_is_in_flight_finish(self) -> None:
        """Nothing new is sent and the calls in flight end on their own."""
        clock = FakeClock()
        handler = Counting(clock)

        async def run() -> None:
            stop = Stop()
            engine = self.make(5, stop, clock)
            running = asyncio.ensure_future(engine.run(rows(100), handler, nothing))
            await clock.sleep(1.5)
            stop.ask()
            await running

        clock.run(run())
        assert (handler.done, handler.cancelled) == (10, 0)

    @pytest.mark.parametrize("at_once", [False, True])
    def test_draining_ends(self, *, at_once: bool) -> None:
        """Calls that do not finish within the drain time, or until a second stop, are cancelled,
        and the run returns."""
        clock = FakeClock()
        handler = Counting(clock, seconds=1000)

        async def run() -> None:
            stop = Stop()
            engine = self.make(5, stop, clock)
            running = asyncio.ensure_future(engine.run(rows(100), handler, nothing))
            await clock.sleep(1)
            stop.ask()
            if at_once:
                await clock.sleep(1)
                stop.at_once()
            await running

        clock.run(run())
        assert handler.cancelled == 5
        assert clock.now - 1000 == pytest.approx(2 if at_once else 1 + DRAIN)

    def test_a_disk_error_ends_the_run_at_once(self) -> None:
        """An error that is not a call's own stops the dispatch and is raised."""
        clock, begun = FakeClock(), list[int]()

        async def full(asked: Request, _: Emit | None) -> Answer:
            begun.append(asked.index)
            await clock.sleep(1)
            raise DiskError("full")

        with pytest.raises(DiskError):
            clock.run(self.make(4, Stop(), clock).run(rows(100), full, nothing))
        assert len(begun) == 4

    def test_an_input_that_fails_ends_the_run(self) -> None:
        """What the requests raise is raised; no worker goes on alone."""
        clock = FakeClock()
        handler = Counting(clock)

        async def broken() -> AsyncIterator[Request]:
            yield replace(request(), index=0)
            raise DiskError("unreadable")

        with pytest.raises(DiskError, match="unreadable"):
            clock.run(self.make(3, Stop(), clock).run(broken(), handler, nothing))
        assert handler.begun == [0]
