"""Rate-limit state shared by all processes of this machine: one row for each provider's limits."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from llmctl.clock import Clock
from llmctl.errors import BusyError, DiskError
from llmctl.protocols import INITIAL_LIMITS, LimitChange, LimitState
from llmctl.storage.database import (
    DamagedError,
    Database,
    Migration,
    NewerError,
    OldFormatError,
)
from llmctl.storage.files import disk, use_lock
from llmctl.storage.process import boot_id

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
_FURTHEST = 600.0  # seconds into the future that a moment may lie; more is damage


class RateLimitStore:
    """The `SharedLimits` in the file at `path`, made by `open`, or when it is first needed.

    What is in it matters for a minute, so a damaged file is replaced: as soon as no process has it
    open any more, and every process closes it when it meets the damage. Until then each has
    limits of its own. Raises `DiskError` and `BusyError`.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._db: Database | None = None
        self._own: dict[str, LimitState] = {}

    async def change(self, name: str, change: LimitChange) -> float:
        """Apply `change` to the limits called `name` while no other process does; the number that
        it gives. Raises `DiskError` and `BusyError`."""
        try:
            return await self._change(name, change)
        except (DamagedError, OldFormatError):
            self.close()
        try:
            with use_lock(self._path, alone=True), disk("replace", self._path):
                for ending in ("-wal", "-shm", ""):
                    self._path.with_name(f"{self._path.name}{ending}").unlink(missing_ok=True)
            return await self._change(name, change)
        except (DamagedError, OldFormatError, BusyError):
            self.close()
            self._own[name], result = change(self._own.get(name, INITIAL_LIMITS))
            return result

    def open(self) -> None:
        """Open the file before it is needed; what is wrong with it is for `change`. Raises
        `SetupError` where the system allows no thread for it."""
        with suppress(DiskError, BusyError, NewerError, OldFormatError):
            self._opened()

    def _opened(self) -> Database:
        self._db = self._db or Database(self._path, MIGRATIONS, replaceable=True)
        return self._db

    async def _change(self, name: str, change: LimitChange) -> float:
        db, key = self._opened(), (name, boot_id())

        def work(connection: sqlite3.Connection) -> float:
            row = connection.execute(_FIND, key).fetchone()
            latest = self._clock.monotonic() + _FURTHEST
            state = INITIAL_LIMITS if row is None else tuple(min(moment, latest) for moment in row)
            after, result = change((state[0], state[1], state[2]))
            if after != state:
                connection.execute(_KEEP, (*key, *(max(moment, -1e18) for moment in after)))
            return result

        return await db.write(work)

    def close(self) -> None:
        """Give the file back."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
