"""The cache of answers in one SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llmctl.clock import Clock, SystemClock
from llmctl.protocols import CachedAnswer
from llmctl.stores.answers import checksum, pack, unpack, verify
from llmctl.stores.database import Database
from llmctl.stores.migrations import Migration
from llmctl.stores.sqlite import damaged

MIGRATIONS = (
    Migration(
        "cache-001-answers",
        (
            # A rowid table: values of kilobytes would bloat the tree that lookups descend.
            """
            CREATE TABLE answers (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL UNIQUE,
                model TEXT NOT NULL,
                stored REAL NOT NULL,
                used INTEGER NOT NULL,
                bytes INTEGER NOT NULL,
                compressed INTEGER NOT NULL,
                checksum INTEGER NOT NULL,
                value BLOB NOT NULL
            )
            """,
            # For pruning by size (least recently used first), age and model, and for adding up.
            "CREATE INDEX answers_used ON answers (used, bytes)",
            "CREATE INDEX answers_stored ON answers (stored, bytes)",
            "CREATE INDEX answers_model ON answers (model, bytes)",
        ),
    ),
)

PRAGMAS = (
    # Deleted and replaced answers are overwritten with zeros, not only unlinked: after pruning
    # (and a truncating checkpoint, for the WAL) their text is in no byte of the files.
    "secure_delete=ON",
    # 16 MiB hold the inner pages of a million entries' indexes.
    "cache_size=-16384",
)

_REMEDY = "remove it: nothing but cached answers is lost"
_RECENT = 3600  # seconds; who prunes by last use does not ask for minutes
_BATCH = 1000  # hits whose time of use is written together
_PUT = (
    "INSERT INTO answers (key, model, stored, used, bytes, compressed, checksum, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
    "model = excluded.model, stored = excluded.stored, used = excluded.used, "
    "bytes = excluded.bytes, compressed = excluded.compressed, checksum = excluded.checksum, "
    "value = excluded.value"
)


class SqliteCache:
    """The `CacheStore` on disk. Keys are fingerprints: hexadecimal digits.

    Getting and putting raise what `Database` does; an answer that is not what was stored is a
    `DamagedError` too.
    """

    def __init__(self, db: Database, clock: Clock | None = None) -> None:
        self._db = db
        self._clock = clock or SystemClock()
        self._used: dict[bytes, int] = {}

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        binary = bytes.fromhex(key)
        found = self._db.read(lambda connection: self._find(connection, binary))
        if found is None:
            return None
        answer, used = found
        now = int(self._clock.wall())
        if now - used >= _RECENT:
            # Written later, many together: a lookup must not cost a write.
            self._used[binary] = now
            if len(self._used) >= _BATCH:
                self._note_use()
        return answer

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer, instead of an older one. Once this returns it outlives the process;
        a power cut may undo it."""
        binary, now = bytes.fromhex(key), int(self._clock.wall())

        def work(connection: sqlite3.Connection) -> None:
            value, compressed = pack(answer)
            check = checksum(binary, value, answer.stored)
            connection.execute(
                _PUT,
                (binary, answer.model, answer.stored, now, len(value), compressed, check, value),
            )

        await self._db.write(work)

    def close(self) -> None:
        """Write what is queued and close the file."""
        if self._used:
            self._note_use()
        self._db.close()

    def _find(self, connection: sqlite3.Connection, key: bytes) -> tuple[CachedAnswer, int] | None:
        """The answer and when it was last noted as used."""
        row = connection.execute(
            "SELECT value, compressed, checksum, stored, used FROM answers WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        value, compressed, check, stored, used = row
        try:
            verify(key, value, stored, check)
            return unpack(value, compressed=bool(compressed), stored=stored), int(used)
        except Exception as error:
            # Flipped bits may change the type of any column: whatever fails here is damage.
            raise damaged(self._db.path, _REMEDY, str(error)) from error

    def _note_use(self) -> None:
        used, self._used = self._used, {}
        self._db.post(
            lambda connection: connection.executemany(
                "UPDATE answers SET used = ? WHERE key = ? AND used < ?",
                [(at, key, at) for key, at in used.items()],
            )
        )


def cache_database(path: Path) -> Database:
    """The database of a cache. Raises as `Database` does."""
    return Database(
        path,
        MIGRATIONS,
        synchronous="NORMAL",
        pragmas=PRAGMAS,
        # Settled when the file is made, because later it would take rewriting all of it: free
        # pages can be given back a few at a time (`PRAGMA incremental_vacuum`, once for each
        # page: Python's sqlite3 takes only its first step), so pruning shrinks the file without
        # locking it for long.
        auto_vacuum="INCREMENTAL",
        remedy=_REMEDY,
        keep_copy=False,  # pruning could not reach the text in it
    )
