"""Requests and tokens per minute as pure arithmetic: `now` is an argument."""

from __future__ import annotations

_BURST_SHARE = 0.005
"""Share of a minute's allowance that may go out at once. Small, so that the start of a run does
not spend the minute in its first second; above one request, so that late timers are made up."""


class Bucket:
    """Lets at most `per_minute` units through in any 60 seconds, as long as each request is at
    most as large as the bucket; a larger one waits for a full bucket and leaves a debt.

    The refill is slowed by what the bucket holds at the start, (n + 1 - burst - spare) / 60
    units a second: burst and refill together never exceed n in a half-open minute. `spare` are
    units that may be used somewhat later than they were taken.

    All it remembers is `full_at`, when it will be full again: several processes can share that
    number (it is the generic cell rate algorithm's "theoretical arrival time", ITU-T I.371).
    """

    __slots__ = ("burst", "full_at", "per_minute", "spare")

    def __init__(
        self,
        per_minute: float,
        burst: float = 0.0,
        spare: float = 0.0,
        full_at: float = float("-inf"),
    ) -> None:
        self.per_minute = per_minute
        self.burst = burst or max(1.0, per_minute * _BURST_SHARE)
        self.spare = spare
        self.full_at = full_at

    @property
    def rate(self) -> float:
        """Units a second."""
        return (self.per_minute + 1 - self.burst - self.spare) / 60

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may go; 0 when they may go now."""
        rate = self.rate
        wait = self.full_at - now - (self.burst - min(units, self.burst)) / rate
        return wait if wait > 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Spend `units`, also below zero."""
        self.full_at = max(self.full_at, now) + units / self.rate

    def correct(self, units: float, now: float) -> None:
        """Give `units` back (or, negative, take more): the estimate was off by so much."""
        self.full_at = max(self.full_at, now) - units / self.rate
