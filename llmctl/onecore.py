"""A busy run on one processor.

Python's lock lets one thread run at a time. Handing it to a thread on another processor, and back,
costs more than that thread has to do; on one processor the same run takes a fifth less time of it
and answers more rows a second. That is only so while the lock is the limit, and while nobody else
needs that processor: so it is looked at again and again, and a run that is not busy is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from llmctl.clock import Clock

LOOK = 0.2
"""Seconds between two looks."""

_BUSY, _WIDE = 1.0, 1.4
"""Processors' worth of time that a run uses which the lock holds back. Who uses less waits for its
provider too, and its threads had better not wait for each other; who uses more does a lot without
the lock (counting the tokens of long prompts), and can use more."""

_CROWDED = 0.8
"""What it uses of its one processor when it has little to do, or others need that one, too."""

_AGAIN = 10.0
"""Seconds on one processor after which a look shows what it would use if it had all."""

_PAUSE, _LONGEST = 2.0, 60.0
"""Seconds to stay away from one processor that was crowded: twice as many each time."""


class Policy:
    """Whether a run belongs on one processor. Pure: times are arguments."""

    def __init__(self) -> None:
        self.together = False
        self._since = self._not_before = float("-inf")
        self._pause = _PAUSE

    def look(self, used: float, now: float) -> bool:
        """Whether it does from now on. `used`: the processors' worth of time it has used since the
        last look."""
        if not self.together:
            self.together = _BUSY <= used <= _WIDE and now >= self._not_before
            self._since = now
        elif used < _CROWDED:
            self.together = False
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST)
        elif now - self._since >= _AGAIN:
            self.together = False
            self._pause = _PAUSE
        return self.together


class Processors(Protocol):
    """The processors, as the threads of this process use them."""

    def used(self) -> float:
        """Seconds of processor time so far."""
        ...

    def gather(self) -> None:
        """All threads, and those they start, use the processor that the main one is on."""
        ...

    def spread(self) -> None:
        """They use all that they could before."""
        ...


class LinuxProcessors:
    """By the affinity of each thread. A thread or a system that will not is left as it is."""

    def __init__(self) -> None:
        self._all: set[int] | None = None

    def used(self) -> float:
        """As the protocol says."""
        return time.process_time()

    def gather(self) -> None:
        """As the protocol says."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, ValueError, IndexError):
                allowed, here = os.sched_getaffinity(0), _here()
                if len(allowed) > 1 and here in allowed:
                    self._all = allowed
                    _set(here)

    def spread(self) -> None:
        """As the protocol says."""
        if self._all is not None:
            _set(*self._all)
            self._all = None


def _here() -> int:
    """The processor of the main thread: field 39 of its line (proc(5)), counted behind the name."""
    line = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    return int(line.rpartition(")")[2].split()[36])


def _set(*processors: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError):  # it has ended
                    os.sched_setaffinity(int(thread.name), processors)


@contextlib.asynccontextmanager
async def one_core(clock: Clock, processors: Processors) -> AsyncIterator[None]:
    """While the context is open the process is on one processor whenever that serves it; in the
    end on all again."""
    looking = asyncio.ensure_future(_look(clock, processors))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        processors.spread()


async def _look(clock: Clock, processors: Processors) -> None:
    policy, then, before = Policy(), clock.monotonic(), processors.used()
    while True:
        await clock.sleep(LOOK)
        now, used, was = clock.monotonic(), processors.used(), policy.together
        together = policy.look((used - before) / max(now - then, LOOK / 2), now)
        then, before = now, used
        if together and not was:
            processors.gather()
        elif was and not together:
            processors.spread()
