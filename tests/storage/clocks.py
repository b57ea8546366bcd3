"""Clocks for tests."""

from __future__ import annotations


class StoppedClock:
    """A clock that always says `now`."""

    def __init__(self, now: float) -> None:
        self.now = now

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Moves on instead of waiting."""
        self.now += seconds
