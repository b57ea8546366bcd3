"""How a run is told to end, and how those who wait hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.clock import Clock
from llmctl.errors import CallError, Cancelled

DRAIN = 30.0
"""Seconds that calls in flight get to finish after a stop was asked for."""


def _stopped() -> CallError:
    return Cancelled("not sent: the run was stopped", sent=False)


class Stop:
    """`ask` once: nothing new is sent, what is in flight may finish. `at_once`: no more waiting."""

    def __init__(self) -> None:
        self.asked = False
        self._soon = asyncio.Event()
        self._at_once = asyncio.Event()
        self._sleepers: set[asyncio.Future[None]] = set()
        self._why: Callable[[], CallError] = _stopped

    def ask(self, why: Callable[[], CallError] | None = None) -> None:
        """Send nothing new; `why` makes the error of a call that is not sent any more."""
        if why is not None and not self.asked:
            self._why = why
        self.asked = True
        self._soon.set()
        for sleeper in self._sleepers:
            sleeper.cancel()

    def at_once(self) -> None:
        """Give up what is in flight, too."""
        self.ask()
        self._at_once.set()

    def check(self) -> None:
        """Raises the error of a call that is not sent any more, once a stop was asked for."""
        if self.asked:
            raise self._why()

    def clock(self, clock: Clock) -> Clock:
        """The same clock, on which nobody sleeps past a stop: sleeping raises as `check` does."""
        return _Wakeful(self, clock)

    async def give_up(self, clock: Clock) -> None:
        """Return when what is in flight must be given up."""
        await self._soon.wait()
        overdue = asyncio.ensure_future(clock.sleep(DRAIN))
        told = asyncio.ensure_future(self._at_once.wait())
        try:
            await asyncio.wait((overdue, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            overdue.cancel()
            told.cancel()

    async def _sleep(self, clock: Clock, seconds: float) -> None:
        self.check()
        sleeper = asyncio.ensure_future(clock.sleep(seconds))
        self._sleepers.add(sleeper)
        try:
            # Not awaited itself: then its being cancelled could not be told from one's own.
            await asyncio.wait((sleeper,))
        finally:
            self._sleepers.discard(sleeper)
            sleeper.cancel()
        self.check()


class _Wakeful:
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
