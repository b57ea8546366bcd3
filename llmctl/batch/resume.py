"""Resuming a batch: which rows have an answer, which ids repeat, in a temporary SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from llmctl.batch.input import InputFile
from llmctl.batch.output import AnswerLine
from llmctl.batch.rows import RowError, RowReader
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.storage.database import temporary_file

SHOWN = 20
"""Problems that a message names one by one; the rest is counted."""

RowLine = tuple[int, int, str, bytes]
"""A row's index, its line, its id, and the first 16 bytes of its request's fingerprint."""

CheckedRow = tuple[int, str, bytes]
"""A row's index, its id, and the first 16 bytes of its request's fingerprint."""

_SETUP = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -2000;
CREATE TABLE rows (number INTEGER PRIMARY KEY, line INTEGER, id TEXT, digest BLOB);
CREATE TABLE answers (start INTEGER PRIMARY KEY, id TEXT, digest BLOB);
CREATE TABLE submitted (id TEXT, digest BLOB);
CREATE TABLE matched (number INTEGER PRIMARY KEY, same INTEGER, answers INTEGER);
CREATE VIEW unanswered AS
  SELECT rows.number AS number, rows.id AS id, rows.digest AS digest
  FROM rows LEFT JOIN matched USING (number) WHERE same IS NOT 1;
"""


class RowIndex(AbstractContextManager["RowIndex"]):
    """The rows of an input and the answers of an output, compared by id and fingerprint.

    `size` is the number of rows, `unmatched` how many answers belong to no row. The file has no
    name, ends with the process, and keeps 2 MB in memory. Every method raises `DiskError` when it
    cannot grow. Threads may take turns.
    """

    def __init__(self) -> None:
        self.size = 0
        self.unmatched = 0
        with temporary_file():
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._db.executescript(_SETUP)

    def add_rows(self, rows: Iterable[RowLine]) -> None:
        """Put in all rows of the input. Raises what `rows` raises."""
        self._insert("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)
        self._query("CREATE INDEX row_id ON rows (id, digest)")
        ((self.size,),) = self._query("SELECT count(*) FROM rows")

    def duplicates(self) -> tuple[int, list[tuple[int, str, int]]]:
        """How many rows have the id of an earlier row, and the first of them in input order:
        line, id, and the line of the earlier row."""
        ((count,),) = self._query("SELECT count(*) - count(DISTINCT id) FROM rows")
        return count, [] if not count else self._query(
            "SELECT line, id, earlier FROM (SELECT line, id, number, "
            "first_value(number) OVER same AS first, first_value(line) OVER same AS earlier "
            "FROM rows WINDOW same AS (PARTITION BY id ORDER BY number)) "
            "WHERE number > first ORDER BY number LIMIT ?",
            SHOWN,
        )

    def add_answers(self, answers: Iterable[AnswerLine]) -> None:
        """Put in all answers of the output instead of those before. Raises what `answers` raises.

        An id that has answers to the present and to an older question counts as answered.
        """
        self._query("DELETE FROM answers")
        self._query("DELETE FROM matched")
        self._insert("INSERT INTO answers (id, digest, start) VALUES (?, ?, ?)", answers)
        self._query(
            "INSERT INTO matched SELECT number, max(answers.digest = rows.digest), count(*) "
            "FROM answers JOIN rows ON rows.id = answers.id GROUP BY number"
        )
        ((self.unmatched,),) = self._query(
            "SELECT (SELECT count(*) FROM answers) - coalesce(sum(answers), 0) FROM matched"
        )

    def changed(self) -> tuple[int, list[tuple[int, str]]]:
        """How many rows only have an answer to another question, and the first: line, id."""
        ((count,),) = self._query("SELECT count(*) FROM matched WHERE NOT same")
        return count, self._query(
            "SELECT line, id FROM matched JOIN rows USING (number) WHERE NOT same "
            "ORDER BY number LIMIT ?",
            SHOWN,
        )

    def add_submitted(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Put in the rows that are in batches of the provider: their ids and digests."""
        self._insert("INSERT INTO submitted VALUES (?, ?)", rows)

    def changed_since(self) -> tuple[int, list[tuple[int, str]]]:
        """How many rows only have another question in a batch, and the first: line, id."""
        changed = (
            "FROM (SELECT number, line, id FROM rows JOIN submitted USING (id) "
            "GROUP BY number HAVING NOT max(submitted.digest = rows.digest))"
        )
        ((count,),) = self._query(f"SELECT count(*) {changed}")
        return count, self._query(f"SELECT line, id {changed} ORDER BY number LIMIT ?", SHOWN)

    def submitted_beyond(self, limit: int) -> tuple[int, int]:
        """How many rows in batches are none of the first `limit`, and how many are no rows."""
        (found,) = self._query(
            "SELECT count(number), count(*) FROM submitted LEFT JOIN rows USING (id) "
            "WHERE number IS NULL OR number >= ?",
            limit,
        )
        return found[0], found[1] - found[0]

    def answered(self, limit: int) -> int:
        """How many of the first `limit` rows have their answer."""
        query = "SELECT count(*) FROM matched WHERE same AND number < ?"
        return int(self._query(query, limit)[0][0])

    def all(self, limit: int) -> Iterator[CheckedRow]:
        """The first `limit` rows, ascending."""
        return self._rows("SELECT number, id, digest FROM rows WHERE number < ? ORDER BY 1", limit)

    def unanswered(self, limit: int) -> Iterator[CheckedRow]:
        """Those of the first `limit` rows that have no answer, ascending."""
        return self._rows(
            "SELECT number, id, digest FROM unanswered WHERE number < ? ORDER BY 1", limit
        )

    def first_of_question(self, limit: int) -> Iterator[int]:
        """Those of the unanswered rows that are the first to ask their question, ascending."""
        return self._numbers(
            "SELECT min(number) FROM unanswered WHERE number < ? GROUP BY digest ORDER BY 1", limit
        )

    def repeats(self, limit: int) -> Iterator[tuple[int, int]]:
        """Those of the first `limit` rows that ask an earlier row's question, ascending, and how
        many rows asked it before."""
        query = (
            "SELECT number, earlier FROM (SELECT number, row_number() OVER "
            "(PARTITION BY digest ORDER BY number) - 1 AS earlier FROM rows) "
            "WHERE earlier > 0 AND number < ? ORDER BY number"
        )
        with temporary_file():
            yield from self._db.execute(query, (limit,))

    def answers_in_order(self) -> Iterator[int]:
        """Where each answer begins, in input order; those of no row last, in their own order."""
        return self._numbers(
            "SELECT start FROM answers LEFT JOIN rows USING (id) "
            "ORDER BY number IS NULL, number, start"
        )

    def _insert(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        with temporary_file():
            self._db.execute("BEGIN")
            self._db.executemany(statement, values)
            self._db.execute("COMMIT")

    def _query(self, query: str, *parameters: int) -> list[Any]:
        with temporary_file():
            return self._db.execute(query, parameters).fetchall()

    def _numbers(self, query: str, *parameters: int) -> Iterator[int]:
        return (number for (number,) in self._rows(query, *parameters))

    def _rows(self, query: str, *parameters: int) -> Iterator[Any]:
        with temporary_file():
            for row in self._db.execute(query, parameters):  # noqa: UP028 - would close the cursor
                yield row

    def __exit__(self, *_: object) -> None:
        self._db.close()


@contextmanager
def index_rows(source: InputFile, reader: RowReader, profile: Profile) -> Iterator[RowIndex]:
    """The index of a whole input, read once.

    Raises `InputError` that lists the first 20 problems, with line numbers, and their count.
    """
    problems: list[tuple[int, str]] = []
    count = 0

    def rows() -> Iterator[RowLine]:
        nonlocal count
        for number, record in enumerate(source.records()):
            try:
                made = reader.request(record, profile)
            except RowError as error:
                count += 1
                if count <= SHOWN:
                    problems.append((record[0], str(error)))
            else:
                yield number, record[0], made.id, bytes.fromhex(made.row_key[:32])

    with RowIndex() as index:
        index.add_rows(rows())
        if index.size and reader.missing:
            raise InputError(
                f"no row of {source.name} has the field {min(reader.missing)!r} (--keep)"
            )
        repeated, first = index.duplicates()
        problems += [
            (line, f"the id {_short(name)} is that of line {old}") for line, name, old in first
        ]
        _refuse(source, "", problems, count + repeated)
        yield index


def check_unchanged(index: RowIndex, source: InputFile, output: Path | None) -> None:
    """Raise `InputError` that names the rows whose answers in `output` are to another question."""
    count, first = index.changed()
    _refuse(
        source,
        f": {output} has an answer to another question (prompt, model, parameters or provider "
        "were different); --restart throws all answers there away, -o FILE keeps them and starts "
        "another file",
        [(line, f"the question of id {_short(name)} has changed") for line, name in first],
        count,
    )


def check_submitted(index: RowIndex, source: InputFile, output: Path, limit: int) -> int:
    """How many rows in batches of the provider are no rows of the input. Raises `InputError` where
    a run of the first `limit` rows would pay for a row twice: it has another question there, or
    its answer would come and be of no use."""
    count, first = index.changed_since()
    _refuse(
        source,
        f": a batch of the provider is answering another question for {output} (prompt, model or "
        "parameters were different); fetch it with the command that submitted it, or end it with "
        "--cancel",
        [(line, f"the question of id {_short(name)} has changed") for line, name in first],
        count,
    )
    beyond, gone = index.submitted_beyond(limit)
    if beyond:
        raise InputError(
            f"{beyond:,} of the rows that --limit leaves out are in a batch of the provider: fetch "
            "them without --limit"
        )
    return gone


def _refuse(source: InputFile, why: str, problems: list[tuple[int, str]], count: int) -> None:
    """Raise, where there are problems, an `InputError` of their count, `why`, the first of them as
    `NAME:LINE: …`, each once with its other lines, and how many more there are."""
    if not count:
        return
    shown = sorted(problems)[:SHOWN]
    found: dict[str, list[int]] = {}
    for line, problem in shown:
        found.setdefault(problem, []).append(line)
    text = [f"{source.name}: {count:,} problem{'s' * (count != 1)}, nothing was sent{why}"]
    for problem, (first, *others) in found.items():
        text.append(f"{source.name}:{first}: {problem}")
        if others:
            text.append(
                f"  the same in line{'s' * (len(others) > 1)} {', '.join(map(str, others))}"
            )
    if count > len(shown):
        text.append(f"… and {count - len(shown):,} more")
    raise InputError("\n".join(text))


def _short(id: str) -> str:
    """The id in quotes, as a message can show it."""
    plain = id if id.isprintable() else ascii(id)[1:-1]
    return f'"{plain if len(plain) <= 60 else plain[:59] + "…"}"'
