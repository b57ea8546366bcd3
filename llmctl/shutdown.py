"""Graceful shutdown: how a run is told to end, and how those who wait hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from llmctl.clock import Clock
from llmctl.errors import CallError, Cancelled

DRAIN = 30.0
"""Seconds that calls in flight get to finish after a stop was asked for."""


def _stopped() -> CallError:
    return Cancelled("not sent: the run was stopped", sent=False)


class Stop:
    """`ask`: nothing new is sent, what is in flight may finish. `at_once`: no more waiting.
    `asked`: whether the run is to end."""

    def __init__(self) -> None:
        self.asked = False
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()
        self._reason: Callable[[], CallError] = _stopped

    def ask(self, reason: Callable[[], CallError] = _stopped) -> None:
        """Send nothing new; `reason` makes the error of a call that is not sent any more."""
        if not self.asked:
            self._reason = reason
        self.asked = True
        self._asked.set()

    def at_once(self) -> None:
        """Give up what is in flight, too."""
        self.ask()
        self._at_once.set()

    def error(self) -> CallError:
        """The error of a row that is not sent any more."""
        return self._reason()

    def check(self) -> None:
        """Raises the error of a call that is not sent any more, once a stop was asked for."""
        if self.asked:
            raise self.error()

    def clock(self, clock: Clock) -> Clock:
        """The same clock, on which nothing sleeps past a stop: sleeping raises as `check` does."""
        return _StoppableClock(self, clock)

    async def overdue(self, clock: Clock) -> None:
        """Return when what is in flight must be given up."""
        await self._asked.wait()
        await _first(clock.sleep(DRAIN), self._at_once.wait())

    async def _sleep(self, clock: Clock, seconds: float) -> None:
        self.check()
        await _first(clock.sleep(seconds), self._asked.wait())
        self.check()


class _StoppableClock:
    """See `Stop.clock`."""

    def __init__(self, stop: Stop, clock: Clock) -> None:
        self._stop = stop
        self._clock = clock
        self.wall = clock.wall
        self.monotonic = clock.monotonic

    async def sleep(self, seconds: float) -> None:
        """Sleep, unless the run is to end."""
        if seconds > 0:
            await self._stop._sleep(self._clock, seconds)  # noqa: SLF001 - two halves of one thing


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Return when one of them has."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
