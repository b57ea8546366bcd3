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
from collections.abc import Callable

from llmctl.behind import Write
from llmctl.errors import DiskError
from llmctl.storage.inbox import Inbox
from llmctl.storage.jobs import GROUP, Job, do_together, portions
from llmctl.storage.sqlite import patiently
from llmctl.storage.telling import tell

_MANY = 8
"""Rows of a job that is not worth a wait for others, to be committed with them."""


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
        elif job.rows >= _MANY:
            self._inbox.add(job)
        else:
            self._inbox.add_soon(job, loop)

    def hurry(self) -> None:
        """Somebody waits now for what was queued lazily."""
        self._inbox.hurry()

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
            for part in portions(group):
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
            self._begin()
            for job in self._at_once(group):
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

    def _begin(self) -> None:
        patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))

    def _at_once(self, group: list[Job]) -> list[Job]:
        """Do what can be done together, and return the rest; all of them, in a new transaction,
        when something could not be done. There is no savepoint to go back to: it would cost two
        statements more each time. Raises what must fail the whole group."""
        try:
            return do_together(self._connection, group)
        except Exception as error:
            if self._is_final(self._translate(error)):
                raise
        self._connection.execute("ROLLBACK")
        self._begin()
        return group

    def _attempt(self, job: Job) -> None:
        """Do the job in a savepoint. Raises when its failure must fail the whole group."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            job.value = job.do(connection)
        except Exception as error:
            job.error = self._translate(error)
            if self._is_final(job.error):
                raise
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _is_final(self, error: BaseException) -> bool:
        """Whether nothing else can be done in this transaction."""
        return isinstance(error, DiskError) or not self._connection.in_transaction


def _tell(group: list[Job]) -> None:
    """Wake all who wait: threads one by one, the tasks of an event loop together, and before those
    that nobody waits for."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in sorted(group, key=lambda job: isinstance(job.future, Write)):
        if job.loop is None:
            job.tell()
        else:
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(tell, deque([job.tell for job in jobs]))
