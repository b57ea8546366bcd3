"""Appending rows: what `append` has returned from is on the disk.

Many tasks append at once; one thread writes and syncs what has come together while it was busy
with the lines before, so that a sync (about a millisecond) serves many rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from llmctl.storage.files import disk, disk_error, sync_file, sync_folder
from llmctl.storage.inbox import GATHER, Inbox, Load
from llmctl.storage.lock import LockedFile
from llmctl.storage.telling import end, tell

_Waiting = tuple[bytes, "asyncio.Future[None]", Callable[[], None]]

_GROUP = 10_000
"""Lines in one write at most."""


def _nothing() -> None:
    pass


class Sink(Protocol):
    """Where rows go."""

    async def append(self, line: bytes, there: Callable[[], None] = ...) -> None:
        """Return when the line (which ends with a line feed) is where it should be. `there`
        hears of that before anybody else does anything."""
        ...

    def check(self) -> None:
        """Raises what has kept a line from where it should be."""
        ...

    async def close(self) -> None:
        """Give everything back. Nothing is appended afterwards."""
        ...


class _Grouped(ABC):
    """A thread that commits lines in groups, in the order they came.

    The first failure is final: it goes to everyone who waits and to every later `append`.
    """

    def __init__(self, name: str) -> None:
        self._inbox: Inbox[_Waiting] = Inbox(name, GATHER, Load())
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._name = name

    async def append(self, line: bytes, there: Callable[[], None] = _nothing) -> None:
        """Return when the line is committed; raise what made that impossible."""
        self.check()
        if self._thread is None:
            # A daemon: a disk or a pipe that hangs must not keep the program from ending.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        await self._put(line, there)

    def check(self) -> None:
        """Raise what made a commit impossible, if one was; known before any task hears of it."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Commit what is waiting, then end the thread."""
        if self._thread is not None:
            self._thread = None
            with contextlib.suppress(Exception):  # whoever appended has heard of it
                await self._put(b"", _nothing)
            self._inbox.close()

    def _put(self, line: bytes, there: Callable[[], None]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._inbox.add_soon((line, done, there), loop)
        return done

    @abstractmethod
    def _commit(self, data: bytes) -> None:
        """Write the data and make it last; runs in the thread."""

    def _work(self) -> None:
        while group := self._inbox.take(_GROUP):
            self._deal(group)

    def _deal(self, group: Sequence[_Waiting]) -> None:
        data = b"".join([line for line, _, _ in group])
        if data and self._failure is None:
            try:
                self._commit(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                self._failure = error
        # The loop may be gone: then nobody waits.
        with contextlib.suppress(RuntimeError):
            group[0][1].get_loop().call_soon_threadsafe(_tell, group, self._failure)


def _tell(group: Sequence[_Waiting], failure: Exception | None) -> None:
    """Resolve a group's futures, in the loop."""
    if failure is None:
        for _, _, there in group:
            there()
    tell(deque([partial(end, done, error=failure) for _, done, _ in group]))


class Durable:
    """Writes to the end of a locked file so that it lasts.

    After a failure the file ends with the last complete write, as far as the disk lets us: what
    was not reported as written is cut off. A failed sync is as final as a failed write, because
    the system may have thrown the data away, and would report the next sync as a success.
    """

    def __init__(
        self,
        file: LockedFile,
        *,
        write: Callable[[int, memoryview], int] = os.write,
        sync: Callable[[int], None] = sync_file,
    ) -> None:
        self.file = file
        self._write = write
        self._sync = sync
        self._length = file.size
        self._new = file.created

    def append(self, data: bytes) -> None:
        """Return when the data is on the disk. Raises `DiskError`."""
        fd = self.file.fd
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._write(fd, rest) :]
            self._sync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._length)
            raise disk_error(error, "write to", self.file.path) from error
        if self._new:
            sync_folder(self.file.path.parent)  # a file whose name is lost is lost
            self._new = False
        self._length += len(data)


class Appender(_Grouped):
    """Appends rows to the output. `append` raises `DiskError` once the disk has refused."""

    def __init__(self, durable: Durable) -> None:
        super().__init__("llmctl-output")
        self._durable = durable

    def _commit(self, data: bytes) -> None:
        self._durable.append(data)


class ErrorsFile(_Grouped):
    """Appends the rows that failed to a file that is made when the first one comes.

    Making it removes the file of an earlier run; raises `DiskError` when that is refused.
    `append` raises `DiskError`, too.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("llmctl-errors")
        self._path = path
        self._durable: Durable | None = None
        with disk("remove", path):
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Commit what is waiting and close the file."""
        await super().close()
        if self._durable is not None:
            self._durable.file.close()
            self._durable = None

    def _commit(self, data: bytes) -> None:
        if self._durable is None:
            self._durable = Durable(LockedFile.open(self._path))
        self._durable.append(data)


class Stdout(_Grouped):
    """Writes to a pipe or a terminal, unsynced; `append` raises `BrokenPipeError` once its
    reader has gone, `DiskError` when what stands behind it is full."""

    def __init__(self, fd: int = 1, name: str = "stdout") -> None:
        super().__init__(f"llmctl-{name}")
        self._fd = fd
        self._called = name

    def _commit(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever made the pipe made it non-blocking
                select.select([], [self._fd], [])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise disk_error(error, "write to", self._called) from error
