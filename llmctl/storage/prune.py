"""Removing answers from the cache while others use it, so that nothing of them stays behind.

All work is done in steps of some 50 ms, between which others write. What says something goes
first; a key without a text is a miss.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import Struct

from llmctl.storage.answers import short
from llmctl.storage.cache_tables import PRAGMAS, REMEDY, cache_database
from llmctl.storage.choose import What, choose, pragma, used
from llmctl.storage.files import disk
from llmctl.storage.sqlite import FOREIGN, connect, patiently, translate

_STEP = 0.05
"""Seconds that others may have to wait for the lock for writing, about."""

_REST = 0.005
"""Seconds between two steps: whoever waits for the lock asks for it every millisecond."""

_ROWS = 200  # texts looked at together; the least work of a step
_KEYS = 5000  # keys looked at together
_SPARSE = 0.2  # share of removed texts in a stretch from which on the others are moved together
_ROUNDS = 3  # times to look again whether the file is small enough: others may add all the time
_CHECKPOINT = 10.0  # seconds to wait until nobody reads the WAL any more
_END = 1 << 62

_NEXT = (
    "SELECT t.id, c.id FROM texts AS t LEFT JOIN chosen AS c ON c.id = t.id "
    "WHERE t.id >= ? ORDER BY t.id LIMIT ?"
)
_MOVE_ANSWER = (
    "INSERT INTO answers (model, stored, used, bytes) "
    "SELECT model, stored, used, bytes FROM answers WHERE id = ?"
)
_MOVE_TEXT = (
    "INSERT INTO texts SELECT ?, key, stored, compressed, checksum, value FROM texts WHERE id = ?"
)
_MOVE_KEY = "UPDATE keys SET id = ? WHERE short = ? AND id = ?"
_REMOVE = ("DELETE FROM texts WHERE id = ?", "DELETE FROM answers WHERE id = ?")
_LOOSE = (
    "SELECT short, id IN (SELECT id FROM answers) FROM keys WHERE short > ? ORDER BY short LIMIT ?"
)
_REMOVE_KEY = "DELETE FROM keys WHERE short = ? AND id NOT IN (SELECT id FROM answers)"


class Pruned(Struct, frozen=True):
    """What went, or would go: answers, and the bytes by which the file shrank, or about would.
    `lingers`: another process kept the WAL from being emptied, so its bytes may still hold
    what went until that one ends."""

    entries: int = 0
    bytes: int = 0
    lingers: bool = False


def prune(path: Path, what: What, *, dry_run: bool = False) -> Pruned:
    """Remove answers from the cache at `path`, or with `dry_run` only say what would go.

    A file that is not there has nothing to remove. Raises `DamagedError`, `DiskError` and
    `BusyError`.
    """
    if not path.exists():
        return Pruned()
    cache_database(path).close()  # brings an older file up to date
    try:
        connection = patiently(lambda: connect(path, synchronous="NORMAL", pragmas=PRAGMAS))
        with contextlib.closing(connection):
            return _Pruning(connection).run(what, dry_run=dry_run)
    except FOREIGN as error:
        raise translate(error, path, REMEDY) from error


class _Pruning:
    """One run over one file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, what: What, *, dry_run: bool) -> Pruned:
        before = self._file_bytes()
        entries, about = self._choose(what)
        if dry_run:
            return Pruned(entries, about)
        self._remove()
        for _ in range(_ROUNDS):
            # What stays may lie less densely than was counted on, or others have added to it.
            if what.max_bytes is None or used(self._connection) <= what.max_bytes:
                break
            entries += self._choose(what)[0]
            self._remove()
        lingers = not self._empty_wal()
        return Pruned(entries, max(0, before - self._file_bytes()), lingers)

    def _choose(self, what: What) -> tuple[int, int]:
        return patiently(lambda: choose(self._connection, what))

    def _remove(self) -> None:
        self._remove_texts()
        self._remove_keys()
        self._shrink()

    def _remove_texts(self) -> None:
        start, first = 0, "SELECT min(id) FROM chosen WHERE id >= ?"
        while (at := self._connection.execute(first, (start,)).fetchone()[0]) is not None:
            start = self._step(partial(self._remove_from, at))

    def _remove_from(self, first: int) -> int:
        """Remove texts from this id on, for one step; gives the id after them."""
        until = time.monotonic() + _STEP
        while True:
            rows = self._connection.execute(_NEXT, (first, _ROWS)).fetchall()
            going = [(answer,) for answer, chosen in rows if chosen is not None]
            staying = [answer for answer, chosen in rows if chosen is None]
            if staying and len(going) >= _SPARSE * len(rows):
                # Half-empty pages give nothing back: what stays is written anew, side by side.
                for answer in staying:
                    self._move(answer)
            for statement in _REMOVE:
                self._connection.executemany(statement, going)
            if len(rows) < _ROWS:
                return _END
            first = rows[-1][0] + 1
            if not going or time.monotonic() >= until:
                return first

    def _move(self, answer: int) -> None:
        do = self._connection.execute
        new = do(_MOVE_ANSWER, (answer,)).lastrowid
        do(_MOVE_TEXT, (new, answer))
        key = do("SELECT key FROM texts WHERE id = ?", (answer,)).fetchone()[0]
        do(_MOVE_KEY, (new, short(key), answer))
        for statement in _REMOVE:
            do(statement, (answer,))

    def _remove_keys(self) -> None:
        """Remove the keys that lead nowhere, in their own order: each page is changed once."""
        last = -_END * 2
        while rows := self._connection.execute(_LOOSE, (last, _KEYS)).fetchall():
            loose = [(key,) for key, there in rows if not there]
            if loose:
                self._step(partial(self._remove_loose, loose))
            last = rows[-1][0]

    def _remove_loose(self, keys: list[tuple[int]]) -> int:
        return self._connection.executemany(_REMOVE_KEY, keys).rowcount

    def _shrink(self) -> None:
        """Give free pages back to the file system."""
        pages = 50.0
        while (free := pragma(self._connection, "freelist_count")) > 0:
            began = time.monotonic()
            # A script, because Python's `execute` takes only the first step of this pragma.
            script = f"BEGIN IMMEDIATE; PRAGMA incremental_vacuum({pages:.0f}); COMMIT"
            patiently(partial(self._connection.executescript, script))
            if pragma(self._connection, "freelist_count") >= free:
                return  # others free pages as fast
            took = time.monotonic() - began
            pages = max(10.0, pages * min(2.0, _STEP / max(took, 0.001)))
            time.sleep(_REST)

    def _step(self, work: Callable[[], int]) -> int:
        """What `work` gives, done in one short transaction; then a pause for others."""
        do = self._connection.execute
        patiently(lambda: do("BEGIN IMMEDIATE"))
        try:
            done = work()
            do("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    do("ROLLBACK")
            raise
        time.sleep(_REST)
        return done

    def _empty_wal(self) -> bool:
        """Fold the WAL into the file and cut it to nothing; False when a reader prevents that.

        First without a lock, however long that takes; then there is little left to do while
        others wait.
        """
        until = time.monotonic() + _CHECKPOINT
        while True:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            with contextlib.suppress(sqlite3.OperationalError):
                if not self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    return True
            if time.monotonic() >= until:
                return False
            time.sleep(_REST)

    def _file_bytes(self) -> int:
        return pragma(self._connection, "page_count") * pragma(self._connection, "page_size")


def asides(path: Path, before: float | None = None) -> list[Path]:
    """The files of damaged caches that were set aside, or those of them last changed before that
    time: they hold answers, too."""
    found = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    with disk("read", path.parent):
        return [file for file in found if before is None or file.stat().st_mtime < before]


def remove_all(files: list[Path]) -> int:
    """Remove the files; gives their bytes. Raises `DiskError`."""
    size = 0
    for file in files:
        with disk("remove", file):
            size += file.stat().st_size
            file.unlink()
    return size
