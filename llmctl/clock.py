"""Time as a seam: the program asks a `Clock`, tests hand in their own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the program gets its time from.

    Deadlines, pauses and buckets use `monotonic`, which a changed system clock
    cannot move; only time stamps and budget windows use `wall`.
    """

    def wall(self) -> float:
        """Seconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once when that is zero or less."""
        ...


class SystemClock:
    """The machine's own clock, without a call of ours between: a row asks it twenty times."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        import asyncio  # here, so that commands that never wait do not load it

        await asyncio.sleep(max(0.0, seconds))
