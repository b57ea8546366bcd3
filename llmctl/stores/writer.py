"""The one thread that writes to a database, and commits in groups.

A commit that reaches the disk costs a sync, however much it holds. So writes from all tasks
queue for one thread, which puts everything that waits into one transaction: with 50 calls in
flight a sync is shared by up to 50 of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmctl.behind import Write
from llmctl.errors import DiskError
from llmctl.stores.inbox import Inbox
from llmctl.stores.sqlite import Work, patiently
from llmctl.stores.telling import end, tell

GROUP = 500
"""Most rows in one transaction, unless one job has more: bounds how long other processes wait for
the lock, and this one's tasks for the first of several large jobs."""


Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any] | None]
"""Does many writes of one kind at once, in a few statements: what each of them comes to, or None
when that is nothing. Each statement gives Python's lock away and has to get it back, which takes
longer than most of what it does."""


class One(NamedTuple):
    """One of the writes that `together` does many of."""

    together: Together
    item: Any


@dataclass(slots=True)
class Job:
    """One write: what to do, who waits for it (nobody, a thread, or a task of `loop`), about how
    many rows it has, and how it went."""

    work: Work[Any] | One
    future: Future[Any] | asyncio.Future[Any] | Write[Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    rows: int = 1
    value: Any = None
    error: BaseException | None = None

    def do(self, connection: sqlite3.Connection) -> Any:
        """Do it by itself."""
        if not isinstance(self.work, One):
            return self.work(connection)
        values = self.work.together(connection, [self.work.item])
        return None if values is None else values[0]

    def tell(self) -> None:
        """Wake who waits, if anybody does."""
        if self.future is not None:
            end(self.future, self.value, self.error)


class GroupWriter:
    """Does jobs with `connection` in a thread of its own, which starts with the first one.

    `translate` makes the program's own errors out of foreign ones; `gather` is as in `Inbox`. After
    one `DiskError` every later job fails alike: what a failed sync left on the disk is unknown,
    and asking again may falsely succeed.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        translate: Callable[[BaseException], BaseException],
        gather: float = 0.0,
    ) -> None:
        self._connection = connection
        self._name = name
        self._translate = translate
        self._inbox: Inbox[Job] = Inbox(name, gather)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._broken: BaseException | None = None

    def submit(self, job: Job) -> None:
        """Queue the job. Raises `RuntimeError` after `stop`."""
        self._start()
        self._inbox.add(job)

    def collect(self, job: Job, loop: asyncio.AbstractEventLoop, *, lazily: bool = False) -> None:
        """Queue a job of a task of `loop`, together with those of its other tasks; `lazily` when
        nobody waits for it. Raises `RuntimeError` after `stop`."""
        self._start()
        if lazily:
            self._inbox.add_lazily(job, loop)
        else:
            self._inbox.add_soon(job, loop)

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    # A daemon: a program that forgot to stop it must still end.
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    thread.start()
                    self._thread = thread

    def check(self) -> None:
        """Raises what has broken the file, if anything has."""
        if self._broken is not None:
            raise self._translate(self._broken)

    def stop(self) -> None:
        """Return when everything queued is written and the thread has ended."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Commit what waits, together, until there is nothing left to come."""
        while group := self._inbox.take(GROUP):
            for part in _portions(group):
                self._commit(part)
                _tell(part)

    def _commit(self, group: list[Job]) -> None:
        """One transaction for all; the jobs then know their values or errors."""
        connection = self._connection
        if self._broken is not None:
            for job in group:
                job.error = self._translate(self._broken)
            return
        try:
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            for jobs in _by_kind(group):
                if len(jobs) == 1 or not self._attempt_all(jobs):
                    for job in jobs:
                        self._attempt(job)
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            for job in group:  # each its own: a traceback grows with every raise
                job.error = self._translate(error)
            if isinstance(group[0].error, DiskError):
                self._broken = error

    def _attempt_all(self, jobs: list[Job]) -> bool:
        """Do jobs of one kind at once; False when one of them cannot be done, and none is.
        Raises when that must fail the whole group."""
        connection, one = self._connection, jobs[0].work
        assert isinstance(one, One)
        connection.execute("SAVEPOINT jobs")
        try:
            values = one.together(connection, [job.work.item for job in jobs])  # type: ignore[union-attr]
        except Exception as error:
            if isinstance(self._translate(error), DiskError) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO jobs")
            connection.execute("RELEASE jobs")
            return False
        connection.execute("RELEASE jobs")
        if values is not None:
            for job, value in zip(jobs, values, strict=True):
                job.value = value
        return True

    def _attempt(self, job: Job) -> None:
        """Do the job in a savepoint. Raises when its failure must fail the whole group."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            job.value = job.do(connection)
        except Exception as error:
            job.error = self._translate(error)
            if isinstance(job.error, DiskError) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _portions(group: list[Job]) -> Iterator[list[Job]]:
    """The jobs in their order, as many at a time as may be in one transaction."""
    part: list[Job] = []
    rows = 0
    for job in group:
        if part and rows + job.rows > GROUP:
            yield part
            part, rows = [], 0
        part.append(job)
        rows += job.rows
    yield part


def _by_kind(group: list[Job]) -> list[list[Job]]:
    """The jobs that can be done together, in lists: first those, in the order in which their
    kinds appear, then all others one by one."""
    kinds: dict[Together, list[Job]] = {}
    others: list[list[Job]] = []
    for job in group:
        if isinstance(job.work, One):
            kinds.setdefault(job.work.together, []).append(job)
        else:
            others.append([job])
    return [*kinds.values(), *others]


def _tell(group: list[Job]) -> None:
    """Wake all who wait: threads one by one, the tasks of an event loop together."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in group:
        if job.loop is None:
            job.tell()
        else:
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(tell, deque([job.tell for job in jobs]))
