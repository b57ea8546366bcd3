"""Rate limits of the simulated provider, as pure buckets: `now` is an argument, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


class Bucket:
    """`per_minute` units a minute, refilled evenly; starts full and holds one minute's worth."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.left = per_minute
        self._at = 0.0

    def level(self, now: float) -> float:
        """Units left at `now`."""
        gained = (now - self._at) * self.per_minute / 60
        self._at, self.left = now, min(self.per_minute, self.left + gained)
        return self.left

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there (0 when it is now)."""
        return max(0.0, (amount - self.level(now)) * 60 / self.per_minute)


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit as headers tell it: units a minute, units left, seconds until it is full."""

    limit: int
    remaining: int
    reset: float


class Limits:
    """Requests and tokens a minute; None is no limit. A refused request takes nothing."""

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self._requests = Bucket(rpm) if rpm else None
        self._tokens = Bucket(tpm) if tpm else None

    def admit(self, tokens: int, now: float) -> float:
        """Take one request of so many tokens: 0 when admitted, else the seconds to wait."""
        wanted = [(b, n) for b, n in ((self._requests, 1), (self._tokens, tokens)) if b]
        wait = max((bucket.wait(amount, now) for bucket, amount in wanted), default=0.0)
        if wait == 0:
            for bucket, amount in wanted:
                bucket.left -= amount
        return wait

    def standing(self, now: float) -> dict[str, Standing]:
        """Where each limit stands, under `requests` and `tokens`."""
        found = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket:
                left = bucket.level(now)
                full_in = bucket.wait(bucket.per_minute, now)
                found[name] = Standing(int(bucket.per_minute), int(left), full_in)
        return found
