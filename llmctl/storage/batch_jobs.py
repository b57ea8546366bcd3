"""Providers' batches on record: what was submitted, and which rows still wait for their end.

The tables are in the ledger's file, because a row's hold, its place in a batch and its end belong
together: a batch is sealed in one transaction, which gives it the holds of its rows, and settling a
call takes it out of its batch.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import astuple

from llmctl.storage.database import Database, ReadOnlyFile
from llmctl.storage.ledger import release_hold

State = Literal["sealed", "creating", "running", "fetched", "done"]
"""`sealed`: on disk, and nothing was sent; `creating`: the request that makes it may have arrived;
`running`: its id is known; `fetched`: its results are on disk; `done`: every row has its end."""

KEPT = 30 * 86400 * 1000
"""Milliseconds for which a batch that is done stays on record."""

_PAGE = 500  # rows that are read at a time


class BatchJob(Struct, frozen=True):
    """One batch of a provider, in the order of the columns of `batch_jobs`.

    Attributes:
        intent: the id that it has here, and that the provider is told.
        output: the file that its rows' answers go to, as a real path; `input` as the user named it.
        run_id: the run that made it.
        rows, size, tokens: how many; bytes of its lines; tokens of input.
        made_ms: when it was sealed, `sent_ms` when its creation was last sent, `checked_ms` when
            the provider was last asked, in milliseconds since the epoch.
        file, batch: the provider's ids of them; `file` is empty where none is uploaded.
        word, done, failed: what the provider said of it last.
        note: what a person has to know.
        key: the last characters of the key that made it.
        cancelled: it was cancelled from here.

    """

    intent: str
    output: str
    input: str
    run_id: str
    profile: str
    provider: str
    adapter: str
    base_url: str
    model: str
    wire_path: str
    rows: int
    size: int
    tokens: int
    made_ms: int
    state: State = "sealed"
    sent_ms: int | None = None
    file: str | None = None
    batch: str | None = None
    word: str = ""
    done: int = 0
    failed: int = 0
    checked_ms: int | None = None
    note: str = ""
    key: str = ""
    cancelled: bool = False

    @property
    def is_open(self) -> bool:
        """Whether rows of it wait for their end."""
        return self.state != "done"


class BatchRow(Struct, frozen=True):
    """A row in a batch, in the order of the columns of `batch_rows`: `id` and `answer_key` are
    those of its request, `attempts` the batches it has been in; `fitted`: its answer must fit a
    schema, or its prompt was cut to fit the window."""

    call_id: str
    intent: str
    id: str
    answer_key: str
    attempts: int = 1
    fitted: bool = False


_JOB, _ROW = BatchJob.__struct_fields__, BatchRow.__struct_fields__
_SELECT = f"SELECT {', '.join(_JOB)} FROM batch_jobs"  # noqa: S608 - our own names
_ROWS = f"SELECT {', '.join(_ROW)} FROM batch_rows"  # noqa: S608
_ADD = f"INSERT INTO batch_jobs VALUES ({', '.join('?' * len(_JOB))})"  # noqa: S608
_PUT = f"INSERT OR REPLACE INTO batch_rows VALUES ({', '.join('?' * len(_ROW))})"  # noqa: S608


def _job(row: Sequence[Any]) -> BatchJob:
    return BatchJob(**{**dict(zip(_JOB, row, strict=True)), "cancelled": bool(row[-1])})


class BatchJobs:
    """The batches in the ledger's file. Raises as `Database` does."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._given_back: Callable[[Sequence[str]], Awaitable[None]] | None = None

    def on_given_back(self, hear: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Let `hear` know of calls that were not made: their holds have ended here."""
        self._given_back = hear

    def open_jobs(self, output: str) -> list[BatchJob]:
        """Those of an output that are not done, oldest first."""
        asked = f"{_SELECT} WHERE output = ? AND state != 'done' ORDER BY intent"
        return [_job(row) for row in self._all(asked, (output,))]

    def job(self, intent: str) -> BatchJob:
        """A batch that is on record."""
        return _job(self._all(f"{_SELECT} WHERE intent = ?", (intent,))[0])

    async def seal(self, job: BatchJob, rows: Sequence[BatchRow]) -> None:
        """Put a batch and its rows on record, durably, before anything is sent. Rows that were in
        another batch leave that one."""

        def work(connection: sqlite3.Connection) -> None:
            forget = round(time.time() * 1000) - KEPT
            connection.execute(
                "DELETE FROM batch_jobs WHERE state = 'done' AND made_ms < ?", (forget,)
            )
            connection.execute(_ADD, astuple(job))
            connection.executemany(_PUT, (astuple(row) for row in rows))
            connection.executemany(
                "UPDATE holds SET job = ? WHERE call_id = ?",
                ((job.intent, row.call_id) for row in rows),
            )

        await self._db.write(work)

    async def update(self, intent: str, **changes: object) -> BatchJob:
        """The batch with other values in those fields; durable on return."""
        return await self._db.write(lambda connection: _update(connection, intent, changes))

    def update_now(self, intent: str, **changes: object) -> BatchJob:
        """As `update`, for callers without an event loop."""
        return self._db.write_now(lambda connection: _update(connection, intent, changes))

    async def give_back(self, call_ids: Sequence[str]) -> None:
        """End the holds of rows that cost nothing, and take them out of their batch."""
        ids = [(call_id,) for call_id in call_ids]

        def work(connection: sqlite3.Connection) -> None:
            for one in ids:
                release_hold(connection, *one)
            connection.executemany("DELETE FROM batch_rows WHERE call_id = ?", ids)

        await self._db.write(work)
        if self._given_back is not None:
            await self._given_back(call_ids)

    async def discard(self, intent: str) -> None:
        """Forget a batch that nothing was sent of, and whose rows were given back."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM batch_jobs WHERE intent = ?", (intent,))

        await self._db.write(work)

    def rows(self, intent: str) -> Iterator[list[BatchRow]]:
        """The rows of a batch whose end is not on record, a page at a time."""
        asked, last = f"{_ROWS} WHERE intent = ? AND call_id > ? ORDER BY call_id LIMIT {_PAGE}", ""
        while found := self._all(asked, (intent, last)):
            page = [BatchRow(*row) for row in found]
            yield page
            last = page[-1].call_id

    def _all(self, asked: str, values: tuple[object, ...]) -> list[Any]:
        return self._db.read(lambda connection: connection.execute(asked, values).fetchall())

    def row_of(self, output: str, id: str, answer_key: str) -> BatchRow | None:
        """The row of an input row in a batch of the output; of a sample with another number, too:
        rows that were put before it have moved it."""
        asked = (
            f"SELECT {', '.join(f'batch_rows.{name}' for name in _ROW)} "  # noqa: S608
            "FROM batch_rows JOIN batch_jobs USING (intent) "
            "WHERE answer_key BETWEEN ? AND ? AND id = ? AND output = ?"
        )
        question = answer_key[:64]
        found = self._all(asked, (answer_key, answer_key, id, output)) or self._all(
            asked, (question, f"{question}g", id, output)
        )
        return BatchRow(*found[0]) if found else None

    def asked_by(self, output: str, answer_key: str) -> str | None:
        """The call id of a row in a batch of the output that asks the same question."""
        asked = (
            "SELECT call_id FROM batch_rows JOIN batch_jobs USING (intent) "
            "WHERE answer_key = ? AND output = ? LIMIT 1"
        )
        found = self._all(asked, (answer_key, output))
        return found[0][0] if found else None

    def elsewhere(self, output: str, answer_key: str) -> str | None:
        """Another output that the same question is being answered for in a batch."""
        asked = (
            "SELECT output FROM batch_rows JOIN batch_jobs USING (intent) "
            "WHERE answer_key = ? AND output != ? LIMIT 1"
        )
        found = self._all(asked, (answer_key, output))
        return found[0][0] if found else None

    def has_row(self, intent: str, call_id: str) -> bool:
        """Whether a batch has a row that waits for its end."""
        asked = "SELECT 1 FROM batch_rows WHERE intent = ? AND call_id = ?"
        return bool(self._all(asked, (intent, call_id)))

    def is_open(self, intent: str) -> bool:
        """Whether a batch is on record, and not done."""
        asked = "SELECT 1 FROM batch_jobs WHERE intent = ? AND state != 'done'"
        return bool(self._all(asked, (intent,)))

    def any_open(self) -> bool:
        """Whether any batch of any output is not done."""
        return bool(self._all("SELECT 1 FROM batch_jobs WHERE state != 'done' LIMIT 1", ()))

    def known(self, batch: str) -> bool:
        """Whether a batch is on record under the provider's id."""
        return bool(self._all("SELECT 1 FROM batch_jobs WHERE batch = ?", (batch,)))


def _update(connection: sqlite3.Connection, intent: str, changes: dict[str, object]) -> BatchJob:
    names = ", ".join(f"{name} = ?" for name in changes)
    values = (*changes.values(), intent)
    connection.execute(f"UPDATE batch_jobs SET {names} WHERE intent = ?", values)  # noqa: S608
    return _job(connection.execute(f"{_SELECT} WHERE intent = ?", (intent,)).fetchone())


class BatchJobsPeek(ReadOnlyFile):
    """The batches on record, to look at."""

    def jobs(self, output: str | None = None, *, open_only: bool = False) -> list[BatchJob]:
        """Those of an output, else all, newest first."""
        where = "WHERE (?1 IS NULL OR output = ?1) AND (state != 'done' OR NOT ?2)"
        asked = f"{_SELECT} {where} ORDER BY intent DESC"
        found = self.ask(lambda c: c.execute(asked, (output, open_only)).fetchall())
        return [_job(row) for row in found or []]

    def rows(self, output: str) -> Iterator[tuple[str, str]]:
        """The id and the answer key of each row in the open batches of an output."""
        asked = (
            "SELECT batch_rows.call_id, id, answer_key FROM batch_rows JOIN batch_jobs "  # noqa: S608
            "USING (intent) WHERE output = ? AND state != 'done' AND batch_rows.call_id > ? "
            f"ORDER BY batch_rows.call_id LIMIT {_PAGE}"
        )
        last = ""
        while found := self._page(asked, (output, last)):
            yield from ((row_id, key) for _, row_id, key in found)
            last = found[-1][0]

    def _page(self, asked: str, values: tuple[str, str]) -> list[Any]:
        return self.ask(lambda connection: connection.execute(asked, values).fetchall()) or []
