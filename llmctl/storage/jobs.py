"""What waits for the thread that writes to a database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from msgspec import Struct

from llmctl.behind import Write
from llmctl.storage.sqlite import Work
from llmctl.storage.telling import end

GROUP = 500
"""Most rows in one transaction, unless one job has more: bounds how long other processes wait for
the lock, and this one's tasks for the first of several large jobs."""

Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any] | None]
"""Does many writes of one kind at once, in a few statements: what each of them comes to, or None
when that is nothing. Each statement gives Python's lock away and has to get it back, which takes
longer than most of what it does."""


class One(NamedTuple):
    """One of the writes that `together` does many of. When one of them cannot be done it is called
    again, in a new transaction, for each by itself."""

    together: Together
    item: Any


class Job(Struct):
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


def portions(group: list[Job]) -> Iterator[list[Job]]:
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


def do_together(connection: sqlite3.Connection, group: list[Job]) -> list[Job]:
    """Do those jobs of which many can be done at once, kind by kind, and return the others. Raises
    what one of them does."""
    kinds: dict[Together, list[tuple[Job, Any]]] = {}
    others: list[Job] = []
    for job in group:
        if isinstance(job.work, One):
            kinds.setdefault(job.work.together, []).append((job, job.work.item))
        else:
            others.append(job)
    for together, jobs in kinds.items():
        values = together(connection, [item for _, item in jobs])
        if values is not None:
            for (job, _), value in zip(jobs, values, strict=True):
                job.value = value
    return others
