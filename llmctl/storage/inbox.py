"""What many tasks hand to one thread."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

GATHER = 0.001
"""Seconds that a busy run gathers what its tasks hand over before the thread is woken: waking it,
and its telling how it went, costs more than most of what is handed over."""

GATHER_HOLDS = 0.006
"""The same for holds, which are written while other rows are under way: what a commit costs is
shared by as many."""

LAZY, LAZY_BUSY = 0.02, 0.1
"""Seconds that something may lie that no task waits for; in a busy run the other."""

_BUSY = 4
"""Things that came together last time, from which on there is a run to call busy. Who comes
alone would wait for nobody."""


_LOOK = 0.1
"""Seconds between two looks at how much there is to do."""

_FULL = 0.9
"""Processors' worth of time that a process uses which has none to spare: Python's lock lets one
thread run at a time."""


class Load:
    """Whether the process has time to spare. `clock` and `used`: seconds that have passed, and
    seconds of processor time used."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._used = used
        self._seen, self._had = clock(), used()
        self._spare = True

    def spare(self) -> bool:
        """It has used less than it could, as far as was seen."""
        now = self._clock()
        passed = now - self._seen
        if passed >= _LOOK:
            used = self._used()
            self._spare = used - self._had < _FULL * passed
            self._seen, self._had = now, used
        return self._spare


class Inbox(Generic[T]):
    """Things in the order they came. The thread is woken `gather` seconds after the first of them
    (no more than `GATHER` while they come one by one; at once while `load` says that there is time
    to spare), once for all that have come until then, and what comes together is dealt with
    together.

    There is no lock: whoever holds one while waiting for Python's own keeps the other side
    waiting for both. What appends and takes are the deque's own single steps, and whatever is
    appended is followed by a ring of the bell, so nothing is left lying.
    """

    def __init__(self, name: str, gather: float = 0.0, load: Load | None = None) -> None:
        self._name = name
        self._load = load
        self._gather = gather
        self._items: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._more = False
        self._busy = False
        self._closed = False
        # The loops in which the bell will be rung, soon and some time, and the timer of that.
        self._soon: asyncio.AbstractEventLoop | None = None
        self._lazily: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T) -> None:
        """Hand it over now. Raises `RuntimeError` after `close`."""
        self._append(item)
        self._bell.put(None)

    def add_soon(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Hand it over together with what comes from other tasks of `loop`, in which the caller
        runs. Raises `RuntimeError` after `close`."""
        self._append(item)
        if self._soon is not loop:
            self._soon = loop
            if self._gather and not (self._load and self._load.spare()):
                gather = self._gather if self._busy else min(self._gather, GATHER)
                loop.call_later(gather, self._ring_soon)
            else:
                loop.call_soon(self._ring_soon)

    def add_lazily(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """As `add_soon`, for what may wait until something else comes, but not for long."""
        self._append(item)
        if self._soon is not loop and self._lazily is not loop:
            self._lazily = loop
            self._timer = loop.call_later(LAZY_BUSY if self._busy else LAZY, self._ring_lazily)

    def hurry(self) -> None:
        """What lies is wanted now."""
        if self._items:
            self._bell.put(None)

    def close(self) -> None:
        """Nothing more comes; the thread still gets what is there."""
        self._closed = True
        self._bell.put(None)

    def take(self, most: int) -> list[T]:
        """Up to `most` things, once there are any; nothing when there will be none. For the one
        thread."""
        items = self._items
        while True:
            if not (self._more or self._closed):
                self._bell.get()
            taken = [items.popleft() for _ in range(min(most, len(items)))]
            self._more = len(taken) == most
            self._busy = len(taken) >= _BUSY
            if taken or (self._closed and not items):
                return taken

    def _append(self, item: T) -> None:
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        self._items.append(item)

    def _ring_soon(self) -> None:
        if self._timer is not None and self._lazily is self._soon:
            self._timer.cancel()  # what lies goes with the rest, and what comes now may lie as long
            self._lazily = self._timer = None
        self._soon = None
        self.hurry()

    def _ring_lazily(self) -> None:
        self._lazily = self._timer = None
        self.hurry()
