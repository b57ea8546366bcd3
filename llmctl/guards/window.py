"""How many calls may be in flight, as the provider bears them: additive up, multiplicative down.

Pure. The rule is TCP's (RFC 5681): one more for every round of answers, half of it after a sign
of too many, and at most once for all calls that were in flight at that sign.
"""

from __future__ import annotations

_LESS = 0.5

_JUDGED = 8
"""Answers after which the share of refusals says something."""


class Window:
    """`ceiling`: calls in flight at most. `size` is what is allowed now, at least one."""

    __slots__ = ("_answers", "_era", "_refusals", "ceiling", "size")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.size = float(ceiling)
        self._era = self._answers = self._refusals = 0

    @property
    def era(self) -> int:
        """What a call remembers of the time it was sent, for `answered` and `refused`."""
        return self._era

    def answered(self) -> None:
        """A call was served."""
        self._answers += 1
        if self.size < self.ceiling:
            self.size = min(float(self.ceiling), self.size + 1 / self.size)

    def refused(self, era: int, *, told_when: bool) -> None:
        """The provider had too much. When it said when to come back (`told_when`) that is obeyed,
        and only a flood of refusals, half of all, says that there are too many at a time."""
        if era != self._era:
            return  # sent before the last step down: it answers to that one
        self._refusals += 1
        judged = self._answers + self._refusals
        if told_when and (judged < _JUDGED or self._refusals * 2 < judged):
            return
        self.size = max(1.0, self.size * _LESS)
        self._era += 1
        self._answers = self._refusals = 0
