"""What the processes of one machine share of a provider's minute: a few numbers a lane."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llmctl.clock import Clock
from llmctl.protocols import UNUSED_LANE, LaneChange
from llmctl.storage.database import Database
from llmctl.storage.migrations import Migration
from llmctl.storage.process import world
from llmctl.storage.sqlite import DamagedError

MIGRATIONS = (
    Migration(
        "limits-001-lanes",
        (
            # The clock they go by starts anew with the machine: `boot` says which start it was.
            """
            CREATE TABLE lanes (
                name TEXT NOT NULL PRIMARY KEY,
                boot TEXT NOT NULL,
                requests_full_at REAL NOT NULL,
                tokens_full_at REAL NOT NULL,
                paused_until REAL NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)

_FIND = (
    "SELECT requests_full_at, tokens_full_at, paused_until FROM lanes WHERE name = ? AND boot = ?"
)
_KEEP = "INSERT OR REPLACE INTO lanes VALUES (?, ?, ?, ?, ?)"
_FURTHEST = 600.0
"""Seconds into the future that a moment may lie; more is damage, and would stop everybody."""


class Minutes:
    """The lanes in the file at `path`, made when it is first needed. What is in it matters for a
    minute, so a damaged file is replaced."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._db: Database | None = None
        self._boot = world().partition(" ")[0]

    async def change(self, name: str, change: LaneChange) -> float:
        """Make the change to the lane called `name`, while no other process makes one; gives
        what `change` gives. Raises `DiskError` and `BusyError`."""
        try:
            return await self._change(name, change)
        except DamagedError:
            self.close()
            for path in self._path.parent.glob(f"{self._path.name}*"):
                path.unlink(missing_ok=True)
            return await self._change(name, change)

    async def _change(self, name: str, change: LaneChange) -> float:
        if self._db is None:
            self._db = Database(self._path, MIGRATIONS, synchronous="NORMAL", keep_copy=False)
        key = name, self._boot

        def work(connection: sqlite3.Connection) -> float:
            row = connection.execute(_FIND, key).fetchone()
            latest = self._clock.monotonic() + _FURTHEST
            state = UNUSED_LANE if row is None else tuple(min(moment, latest) for moment in row)
            after, result = change((state[0], state[1], state[2]))
            if after != state:
                connection.execute(_KEEP, (*key, *(max(moment, -1e18) for moment in after)))
            return result

        return await self._db.write(work)

    def close(self) -> None:
        """Give the file back."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
