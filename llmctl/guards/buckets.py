"""Requests and tokens per minute as pure arithmetic: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

_BURST_SHARE = 0.005
"""Share of a minute's allowance that may go out at once. Small, so that the start of a run does
not spend the minute in its first second; above one request, so that late timers are made up."""


@dataclass(slots=True)
class Bucket:
    """Lets at most `per_minute` units through in any 60 seconds, as long as each request is at
    most as large as the bucket; a larger one waits for a full bucket and leaves a debt.

    The refill is slowed by what the bucket holds at the start, (n + 1 - burst) / 60 units a
    second: burst and refill together never exceed n in a half-open minute.
    """

    per_minute: float
    burst: float = field(default=0.0)
    _level: float = field(default=0.0, init=False)
    _at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.burst = self.burst or max(1.0, self.per_minute * _BURST_SHARE)
        self._level = self.burst

    @property
    def rate(self) -> float:
        """Units a second."""
        return (self.per_minute + 1 - self.burst) / 60

    def _refill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        if self._at is None or now > self._at:
            self._at = now

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may go; 0 when they may go now."""
        self._refill(now)
        missing = min(units, self.burst) - self._level
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Spend `units`, also below zero."""
        self._refill(now)
        self._level -= units

    def correct(self, units: float, now: float) -> None:
        """Give `units` back (or, negative, take more): the estimate was off by so much."""
        self._refill(now)
        self._level = min(self.burst, self._level + units)
