"""Which answers pruning takes: by age, by last use, by model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from msgspec import Struct

_TABLE = "CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)"
_MATCH = (
    "SELECT a.id, a.bytes FROM answers AS a JOIN models AS m ON m.id = a.model "
    "WHERE (:model IS NULL OR :model IN (m.asked, m.answered)) "
)
_OLD = "INSERT INTO chosen " + _MATCH + "AND a.stored < :before"
_ALL = "INSERT INTO chosen " + _MATCH
_LEAST_USED = f"{_MATCH} AND a.id NOT IN (SELECT id FROM chosen) ORDER BY a.used, a.id"  # noqa: S608


class What(Struct, frozen=True):
    """Which answers go. `before`: those stored before this time (seconds since the epoch);
    `max_bytes`: those used least recently, until the file needs no more than that; both: either.
    `model`, as asked for or as answered: of these only. None of them: all answers."""

    before: float | None = None
    max_bytes: int | None = None
    model: str | None = None


def choose(connection: sqlite3.Connection, what: What) -> tuple[int, int]:
    """Put what goes into the temporary table `chosen`, anew; gives the number of answers, and
    about the bytes that they take."""
    do = connection.execute
    do("DROP TABLE IF EXISTS temp.chosen")
    do(_TABLE)
    overhead = _overhead(connection)
    if what.before is not None:
        do(_OLD, {"model": what.model, "before": what.before})
    if what.max_bytes is not None:
        _least_used(connection, what, overhead)
    elif what.before is None:
        do(_ALL, {"model": what.model})
    entries, size = _sums(connection, "chosen")
    return entries, round(size + entries * overhead)


def used(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A number that SQLite knows."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _least_used(connection: sqlite3.Connection, what: What, overhead: float) -> None:
    """Of the answers that would stay, those used longest ago, until the file is small enough."""
    entries, size = _sums(connection, "chosen")
    excess = used(connection) - (what.max_bytes or 0) - size - entries * overhead
    if excess > 0:
        found = connection.execute(_LEAST_USED, {"model": what.model})
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO chosen VALUES (?, ?)", _until(found, excess, overhead))
        connection.execute("COMMIT")


def _until(
    found: Iterator[tuple[int, int]], excess: float, overhead: float
) -> Iterator[tuple[int, int]]:
    for answer, size in found:
        if excess <= 0:
            return
        yield answer, size
        excess -= size + overhead


def _overhead(connection: sqlite3.Connection) -> float:
    """Bytes that an answer takes in the file beside its own."""
    entries, size = _sums(connection, "answers")
    return max(0.0, (used(connection) - size) / entries) if entries else 0.0


def _sums(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    row = connection.execute(f"SELECT count(*), ifnull(sum(bytes), 0) FROM {table}").fetchone()  # noqa: S608
    return int(row[0]), int(row[1])
