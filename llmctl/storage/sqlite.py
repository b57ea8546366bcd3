"""SQLite at the border: connections as this program wants them, its errors mapped once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from llmctl.errors import BusyError, DiskError, SetupError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""What is done with a connection, inside a transaction when it writes. It reads its results to
the end: a statement left half read keeps everybody's transaction from ending."""

Synchronous = Literal["FULL", "NORMAL"]
"""FULL: a commit survives a power cut. NORMAL: it survives the death of the process only."""

FOREIGN = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second when a message quotes a damaged schema that is no text."""

PATIENCE = 15.0
"""Seconds to wait for another process that writes before giving up."""

_PAUSE = 0.001
_STATEMENTS = 1024
"""Statements that stay prepared: those that do many rows at once come in many sizes."""

_TOGETHER = 32
"""Rows in one statement at most, or twice as many short ones: so many sizes of each statement stay
prepared, and each takes up to a few kilobytes a row."""

_SHORT = 8
"""Columns of a short row at most."""

_SIZES = (8, 32, 128, 512)
"""Values in the list of one statement: few sizes stay prepared, and SQLite before 3.32 takes no
more than 999 values."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class DamagedError(DiskError):
    """A database's bytes are not what was written to it."""


class NewerError(SetupError):
    """A database was written by a newer llmctl than this one."""


def connect(
    path: Path, *, synchronous: Synchronous, pragmas: Sequence[str] = (), read_only: bool = False
) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use.

    A reader waits for locks inside SQLite. A writer does not: SQLite's own waiting sleeps up
    to 100 ms between two tries, which starves one of several busy processes, so writers ask
    again themselves (`patiently`).
    """
    connection = sqlite3.connect(
        path,
        timeout=PATIENCE if read_only else 0.0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )
    try:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        # macOS's fsync leaves the bytes in the drive's memory; these two ask for the real one.
        # Elsewhere they change nothing.
        connection.execute(f"PRAGMA fullfsync={int(synchronous == 'FULL')}")
        connection.execute(f"PRAGMA checkpoint_fullfsync={int(synchronous == 'FULL')}")
        # Looks harder at every page read from the disk: damage is found before it is built upon.
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute(f"PRAGMA query_only={int(read_only)}")
        if not read_only:
            # What a statement or savepoint would undo, with our texts in it, else goes to files in
            # the system's folder for those, some seventy in a thousand rows.
            connection.execute("PRAGMA temp_store=MEMORY")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def parts(items: Sequence[T], columns: int) -> Iterator[Sequence[T]]:
    """The items, rows of so many columns, in lots that one statement each is made for."""
    most = 2 * _TOGETHER if columns <= _SHORT else _TOGETHER
    for start in range(0, len(items), most):
        yield items[start : start + most]


def lists(items: Sequence[T]) -> Iterator[tuple[str, Sequence[T]]]:
    """The items in lists for `IN`, of which one statement each is made: the places for their
    values and the values, filled up with the last one."""
    for start in range(0, len(items), _SIZES[-1]):
        part = items[start : start + _SIZES[-1]]
        size = next(size for size in _SIZES if size >= len(part))
        yield f"({_marks(size)})", [*part, *[part[-1]] * (size - len(part))]


@lru_cache(maxsize=1024)
def _marks(number: int) -> str:
    """So many places for values: `?, ?, ?`."""
    return ", ".join("?" * number)


@lru_cache(maxsize=1024)
def rows(number: int, columns: int) -> str:
    """So many rows of places for values: `(?, ?), (?, ?)`."""
    return ", ".join([f"({_marks(columns)})"] * number)


def patiently(step: Callable[[], T]) -> T:
    """What `step` returns; asks again while another process is in the way, for `PATIENCE`
    seconds, then lets SQLite's own error through."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if _primary(error) not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


def translate(error: BaseException, path: Path, remedy: str) -> BaseException:
    """The program's own error for one of SQLite's; any other error as it is.

    `remedy` is what a user does about a damaged file, as the end of a sentence.
    """
    if isinstance(error, UnicodeDecodeError):
        return damaged(path, remedy, "a text in it is no text")
    if not isinstance(error, sqlite3.Error):
        return error
    code = _primary(error)
    # Without a code it is Python's own complaint that a text is no text.
    if code in _DAMAGED or (code is None and isinstance(error, sqlite3.OperationalError)):
        return damaged(path, remedy, str(error))
    if code in _REFUSED:
        return DiskError(
            f"{path}: the disk refused ({error}); make room or make the folder writable, "
            "then run the same command again"
        )
    if code in _BUSY:
        return BusyError(
            f"{path}: another llmctl has kept it busy for {PATIENCE:g} s; "
            "wait for that one to end, then run the same command again"
        )
    return error


def damaged(path: Path, remedy: str, why: str) -> DamagedError:
    """The error that says a file is damaged, and the way out."""
    # SQLite quotes statements of a damaged schema as they stand, over many lines.
    return DamagedError(f"{path} is damaged ({' '.join(why.split())[:200]}); {remedy}")


def corrupt(why: str) -> sqlite3.DatabaseError:
    """SQLite's own error for damage, for what it does not look for itself."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_about_the_schema(error: BaseException) -> bool:
    """True when a statement did not fit the tables: damage, or a mistake in the program."""
    return isinstance(error, sqlite3.Error) and _primary(error) == sqlite3.SQLITE_ERROR


def _primary(error: sqlite3.Error) -> int | None:
    """The primary result code, without the extended part."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
