"""Deadlines of many calls for the price of one timer.

`asyncio.timeout` sets and cancels a timer of the event loop for every call, twice where the
deadline moves; here a call writes down a number.
"""

from __future__ import annotations

import asyncio
from math import inf

_GRAIN = 0.01
"""Seconds that a deadline may be late when others have just passed: however many calls are given
up one after the other, all of them are not looked through more often than that."""


class Deadline:
    """The deadline of the task that it was begun in. `when` is in the event loop's time; it may
    be put off, not brought forward."""

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "when")

    def __init__(self, when: float, everyone: set[Deadline]) -> None:
        """Raises `RuntimeError` outside a task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self.when = when
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._all = everyone

    def expire(self) -> None:
        """Cancel the task."""
        self._expired = True
        self._task.cancel()

    def end(self, error: BaseException | None) -> bool:
        """The call has ended, with this error if any; whether that is the deadline's doing.

        As in `asyncio.timeout`, a cancellation that somebody else asked for too is theirs.
        """
        self._all.discard(self)
        return (
            self._expired
            and self._task.uncancel() <= self._cancelling
            and type(error) is asyncio.CancelledError
        )


class Deadlines:
    """Those of one event loop: a set that a single timer goes through when the first is due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf

    def begin(self, when: float) -> Deadline:
        """A deadline for the running task, cancelled at `when`; `Deadline.end` must follow."""
        deadline = Deadline(when, self._open)
        self._open.add(deadline)
        if when < self._due:
            self._set(when)
        return deadline

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = when, self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Give up what is due. Where all has ended no new timer is set, where all has been put
        off a later one."""
        now = self._loop.time()
        self._due, self._timer = inf, None
        due = [deadline for deadline in self._open if deadline.when <= now]
        for deadline in due:
            self._open.discard(deadline)
            deadline.expire()
        if self._open:
            first = min(deadline.when for deadline in self._open)
            self._set(max(first, now + _GRAIN))
