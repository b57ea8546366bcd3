"""What a provider's headers say is left of an allowance, as pure arithmetic."""

from __future__ import annotations

_LONGEST = 120.0
"""Seconds that a header may keep a lane waiting: then the provider is asked itself."""


class Told:
    """The provider's own bucket, as far as it says. It only slows down: the profile's limits stay
    the most that is sent."""

    __slots__ = ("_at", "_full_at", "_left", "_rate")

    def __init__(self) -> None:
        self._left: float | None = None
        self._at = self._rate = self._full_at = 0.0

    def heard(
        self,
        left: int | None,
        limit: int | None,
        reset: float | None,
        *,
        on_the_way: float,
        now: float,
    ) -> None:
        """A reply's headers: units `left` of `limit`, full again in `reset` seconds.

        `on_the_way` are units of calls in flight, which the provider may not have counted yet.
        """
        if left is None or reset is None:
            return
        self._left, self._at = left - on_the_way, now
        self._full_at = now + min(reset, _LONGEST)
        # It fills all the time, so what it fills by follows from when it is full.
        self._rate = (limit - left) / reset if limit is not None and reset > 0 else 0.0

    @property
    def speaks(self) -> bool:
        """Whether the provider has said something that can be gone by."""
        return self._left is not None

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may go, as far as the provider said."""
        if self._left is None or self._left >= units or now >= self._full_at:
            return 0.0
        until_full = self._full_at - now
        if self._rate <= 0:
            return until_full
        return max(0.0, min(until_full, self._at + (units - self._left) / self._rate - now))

    def take(self, units: float) -> None:
        """Spend `units`."""
        if self._left is not None:
            self._left -= units
