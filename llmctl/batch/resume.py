"""Resuming a batch: which rows have an answer, which ids repeat, in a temporary SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

from llmctl.batch.input import InputFile, Mark, Record
from llmctl.batch.output import AnswerLine
from llmctl.batch.rows import RowError, RowReader
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.storage.database import temporary_file

SHOWN = 20
"""Problems that a message names one by one; the rest is counted."""

RowLine = tuple[int, int, str, bytes, int]
"""A row's index, its line, its id, the first 16 bytes of its request's fingerprint, and its
priority."""

CheckedRow = tuple[int, str, bytes]
"""A row's index, its id, and the first 16 bytes of its request's fingerprint."""

Lot = tuple[int, int]
"""The rows of one rank (their priority below 0) whose indexes are those of one block."""

LOT = 50  # rows of a block

_SETUP = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -2000;
CREATE TABLE rows (number INTEGER PRIMARY KEY, line INTEGER, id TEXT, digest BLOB, rank INTEGER);
CREATE TABLE answers (start INTEGER PRIMARY KEY, id TEXT, digest BLOB);
CREATE TABLE submitted (id TEXT, digest BLOB);
CREATE TABLE matched (number INTEGER PRIMARY KEY, same INTEGER, answers INTEGER);
CREATE TABLE repeated (number INTEGER PRIMARY KEY, earlier INTEGER);
CREATE TABLE drawn (number INTEGER PRIMARY KEY, elsewhere INTEGER);
CREATE TABLE unknown (id TEXT PRIMARY KEY, digest BLOB);
CREATE VIEW unanswered AS
  SELECT rows.number AS number, rows.id AS id, rows.digest AS digest, rows.rank AS rank
  FROM rows LEFT JOIN matched USING (number) WHERE same IS NOT 1;
CREATE VIEW undrawn AS
  SELECT rows.number AS number, rows.id AS id, rows.digest AS digest, rows.rank AS rank
  FROM rows LEFT JOIN matched USING (number) LEFT JOIN drawn USING (number)
  WHERE same IS NOT 1 AND drawn.number IS NULL;
"""

_MATCH = """
INSERT INTO matched SELECT number, max(answers.digest = rows.digest), count(*)
FROM answers JOIN rows ON rows.id = answers.id WHERE number >= ? GROUP BY number
"""
# A cross join keeps its order: few rows are looked up among all answers.
_MATCH_APPENDED = _MATCH.replace("answers JOIN rows", "rows CROSS JOIN answers")

_DUPLICATES = """
SELECT line, id, earlier FROM (
  SELECT line, id, number, first_value(number) OVER same AS first,
  first_value(line) OVER same AS earlier
  FROM rows WINDOW same AS (PARTITION BY id ORDER BY number)
) WHERE number > first ORDER BY number LIMIT ?
"""
_DUPLICATES_APPENDED = """
SELECT new.line, new.id, min(old.line) FROM rows AS new JOIN rows AS old USING (id)
WHERE new.number >= ? AND old.number < new.number GROUP BY new.number ORDER BY new.number
"""

_NEXT_OF_RANK = """
SELECT rank, number FROM undrawn WHERE rank = ? AND number >= ? AND number < ?
ORDER BY number LIMIT 1
"""
_NEXT_RANK = """
SELECT rank, number FROM undrawn WHERE rank > ? AND number < ? ORDER BY rank, number LIMIT 1
"""

# For the rows from ?1 on; what came before is in the table already.
_COUNT_REPEATS = """
INSERT INTO repeated SELECT number, earlier FROM (
  SELECT number, row_number() OVER (PARTITION BY digest ORDER BY number) - 1 + coalesce((
    SELECT 1 + coalesce(repeated.earlier, 0)
    FROM rows AS old INDEXED BY row_digest LEFT JOIN repeated USING (number)
    WHERE old.digest = new.digest AND old.number < ?1 ORDER BY old.number DESC LIMIT 1
  ), 0) AS earlier FROM rows AS new WHERE number >= ?1
) WHERE earlier > 0
"""


class RowIndex(AbstractContextManager["RowIndex"]):
    """The rows of an input and the answers of an output, compared by id and fingerprint.

    `size` is the number of rows, `unmatched` how many answers belong to no row; `ranked`: some row
    has a priority. The file has no name, ends with the process, and keeps 2 MB in memory. Every
    method raises `DiskError` when it cannot grow. Many threads may use it.
    """

    def __init__(self) -> None:
        self.size = 0
        self.unmatched = 0
        self.ranked = False
        self._turn = RLock()
        self._repeats_of = 0  # so many rows have been looked at for repeats
        with temporary_file():
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._db.executescript(_SETUP)

    def add_rows(self, rows: Iterable[RowLine]) -> None:
        """Put in all rows of the input. Raises what `rows` raises."""
        self._add(rows)
        self._query("CREATE INDEX row_id ON rows (id, digest)")

    def append_rows(self, rows: Iterable[RowLine]) -> None:
        """Put in rows that have come after the others, whose answers may be known already. Raises
        what `rows` raises."""
        first = self.size
        self._query("CREATE INDEX IF NOT EXISTS answer_id ON answers (id)")
        self._add(rows)
        self._query(_MATCH_APPENDED, first)
        self._query(
            "INSERT INTO drawn SELECT number, 1 FROM rows CROSS JOIN unknown USING (id) "
            "WHERE number >= ? AND unknown.digest = rows.digest",
            first,
        )

    def _add(self, rows: Iterable[RowLine]) -> None:
        def ranked() -> Iterator[RowLine]:
            for number, line, name, digest, priority in rows:
                if priority:
                    self.ranked = True
                yield number, line, name, digest, -priority

        self._insert("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", ranked())
        ((self.size,),) = self._query("SELECT coalesce(max(number), -1) + 1 FROM rows")
        if self.ranked:
            self.index_ranks()

    def index_ranks(self) -> None:
        """Let rows be found by rank; of rows without a priority only lots need it."""
        self._query("CREATE INDEX IF NOT EXISTS row_rank ON rows (rank)")

    def duplicates(self, since: int = 0) -> tuple[int, list[tuple[int, str, int]]]:
        """How many rows, of those from the index `since` on, have the id of an earlier row, and the
        first of them in input order: line, id, and the line of the earlier row."""
        if since:
            found = self._query(_DUPLICATES_APPENDED, since)
            return len(found), found[:SHOWN]
        ((count,),) = self._query("SELECT count(*) - count(DISTINCT id) FROM rows")
        return count, self._query(_DUPLICATES, SHOWN) if count else []

    def add_answers(self, answers: Iterable[AnswerLine]) -> None:
        """Put in all answers of the output instead of those before. Raises what `answers` raises.

        An id that has answers to the present and to an older question counts as answered.
        """
        self._query("DELETE FROM answers")
        self._query("DELETE FROM matched")
        self._insert("INSERT INTO answers (id, digest, start) VALUES (?, ?, ?)", answers)
        self._query(_MATCH, 0)
        ((self.unmatched,),) = self._query(
            "SELECT (SELECT count(*) FROM answers) - coalesce(sum(answers), 0) FROM matched"
        )

    def changed(self, since: int = 0) -> tuple[int, list[tuple[int, str]]]:
        """How many rows, of those from the index `since` on, only have an answer to another
        question, and the first: line, id."""
        ((count,),) = self._query(
            "SELECT count(*) FROM matched WHERE NOT same AND number >= ?", since
        )
        return count, self._query(
            "SELECT line, id FROM matched JOIN rows USING (number) WHERE NOT same "
            "AND number >= ? ORDER BY number LIMIT ?",
            since, SHOWN,
        )  # fmt: skip

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

    def answered(self, limit: int, since: int = 0) -> int:
        """How many of the first `limit` rows, from the index `since` on, have their answer."""
        query = "SELECT count(*) FROM matched WHERE same AND number >= ? AND number < ?"
        return int(self._query(query, since, limit)[0][0])

    def all(self, limit: int) -> Iterator[CheckedRow]:
        """The first `limit` rows, ascending."""
        return self._rows("SELECT number, id, digest FROM rows WHERE number < ? ORDER BY 1", limit)

    def unanswered(self, limit: int, *, ranked: bool = False) -> Iterator[CheckedRow]:
        """Those of the first `limit` rows that have no answer, ascending; `ranked`: those of the
        highest priority first."""
        order = "rank, number" if ranked and self.ranked else "number"
        query = "SELECT number, id, digest FROM unanswered WHERE number < ? ORDER BY"
        return self._rows(f"{query} {order}", limit)

    def next_lot(self, after: Lot | None, limit: int) -> Lot | None:
        """The first lot that has undrawn rows without an answer among the first `limit`; `after`
        that one. Those of the highest priority come first. Needs `index_ranks`."""
        rank, start = (-101, 0) if after is None else (after[0], (after[1] + 1) * LOT)
        found = after and self._query(_NEXT_OF_RANK, rank, start, limit)
        found = found or self._query(_NEXT_RANK, rank, limit)
        return (found[0][0], found[0][1] // LOT) if found else None

    def draw(self, lot: Lot, limit: int) -> list[CheckedRow]:
        """The undrawn rows of the lot that have no answer, ascending, which are drawn now."""
        begin, end = lot[1] * LOT, min((lot[1] + 1) * LOT, limit)
        rows = self._query(
            "SELECT number, id, digest FROM undrawn WHERE rank = ? AND number >= ? AND number < ? "
            "ORDER BY number",
            lot[0], begin, end,
        )  # fmt: skip
        self._insert("INSERT INTO drawn VALUES (?, 0)", ((number,) for number, *_ in rows))
        return rows

    def note_elsewhere(self, id: str, digest: bytes) -> tuple[int | None, bool]:
        """Another process has written a record of this row: its index, where the row is known, and
        whether it had been drawn here."""
        found = self._query("SELECT number FROM rows WHERE id = ? AND digest = ?", id, digest)
        if not found:
            self._query("INSERT OR IGNORE INTO unknown VALUES (?, ?)", id, digest)
            return None, False
        number = found[0][0]
        drawn = self._query("SELECT 1 FROM drawn WHERE number = ? AND NOT elsewhere", number)
        self._query("INSERT OR REPLACE INTO drawn VALUES (?, 1)", number)
        return number, bool(drawn)

    def has_answer(self, id: str) -> bool:
        """Whether the row of this id has its answer."""
        query = "SELECT 1 FROM rows JOIN matched USING (number) WHERE same AND id = ?"
        return bool(self._query(query, id))

    def digest(self, rows: int) -> str:
        """The SHA-256 of the ids and the questions of the first `rows` rows, in hex."""
        hashed = sha256()
        for _, name, digest in self.all(rows):
            hashed.update(digest + name.encode("utf-8", "surrogatepass") + b"\n")
        return hashed.hexdigest()

    def first_of_question(self, limit: int) -> Iterator[int]:
        """Those of the unanswered rows that are the first to ask their question, ascending."""
        return self._numbers(
            "SELECT min(number) FROM unanswered WHERE number < ? GROUP BY digest ORDER BY 1", limit
        )

    def earlier(self, number: int) -> int:
        """How many rows ask the question of this row before it does."""
        if self._repeats_of < self.size:
            # Counted once for all, at the first row that needs it: most files have none.
            self._query("CREATE INDEX IF NOT EXISTS row_digest ON rows (digest)")
            self._query(_COUNT_REPEATS, self._repeats_of)
            self._repeats_of = self.size
        found = self._query("SELECT earlier FROM repeated WHERE number = ?", number)
        return int(found[0][0]) if found else 0

    def answers_in_order(self) -> Iterator[int]:
        """Where each answer begins, in input order; those of no row last, in their own order."""
        return self._numbers(
            "SELECT start FROM answers LEFT JOIN rows USING (id) "
            "ORDER BY number IS NULL, number, start"
        )

    def _insert(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        with self._turn, temporary_file():
            self._db.execute("BEGIN")
            self._db.executemany(statement, values)
            self._db.execute("COMMIT")

    def _query(self, query: str, *parameters: int | str | bytes) -> list[Any]:
        with self._turn, temporary_file():
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
    with RowIndex() as index:
        checked = _Checked(source.records(), 0, reader, profile)
        index.add_rows(checked)
        if index.size and reader.missing:
            raise InputError(
                f"no row of {source.name} has the field {min(reader.missing)!r} (--keep)"
            )
        checked.refuse(index, source)
        yield index


def index_appended(
    index: RowIndex,
    source: InputFile,
    since: Mark,
    reader: RowReader,
    profile: Profile,
    stopped: str | None,
) -> int:
    """Put the rows into the index that were appended to the input `since` then; gives their number.
    Raises `InputError` as `index_rows`; `stopped` says what became of the run
    (None: nothing was sent)."""
    first = index.size
    checked = _Checked(source.records(since), first, reader, profile)
    index.append_rows(checked)
    checked.refuse(index, source, stopped)
    return index.size - first


class _Checked:
    """The valid rows among records, and what is wrong with the others; `first` is the index of the
    first."""

    def __init__(
        self, records: Iterator[Record], first: int, reader: RowReader, profile: Profile
    ) -> None:
        self._records, self._first, self._reader, self._profile = records, first, reader, profile
        self._problems: list[tuple[int, str]] = []
        self._count = 0

    def __iter__(self) -> Iterator[RowLine]:
        for number, record in enumerate(self._records, self._first):
            try:
                row, made = self._reader.read(record, self._profile)
            except RowError as error:
                self._count += 1
                if self._count <= SHOWN:
                    self._problems.append((record[0], str(error)))
            else:
                key = bytes.fromhex(made.row_key[:32])
                yield number, record[0], made.id, key, row.priority

    def refuse(self, index: RowIndex, source: InputFile, stopped: str | None = None) -> None:
        """Raise `InputError` where there are problems, or ids that repeat."""
        repeated, first = index.duplicates(self._first)
        self._problems += [
            (line, f"the id {_short(name)} is that of line {old}") for line, name, old in first
        ]
        _refuse(source, "", self._problems, self._count + repeated, stopped)


def check_unchanged(
    index: RowIndex,
    source: InputFile,
    output: Path | None,
    since: int = 0,
    stopped: str | None = None,
) -> None:
    """Raise `InputError` that names the rows, of those from the index `since` on, whose answers in
    `output` are to another question; `stopped` as in `index_appended`."""
    count, first = index.changed(since)
    _refuse(
        source,
        f": {output} has an answer to another question (prompt, model, parameters or provider "
        "were different); --restart throws all answers there away, -o FILE keeps them and starts "
        "another file",
        [(line, f"the question of id {_short(name)} has changed") for line, name in first],
        count,
        stopped,
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


def _refuse(
    source: InputFile,
    why: str,
    problems: list[tuple[int, str]],
    count: int,
    stopped: str | None = None,
) -> None:
    """Raise, where there are problems, an `InputError` of their count, what became of the run
    (None: nothing was sent), `why`, the first of them as `NAME:LINE: …`, each once with its other
    lines, and how many more there are."""
    if not count:
        return
    shown = sorted(problems)[:SHOWN]
    found: dict[str, list[int]] = {}
    for line, problem in shown:
        found.setdefault(problem, []).append(line)
    what = f"{count:,} problem{'s' * (count != 1)}"
    if stopped is None:
        what += ", nothing was sent"
    else:
        what += f", line {shown[0][0]}{' and on' * (count > 1)}: {stopped}"
    text = [f"{source.name}: {what}{why}"]
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
