"""Rate-limit state shared by all processes of this machine: one row for each provider's limits."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from llmctl.clock import Clock
from llmctl.errors import BusyError, DiskError
from llmctl.protocols import Quota
from llmctl.storage.database import (
    DamagedError,
    Database,
    Migration,
    NewerError,
    OldFormatError,
    Work,
)
from llmctl.storage.files import disk, use_lock
from llmctl.storage.process import boot_id
from llmctl.token_bucket import INITIAL_LIMITS, Draw

T = TypeVar("T")

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
    Migration(
        "limits-002-days",
        (
            # `day` is the number of a window of time, of whatever length the name has.
            """
            CREATE TABLE days (
                name TEXT NOT NULL PRIMARY KEY,
                day INTEGER NOT NULL,
                used INTEGER NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)

_FIND = (
    "SELECT requests_full_at, tokens_full_at, paused_until FROM lanes WHERE name = ? AND boot = ?"
)
_KEEP = "INSERT OR REPLACE INTO lanes VALUES (?, ?, ?, ?, ?)"
_USED = "SELECT day, used FROM days WHERE name = ?"
_COUNT = "INSERT OR REPLACE INTO days VALUES (?, ?, ?)"
_FURTHEST = 600.0  # seconds into the future that a moment may lie; more is damage


class RateLimitStore:
    """The `SharedLimits` in the file at `path`, made by `open`, or when it is first needed.

    What is in it matters for a minute or a day, so a damaged file is replaced: as soon as no
    process has it open any more, and every process closes it when it meets the damage. Until then
    each has limits of its own. Raises `DiskError` and `BusyError`.
    """

    distributed = False

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._db: Database | None = None
        self._own: sqlite3.Connection | None = None

    async def draw(self, draw: Draw) -> float:
        """Take the units while no other process does; the seconds until they may be used, as
        `Draw.apply` says. Raises `DiskError` and `BusyError`."""
        key = draw.lane, boot_id()

        def work(connection: sqlite3.Connection) -> float:
            row = connection.execute(_FIND, key).fetchone()
            now = self._clock.monotonic()
            latest = now + _FURTHEST
            state = INITIAL_LIMITS if row is None else tuple(min(moment, latest) for moment in row)
            after, wait = draw.apply((state[0], state[1], state[2]), now)
            if after != state:
                connection.execute(_KEEP, (*key, *(max(moment, -1e18) for moment in after)))
            return wait

        return await self._write(work)

    def open(self) -> None:
        """Open the file before it is needed; what is wrong with it is for the first use. Raises
        `SetupError` where the system allows no thread for it."""
        with suppress(DiskError, BusyError, NewerError, OldFormatError):
            self._opened()

    async def spend(self, quotas: Sequence[Quota]) -> Quota | None:
        """Spend all, or none, while no other process does; the first without room. What is spent
        outlives a restart of the machine. Raises `DiskError` and `BusyError`."""

        def work(connection: sqlite3.Connection) -> Quota | None:
            after: dict[str, tuple[int, int]] = {}
            for quota in quotas:
                stored = connection.execute(_USED, (quota.name,)).fetchone()
                spent = quota.spent(*(after.get(quota.name) or stored or (quota.window, 0)))
                if spent is None:
                    return quota
                after[quota.name] = spent
            connection.executemany(_COUNT, [(name, *spent) for name, spent in after.items()])
            return None

        return await self._write(work)

    async def used(self, name: str, window: int) -> int:
        """What was spent in the window. Raises `DiskError` and `BusyError`."""

        def work(connection: sqlite3.Connection) -> int:
            found = connection.execute(_USED, (name,)).fetchone()
            return found[1] if found and found[0] == window else 0

        return await self._write(work)

    async def _write(self, work: Work[T]) -> T:
        try:
            return await self._opened().write(work)
        except (DamagedError, OldFormatError):
            self._give_back()
        try:
            with use_lock(self._path, alone=True), disk("replace", self._path):
                for ending in ("-wal", "-shm", ""):
                    self._path.with_name(f"{self._path.name}{ending}").unlink(missing_ok=True)
            return await self._opened().write(work)
        except (DamagedError, OldFormatError, BusyError):
            self._give_back()
        if self._own is None:
            self._own = sqlite3.connect(":memory:", isolation_level=None)
            self._own.executescript(";".join(str(m.steps[0]) for m in MIGRATIONS))
        return work(self._own)

    def _opened(self) -> Database:
        if self._db is None:
            self._db = Database(self._path, MIGRATIONS, replaceable=True)
        return self._db

    def _give_back(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def close(self) -> None:
        """Give the file back."""
        self._give_back()
        own, self._own = self._own, None
        if own is not None:
            own.close()
