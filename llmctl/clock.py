"""Clocks, which tests replace by their own, and time-sorted ids (ULIDs)."""

from __future__ import annotations

import random
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
    """The machine's own clock."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        import asyncio  # here, so that commands that never wait do not load it

        await asyncio.sleep(max(0.0, seconds))


_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's, as the ULID specification says


def ulid(clock: Clock) -> str:
    """A ULID: 48 bits of milliseconds, 80 random bits, 26 characters.

    As in github.com/ulid/spec. Unique and time-sorted, not a secret: Python seeds its generator
    in every process and fork.
    """
    number = int(clock.wall() * 1000) << 80 | random.getrandbits(80)
    return "".join(_BASE32[number >> shift & 31] for shift in range(125, -5, -5))
