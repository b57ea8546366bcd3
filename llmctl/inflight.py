"""How many rows may be under way: sent, and not yet where they belong."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from llmctl.shutdown import Stop

_MOST = 32


class InFlight:
    """At most `most` rows between their first byte on the wire and their line on the disk: those
    are what a crash may make one pay for twice. Each task has one row at a time.

    A few tasks more than that get rows ready meanwhile, whose holds must be on record before
    anything is sent; so that a provider is not left waiting for our disk. Nobody gets through
    once `stop` was asked for, or when `check` raises: what is sent could not be written down.
    """

    def __init__(self, most: int, stop: Stop, check: Callable[[], None] = lambda: None) -> None:
        self.most = most
        self._stop = stop
        self._check = check
        self._inside: set[asyncio.Task[object]] = set()
        self._waiting: deque[tuple[asyncio.Future[None], asyncio.Task[object]]] = deque()

    @property
    def tasks(self) -> int:
        """How many tasks keep it full: nearly as many more, but not more than 128, wait for room.
        With one place there is one task: then rows end in the order they came in."""
        return self.most + min(self.most - 1, _MOST)

    async def enter(self) -> None:
        """Return when the running task's row may be sent; at once when the same row has been, to
        somebody else. First come, first served. Raises as `Stop.check`, and what `check` does."""
        task = asyncio.current_task()
        if task is None or task in self._inside:
            return
        self._stop.check()
        self._check()
        if len(self._inside) < self.most:
            self._inside.add(task)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, task))
        try:
            await turn
            self._stop.check()
            self._check()
        except BaseException:
            turn.cancel()
            self._leave(task)
            raise

    def leave(self) -> None:
        """The running task's row is where it belongs, or was never sent."""
        self.leaving()()

    def leaving(self) -> Callable[[], None]:
        """What is `leave` for the running task, whoever calls it."""
        return partial(self._leave, asyncio.current_task())

    def _leave(self, task: asyncio.Task[object] | None) -> None:
        if task is None or task not in self._inside:
            return
        self._inside.remove(task)
        while self._waiting:
            turn, following = self._waiting.popleft()
            if not turn.done():
                self._inside.add(following)
                turn.set_result(None)
                return
