"""The one thread that writes to a database, and commits in groups.

A commit that reaches the disk costs a sync, however much it holds. So writes from all tasks
queue for one thread, which puts everything that waits into one transaction: with 50 calls in
flight a sync is shared by up to 50 of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from llmctl.errors import DiskError
from llmctl.stores.sqlite import Work, patiently

GROUP = 500
"""Most writes in one transaction: bounds how long other processes wait for the lock."""


@dataclass(slots=True)
class Job:
    """One write: what to do, who waits for it (nobody, a thread, or a task of `loop`), and how
    it went."""

    work: Work[Any]
    future: Future[Any] | asyncio.Future[Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    value: Any = None
    error: BaseException | None = None

    def tell(self) -> None:
        """Wake who waits, unless it has gone away."""
        if self.future is None or self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


class GroupWriter:
    """Does jobs with `connection` in a thread of its own, which starts with the first one.

    `translate` makes the program's own errors out of foreign ones. After one `DiskError` every
    later job fails alike: what a failed sync left on the disk is unknown, and asking again may
    falsely succeed.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        translate: Callable[[BaseException], BaseException],
    ) -> None:
        self._connection = connection
        self._name = name
        self._translate = translate
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._broken: BaseException | None = None

    def submit(self, job: Job) -> None:
        """Queue the job. Raises `RuntimeError` after `stop`."""
        with self._lock:
            if self._stopped:
                raise RuntimeError(f"{self._name} is closed")
            if self._thread is None:
                # A daemon: a program that forgot to stop it must still end.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(job)

    def stop(self) -> None:
        """Return when everything queued is written and the thread has ended."""
        with self._lock:
            self._stopped = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Commit what waits, together, until there is nothing left to come."""
        while True:
            jobs = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < GROUP:
                    jobs.append(self._queue.get_nowait())
            group = [job for job in jobs if job is not None]
            if group:
                self._commit(group)
                _tell(group)
            if len(group) < len(jobs):
                return

    def _commit(self, group: list[Job]) -> None:
        """One transaction for all; the jobs then know their values or errors."""
        connection = self._connection
        if self._broken is not None:
            for job in group:
                job.error = self._translate(self._broken)
            return
        try:
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            for job in group:
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

    def _attempt(self, job: Job) -> None:
        """Do the job in a savepoint. Raises when its failure must fail the whole group."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            job.value = job.work(connection)
        except Exception as error:
            job.error = self._translate(error)
            if isinstance(job.error, DiskError) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _tell(group: list[Job]) -> None:
    """Wake all who wait: threads one by one, the tasks of an event loop with one call."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in group:
        if job.loop is None:
            job.tell()
        else:
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_tell_all, jobs)


def _tell_all(jobs: list[Job]) -> None:
    for job in jobs:
        job.tell()
