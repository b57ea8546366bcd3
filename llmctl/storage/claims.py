"""Who works on what: claims that the processes of one machine share, in one SQLite table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Self

from llmctl.clock import Clock, SystemClock
from llmctl.protocols import Claim
from llmctl.storage.database import Database, Migration
from llmctl.storage.process import SILENCE, Process

_MIGRATIONS = (
    Migration(
        "claims-001",
        (
            # `at` is the owner's last sign of life.
            """
            CREATE TABLE claims (
                key TEXT NOT NULL PRIMARY KEY,
                pid INTEGER NOT NULL,
                birth TEXT NOT NULL,
                world TEXT NOT NULL,
                at REAL NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)
_OWNER = "SELECT pid, birth, world, at FROM claims WHERE key = ?"
_TAKE = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)"
_END = "DELETE FROM claims WHERE key = ? AND pid = ? AND birth = ? AND world = ?"
_BEAT = "UPDATE claims SET at = ? WHERE pid = ? AND birth = ? AND world = ?"
_OWNERS = "SELECT pid, birth, world, max(at) FROM claims GROUP BY pid, birth, world"
_FORGET = "DELETE FROM claims WHERE pid = ? AND birth = ? AND world = ?"


class SqliteClaims:
    """The `Claims` of one machine, in the file at `path`; those of dead processes are free.

    A process in sight is alive until it has ended, however long it says nothing: what it claimed
    would be paid for twice. One in another container is after `SILENCE` without a `beat` taken for
    dead. Raises `DiskError` and `BusyError`, and nothing is claimed then.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        me = Process.current()
        self._me = (me.pid, me.birth, me.world)
        # A claim need not survive a power cut: neither does the process.
        self._db = Database(path, _MIGRATIONS, replaceable=True)
        self._db.write_now(self._forget_dead)

    async def claim(self, key: str) -> Claim:
        """As `Claims.claim`."""

        def is_free(connection: sqlite3.Connection) -> bool:
            row = connection.execute(_OWNER, (key,)).fetchone()
            return row is None or row[:3] == self._me or self._is_dead(*row)

        def take(connection: sqlite3.Connection) -> Claim:
            if not is_free(connection):
                return "theirs"
            connection.execute(_TAKE, (key, *self._me, self._clock.wall()))
            return "ours"

        # Who waits for another asks again and again: without the lock for writing.
        return await self._db.write(take) if self._db.read(is_free) else "theirs"

    async def release(self, key: str) -> None:
        """As `Claims.release`."""
        await self._db.write(lambda connection: connection.execute(_END, (key, *self._me)).rowcount)

    async def beat(self) -> None:
        """As `Claims.beat`."""
        values = (self._clock.wall(), *self._me)
        await self._db.write(lambda connection: connection.execute(_BEAT, values).rowcount)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _is_dead(self, pid: int, birth: str, world: str, at: float) -> bool:
        silent = self._clock.wall() - at >= SILENCE
        return Process(pid, birth, world).is_dead(out_of_sight=silent)

    def _forget_dead(self, connection: sqlite3.Connection) -> None:
        for owner in connection.execute(_OWNERS).fetchall():
            if self._is_dead(*owner):
                connection.execute(_FORGET, owner[:3])
