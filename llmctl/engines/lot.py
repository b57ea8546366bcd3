"""How many requests to get ready at a time."""

from __future__ import annotations

from llmctl.clock import Clock

_SHORT, _LONG = 0.05, 0.2
"""Seconds that a lot should last: a write costs as much for one request as for a hundred, and what
is claimed or held for requests that are long in coming keeps others waiting."""


class Lot:
    """The size of the next lot: twice that of one that was gone in no time, half that of one that
    lasted, from `least` to `most`. Without a `clock` all are alike."""

    def __init__(self, size: int, *, least: int, most: int, clock: Clock | None) -> None:
        self.size = size
        self._least = least
        self._most = most
        self._clock = clock
        self._begun = float("-inf")

    def begin(self) -> None:
        """The last lot is gone, and the next one begins."""
        if self._clock is None:
            return
        now = self._clock.monotonic()
        lasted, self._begun = now - self._begun, now
        if lasted < _SHORT:
            self.size = min(2 * self.size, self._most)
        elif lasted > _LONG:
            self.size = max(self.size // 2, self._least)
