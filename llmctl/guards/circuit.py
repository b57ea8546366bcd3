"""The breaker's states as pure arithmetic: `now` is an argument.

closed → open after too many failures → half-open when its time is over: one call finds out →
closed, or open again.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from llmctl.config.settings import BreakerPolicy

State = Literal["closed", "open", "half-open"]

_SLOTS = 20
"""Parts of the window that calls are counted by: it moves on by a twentieth at a time."""

_ENOUGH = 2
"""Times `failures`: so many calls a window must hold before their share says anything."""


class Ticket(Struct, frozen=True):
    """Leave to make one call. `era` counts how often the circuit had opened by then: what a call
    from before says later is no news."""

    era: int
    probe: bool = False


class Circuit:
    """Whether one provider is to be asked at all."""

    __slots__ = ("_era", "_in_a_row", "_open_until", "_probing", "_slots", "policy", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state: State = "closed"
        self._era = self._in_a_row = 0
        self._slots: deque[list[float]] = deque()  # [when it began, calls, failed]
        self._open_until = 0.0
        self._probing = False

    def enter(self, now: float) -> Ticket | None:
        """Leave to call; None while there is none to be had."""
        if self.state == "closed":
            return Ticket(self._era)
        if self.state == "open" and now >= self._open_until:
            self.state = "half-open"
        if self.state == "half-open" and not self._probing:
            self._probing = True
            return Ticket(self._era, probe=True)
        return None

    def wait(self, now: float) -> float:
        """Seconds until there may be leave; 0 while it hangs on a call that is under way, or
        there is leave now."""
        return max(0.0, self._open_until - now) if self.state == "open" else 0.0

    def succeeded(self, ticket: Ticket, now: float) -> None:
        """The provider answered."""
        if ticket.era != self._era:
            return
        if ticket.probe:
            self.state, self._probing = "closed", False
            self._in_a_row = 0
            self._slots.clear()
            self._era += 1
            return
        self._in_a_row = 0
        self._count(now, failed=False)

    def failed(self, ticket: Ticket, now: float) -> None:
        """The provider is in trouble."""
        if ticket.era != self._era:
            return
        if ticket.probe:
            self._open(now)
            return
        self._in_a_row += 1
        calls, failures = self._count(now, failed=True)
        least = _ENOUGH * self.policy.failures
        too_many = calls >= least and failures >= self.policy.error_rate * calls
        if self._in_a_row >= self.policy.failures or too_many:
            self._open(now)

    def trip(self, now: float) -> None:
        """Open at once: the provider said that it will serve nobody."""
        if self.state != "open":
            self._open(now)

    def gave_up(self, ticket: Ticket) -> None:
        """The call said nothing about the provider; another one may find out."""
        if ticket.probe and ticket.era == self._era:
            self._probing = False

    def _open(self, now: float) -> None:
        self.state, self._probing = "open", False
        self._open_until = now + self.policy.open_for
        self._era += 1

    def _count(self, now: float, *, failed: bool) -> tuple[float, float]:
        width = self.policy.window / _SLOTS
        if not self._slots or now - self._slots[-1][0] >= width:
            while self._slots and now - self._slots[0][0] >= self.policy.window:
                self._slots.popleft()
            self._slots.append([now, 0, 0])
        self._slots[-1][1] += 1
        if not failed:
            return 0, 0
        self._slots[-1][2] += 1
        return sum(slot[1] for slot in self._slots), sum(slot[2] for slot in self._slots)
