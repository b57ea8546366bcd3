"""One SQLite file, its writer thread, and a reader for each thread that asks."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from llmctl.behind import Write
from llmctl.storage.files import disk, open_private, private_folder
from llmctl.storage.jobs import Job, One
from llmctl.storage.migrations import Migration, fits, is_new, migrate
from llmctl.storage.sqlite import (
    FOREIGN,
    Synchronous,
    Work,
    connect,
    damaged,
    is_about_the_schema,
    patiently,
    translate,
)
from llmctl.storage.writer import GroupWriter

_forks = 0
"""Forks between this process and the first one that loaded this module."""


def _forked() -> None:
    global _forks  # noqa: PLW0603 - a fork is an event of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

T = TypeVar("T")
AutoVacuum = Literal["NONE", "FULL", "INCREMENTAL"]
"""What becomes of free pages: SQLite's `PRAGMA auto_vacuum`, settled when a file is made."""


class Database:
    """A database file at `path` in WAL mode, created and migrated when it is opened.

    `pragmas` are set on every connection, `reader_pragmas` then on those that read; `remedy` is
    what a user does about a damaged file, as the end of a sentence; `keep_copy` keeps a copy
    beside an older file that is migrated; `gather` is as in `Inbox`.
    Files are 0600 in a 0700 folder: SQLite gives -wal and -shm the mode of the database.

    Opening raises `DiskError` when the disk refuses, `DamagedError`, `NewerError` for a file
    of a newer program, and `BusyError` when another process keeps it locked. Reads and writes
    raise all but `NewerError`; what a `Work` itself raises passes through. After a `DiskError`
    in a write, every later write fails alike.

    Many processes may write to one file. A process forked while it is open must open its own.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        synchronous: Synchronous = "FULL",
        pragmas: Sequence[str] = (),
        reader_pragmas: Sequence[str] = (),
        auto_vacuum: AutoVacuum = "NONE",
        remedy: str = "move it aside and run the same command again",
        keep_copy: bool = True,
        gather: float = 0.0,
    ) -> None:
        self.path = path
        self._migrations = migrations
        self._synchronous = synchronous
        self._pragmas = pragmas
        self._reader_pragmas = reader_pragmas
        self._remedy = remedy
        self._forks = _forks
        self._closed = False
        self._readers: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._connection = self._open(auto_vacuum, keep_copy=keep_copy)
        self._writer = GroupWriter(
            self._connection,
            str(path),
            lambda error: self._known(error, self._connection),
            gather,
        )
        atexit.register(self.close)  # what is still queued when the program ends is written

    async def write(self, work: Work[T], rows: int = 1) -> T:
        """What `work(connection)` returns, once it is committed; runs in the writer thread.
        `rows`: about how many it writes, which limits what is in one transaction with it.

        When `work` raises, only its own changes are undone. Cancelling the wait does not undo
        the write.
        """
        value: T = await self.soon(work, rows)
        return value

    def soon(self, work: Work[Any] | One, rows: int = 1) -> asyncio.Future[Any]:
        """As `write`; a `One` is done together with others of its kind."""
        self._refuse_after_fork()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._writer.collect(Job(work, future, loop, rows), loop)
        return future

    def begin(self, work: Work[Any] | One, *, lazily: bool = False) -> Write[Any]:
        """As `soon`, for who does not wait at once, or, `lazily`, not at all."""
        self._refuse_after_fork()
        write: Write[Any] = Write()
        loop = asyncio.get_running_loop()
        self._writer.collect(Job(work, write, loop), loop, lazily=lazily)
        return write

    def write_now(self, work: Work[T]) -> T:
        """As `write`, for callers without an event loop: blocks until it is committed."""
        future: Future[T] = Future()
        self._submit(Job(work, future))
        return future.result()

    def post(self, work: Work[object]) -> None:
        """Write soon, at the latest when the database is closed; nobody is told how it went."""
        self._submit(Job(work))

    def hurry(self) -> None:
        """Somebody waits now for what was begun lazily."""
        self._writer.hurry()

    def check(self) -> None:
        """Raises the `DiskError` after which nothing more can be written, if there was one; known
        before who waits for the write hears of it."""
        self._writer.check()

    def read(self, work: Work[T]) -> T:
        """What `work(connection)` returns, at once, on the calling thread's own reader.

        A reader sees what was committed when its statement began and never waits for writers.
        """
        self._refuse_after_fork()
        if self._closed:
            raise RuntimeError(f"{self.path} is closed")
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._new_reader()
        try:
            return work(reader)
        except FOREIGN as error:
            known = self._known(error, reader)
            if known is error:
                raise
            raise known from error

    def close(self) -> None:
        """Write what is queued, fold the WAL into the file, and give everything back."""
        if self._closed or self._forks != _forks:
            return  # in a forked child they are the parent's connections, with its locks
        self._closed = True
        atexit.unregister(self.close)
        self._writer.stop()
        for reader in self._readers:
            reader.close()
        with contextlib.suppress(sqlite3.Error):  # only tidying: the WAL is as durable
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        return connect(
            self.path,
            synchronous=self._synchronous,
            pragmas=(*self._pragmas, *(self._reader_pragmas if read_only else ())),
            read_only=read_only,
        )

    def _new_reader(self) -> sqlite3.Connection:
        try:
            reader = patiently(lambda: self._connect(read_only=True))
        except FOREIGN as error:
            raise translate(error, self.path, self._remedy) from error
        self._readers.append(reader)
        self._local.reader = reader
        return reader

    def _open(self, auto_vacuum: AutoVacuum, *, keep_copy: bool) -> sqlite3.Connection:
        _make_private(self.path)
        try:
            # All of it again when another process is in the way: which of the statements meets
            # a process that is just creating, recovering or closing the file is chance.
            return patiently(lambda: self._open_once(auto_vacuum, keep_copy=keep_copy))
        except FOREIGN as error:
            known = translate(error, self.path, self._remedy)
            if known is error:  # all statements so far are our own, and fit the files we make
                known = damaged(self.path, self._remedy, str(error))
            raise known from error

    def _open_once(self, auto_vacuum: AutoVacuum, *, keep_copy: bool) -> sqlite3.Connection:
        connection = self._connect()
        try:
            if is_new(connection):
                connection.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
            connection.execute("PRAGMA journal_mode=WAL")
            migrate(connection, self.path, self._migrations, keep_copy=keep_copy)
            # A file that cannot be written is found now, not after the first paid call.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _submit(self, job: Job) -> None:
        self._refuse_after_fork()
        self._writer.submit(job)

    def _refuse_after_fork(self) -> None:
        if self._forks != _forks:
            raise RuntimeError(f"{self.path} was opened before a fork: open it again")

    def _known(self, error: BaseException, connection: sqlite3.Connection) -> BaseException:
        """The program's own error for a foreign one.

        A statement that does not fit the tables is a mistake of the program, unless the tables
        are not those the migrations made: then the file's schema is damaged.
        """
        if is_about_the_schema(error) and not fits(connection, self._migrations):
            known: BaseException = damaged(self.path, self._remedy, str(error))
        else:
            known = translate(error, self.path, self._remedy)
        if known is not error:
            known.__cause__ = error
        return known


def _make_private(path: Path) -> None:
    """See to it that the file exists and is ours alone, before SQLite sees it.

    A file that exists is not opened: closing it would drop the locks that this process may
    hold on it through SQLite (POSIX locks belong to the process, not to the descriptor).
    """
    private_folder(path.parent)
    with disk("open", path):
        if path.exists():
            path.chmod(0o600)
        else:
            os.close(open_private(path, os.O_RDWR)[0])
