"""Group commit: what waits is written by one thread, and made durable by one sync.

A commit that reaches the disk costs a sync, however much it holds. With 50 calls in flight a sync
is shared by up to 50 of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from llmctl.errors import BusyError, DiskError
from llmctl.threads import started_pool

W = TypeVar("W")

_GROUP = 500  # most writes in one commit: bounds how long other processes wait for the lock
_GATHER = 0.002  # seconds that writes are gathered for while several come at a time

_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class GroupCommit(Generic[W]):
    """One queue and one thread. `commit` makes a group durable and gives a value for each write; on
    any error nothing of the group was written, but after a `DiskError`. Raises `SetupError` where
    the system allows no more threads."""

    def __init__(self, commit: Callable[[Sequence[W]], Sequence[Any]], name: str) -> None:
        self._commit = commit
        self._waiting: deque[tuple[W, asyncio.Future[Any]]] = deque()
        self._scheduled = False
        self._thread = started_pool(1, name)

    async def put(self, write: W) -> Any:
        """What `commit` gives for the write, once it is durable, or what it raises for it.
        Cancelling the wait does not undo the write."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if not self._scheduled:
            self._scheduled = True
            self._thread.submit(self._commit_waiting)
        return await done

    def put_now(self, write: W) -> Any:
        """As `put`, for callers without an event loop: blocks until it is durable."""
        return self._thread.submit(self._commit, [write]).result()[0]

    def close(self) -> None:
        """Commit what waits, and end the thread."""
        self._thread.shutdown()

    def _commit_waiting(self) -> None:
        """Commit all that waits, a group at a time."""
        group: list[tuple[W, asyncio.Future[Any]]] = []
        while True:
            if len(group) > 1:  # more come: one sync serves those, too
                time.sleep(_GATHER)
            group = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
            if group:
                _tell(self._outcomes(group))
                continue
            self._scheduled = False
            if not self._waiting:  # else it came just now, and found the thread scheduled
                return
            self._scheduled = True

    def _outcomes(self, group: Sequence[tuple[W, asyncio.Future[Any]]]) -> list[_Outcome]:
        """One commit for all; where one of them raises, one for each."""
        try:
            values = self._commit([write for write, _ in group])
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            if len(group) > 1 and not isinstance(error, DiskError | BusyError):
                return [outcome for write in group for outcome in self._outcomes([write])]
            return [(done, None, error) for _, done in group]
        return [(done, value, None) for (_, done), value in zip(group, values, strict=True)]


def _tell(outcomes: Sequence[_Outcome]) -> None:
    """Tell those who wait, each event loop by one call: a call wakes it."""
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome[0].get_loop(), []).append(outcome)
    for loop, own in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop may be gone: then nobody waits
            loop.call_soon_threadsafe(_settle, own)


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for done, value, error in outcomes:
        if done.done():  # cancelled: the write is made all the same
            continue
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)
