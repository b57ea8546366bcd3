"""Who is finding out which answer: across processes a question is paid for once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain

from llmctl.clock import Clock
from llmctl.storage.database import Database
from llmctl.storage.process import Process
from llmctl.storage.sqlite import lists, parts, rows

Among = Callable[[sqlite3.Connection, Sequence[bytes]], list[bytes]]
"""Which of the keys are wanted."""

BEAT = 10.0
"""Seconds between two signs of life of a process that holds leases."""

SILENCE = 3 * BEAT
"""Seconds after which a process that cannot be seen (it runs in another container) and gives no
sign of life counts as dead. Any other is asked after by its number."""

_FIND = "SELECT pid, birth, world, beat FROM leases WHERE key = ?"
_TAKE = "INSERT OR REPLACE INTO leases (key, pid, birth, world, beat) VALUES (?, ?, ?, ?, 0)"
_MINE = "pid = ? AND birth = ? AND world = ?"
_END = f"DELETE FROM leases WHERE key = ? AND {_MINE}"  # noqa: S608 - our own words
_BEAT = f"UPDATE leases SET beat = beat + 1 WHERE {_MINE}"  # noqa: S608


class Leases:
    """The leases in a cache's database. Raises what `Database` does.

    A lease is a row; it ends when its answer is stored, when its owner gives up, or when the
    owner is found to be dead by whoever wants the answer next.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        me = Process.current()
        self._me = (me.pid, me.birth, me.world)
        self._watched: dict[bytes, tuple[int, float]] = {}

    async def claim(self, key: bytes) -> bool:
        """Take the lease; False while a living process has it."""
        if key in self._watched and not self._db.read(lambda c: self._is_free(c, key)):
            return False  # asked again and again, while it waits: without the lock for writing

        def work(connection: sqlite3.Connection) -> bool:
            free = self._is_free(connection, key)
            if free:
                connection.execute(_TAKE, (key, *self._me))
            return free

        taken = await self._db.write(work)
        if taken:
            self._watched.pop(key, None)
        return taken

    async def claim_all(self, keys: Sequence[bytes], among: Among) -> list[bytes]:
        """Take the leases of those of the keys that `among` leaves and no process has, in one
        transaction; which these are. Whether an owner is dead is not asked: `claim` does."""
        return await self._db.write(lambda connection: self._take_all(connection, keys, among))

    def _take_all(
        self, connection: sqlite3.Connection, keys: Sequence[bytes], among: Among
    ) -> list[bytes]:
        left = among(connection, keys)
        if not left:
            return []
        taken = 0
        for part in parts(left, 5):
            values = [*chain.from_iterable((key, *self._me, 0) for key in part)]
            taken += connection.execute(
                f"INSERT OR IGNORE INTO leases VALUES {rows(len(part), 5)}",  # noqa: S608
                values,
            ).rowcount
        if taken == len(left):
            return left
        mine: list[bytes] = []
        for some, those in lists(left):
            found = connection.execute(
                f"SELECT key FROM leases WHERE key IN {some} AND {_MINE}",  # noqa: S608
                (*those, *self._me),
            ).fetchall()
            mine += [row[0] for row in found]
        return mine

    def end_all(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> None:
        """Give leases back within a transaction."""
        for some, those in lists(keys):
            connection.execute(
                f"DELETE FROM leases WHERE key IN {some} AND {_MINE}",  # noqa: S608
                (*those, *self._me),
            )

    def release(self, key: bytes) -> None:
        """Give the lease back, soon; a lease of another process stays."""
        self._db.post(lambda connection: self.end(connection, key))

    def end(self, connection: sqlite3.Connection, key: bytes) -> None:
        """Give the lease back within a transaction."""
        connection.execute(_END, (key, *self._me))

    def beat(self) -> None:
        """Say that this process lives."""
        self._db.post(lambda connection: connection.execute(_BEAT, self._me))

    def _is_free(self, connection: sqlite3.Connection, key: bytes) -> bool:
        row = connection.execute(_FIND, (key,)).fetchone()
        if row is None or row[:3] == self._me:
            return True
        dead = Process(*row[:3]).is_dead()
        if dead is None:
            # Its clock may differ: what counts is how long nothing moved by ours.
            now, beat = self._clock.monotonic(), int(row[3])
            seen, since = self._watched.get(key, (beat, now))
            if seen != beat:
                since = now
            self._watched[key] = beat, since
            return now - since >= SILENCE
        self._watched.setdefault(key, (int(row[3]), self._clock.monotonic()))
        return dead
