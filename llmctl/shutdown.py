"""Graceful shutdown: how a run is told to end, and how those who wait hear of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llmctl.clock import Clock
from llmctl.errors import CallError, Cancelled

DRAIN = 30.0  # seconds that calls in flight get to finish after a stop was asked for


def _stopped() -> CallError:
    return Cancelled("not sent: the run was stopped", sent=False)


class Stop:
    """`ask`: nothing new is sent, what is in flight may finish. `at_once`: no more waiting.
    `asked`: whether the run is to end."""

    def __init__(self) -> None:
        self.asked = False
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()
        self._reason: Callable[[], CallError] = _stopped

    def ask(self, reason: Callable[[], CallError] = _stopped) -> None:
        """Send nothing new; `reason` makes the error of a call that is not sent any more."""
        if not self.asked:
            self._reason = reason
        self.asked = True
        self._asked.set()

    def at_once(self) -> None:
        """Give up what is in flight, too."""
        self.ask()
        self._at_once.set()

    @property
    def from_outside(self) -> bool:
        """Whether it was a person, or the reader of the output, who ended the run."""
        return self.asked and self._reason is _stopped

    async def wait(self) -> None:
        """Return when a stop is asked for."""
        await self._asked.wait()

    def error(self) -> CallError:
        """The error of a row that is not sent any more."""
        return self._reason()

    def check(self) -> None:
        """Raises the error of a call that is not sent any more, once a stop was asked for."""
        if self.asked:
            raise self.error()

    def clock(self, clock: Clock) -> Clock:
        """The same clock, on which nothing sleeps past a stop: sleeping raises as `check` does."""
        return _StoppableClock(self, self._asked, clock)

    async def overdue(self, clock: Clock) -> None:
        """Return when what is in flight must be given up."""
        await self._asked.wait()
        await first_of(clock.sleep(DRAIN), self._at_once.wait())


class _StoppableClock:
    def __init__(self, stop: Stop, asked: asyncio.Event, clock: Clock) -> None:
        self._stop, self._asked, self._clock = stop, asked, clock
        self.wall, self.monotonic = clock.wall, clock.monotonic

    async def sleep(self, seconds: float) -> None:
        """Sleep, unless the run is to end."""
        if seconds > 0:
            self._stop.check()
            await first_of(self._clock.sleep(seconds), self._asked.wait())
            self._stop.check()


@contextmanager
def handle_signals(
    on_signal: Callable[[int], None], numbers: Iterable[int] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[None]:
    """While open, call `on_signal` in the event loop for every signal of these numbers."""
    loop = asyncio.get_running_loop()

    def forward(number: int, _: object) -> None:
        loop.call_soon_threadsafe(on_signal, number)

    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Return when one of them has; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a program that was started in a session of its own, with what it started."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
