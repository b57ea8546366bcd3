"""Clocks, which tests replace by their own."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, Protocol


class Clock(Protocol):
    """Where the program gets its time from. Only time stamps and budget windows use `wall`, which
    a changed system clock moves."""

    def wall(self) -> float:
        """Seconds since the Unix epoch (UTC)."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Return after `seconds`; at once when that is zero or less."""


class SystemClock:
    """The machine's own clock."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        import asyncio  # here, so that commands that never wait do not load it

        await asyncio.sleep(max(0.0, seconds))


_BEAT = 0.1  # seconds between two looks; a stall is counted short by at most so much
_STALL = 0.5  # seconds that the event loop is late at most when it is only busy


class AwakeClock:
    """A clock whose `monotonic` stands still while the event loop does not run.

    A program that was stopped (SIGSTOP, a machine that was paused) heard of nothing meanwhile:
    nobody else is to blame for what is late then. Belongs to the running event loop until `close`.
    """

    def __init__(self, clock: Clock) -> None:
        import asyncio

        self.wall, self.sleep = clock.wall, clock.sleep
        self._clock, self._loop = clock, asyncio.get_running_loop()
        self._lost = self._counted = 0.0  # in all, and since the last look was due
        self._next = self._loop.call_later(_BEAT, self._look)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, without those `lost`."""
        return self._clock.monotonic() - self.lost()

    def lost(self) -> float:
        """Seconds for which the event loop did not run, so far."""
        late = self._loop.time() - self._next.when()
        if late > self._counted + _STALL:
            self._lost, self._counted = self._lost + late - self._counted, late
        return self._lost

    def _look(self) -> None:
        self.lost()
        self._counted = 0.0
        self._next = self._loop.call_later(_BEAT, self._look)

    def close(self) -> None:
        """Look no more."""
        self._next.cancel()
