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
