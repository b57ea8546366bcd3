"""The cache of answers in one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from llmctl.behind import Write
from llmctl.clock import Clock, SystemClock
from llmctl.protocols import CachedAnswer
from llmctl.storage.answers import checksum, pack, short, unpack, verify
from llmctl.storage.cache_put import Entry, note_use, put_all, unkept
from llmctl.storage.cache_tables import REMEDY
from llmctl.storage.database import Database
from llmctl.storage.jobs import One
from llmctl.storage.leases import Leases
from llmctl.storage.sqlite import damaged, lists

_BATCH = 1000  # hits whose time of use is written together

_FIND = (
    "SELECT t.key, t.value, t.compressed, t.checksum, t.stored, t.id "
    "FROM keys AS k JOIN texts AS t ON t.id = k.id "
)
_FIND_ONE = _FIND + "WHERE k.short = ? AND t.key = ?"


class SqliteCache:
    """The `CacheStore` on disk. Keys are fingerprints: hexadecimal digits.

    Getting, putting and claiming raise what `Database` does; an answer that is not what was
    stored is a `DamagedError` too. `grown` is told now and then how many bytes the file has.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock | None = None,
        grown: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._db = db
        self._clock = clock or SystemClock()
        self._grown = grown
        self._puts = 0
        self._used: dict[int, int] = {}
        self._leases = Leases(db, self._clock)
        self._put_all = self._put  # one and the same, so that writes are seen to be of one kind

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        binary = bytes.fromhex(key)
        asked = (short(binary), binary)
        row = self._db.read(lambda connection: connection.execute(_FIND_ONE, asked).fetchone())
        return None if row is None else self._read(row)

    def get_all(self, keys: Sequence[str]) -> dict[str, CachedAnswer]:
        """The answers, however old, that are kept: what `get` gives, at a fraction of its cost."""
        found: dict[str, CachedAnswer] = {}
        asked = {bytes.fromhex(key) for key in keys}
        for some, brief in lists([short(key) for key in asked]):
            for row in self._db.read(_finding(some, brief)):
                if row[0] in asked:
                    found[row[0].hex()] = self._read(row)
        return found

    def put(self, key: str, answer: CachedAnswer) -> Write[None]:
        """Keep the answer, instead of an older one, and end this process's claim to find it.
        Once this is done it outlives the process; a power cut may undo it."""
        binary = bytes.fromhex(key)
        value, compressed = pack(answer)
        models = (answer.asked or answer.model, answer.model)
        check = checksum(binary, value, answer.stored)
        entry = Entry(binary, models, answer.stored, compressed, check, value)
        return self._db.begin(One(self._put_all, entry), lazily=True)

    def _put(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        before, self._puts = self._puts, self._puts + len(entries)
        put_all(connection, entries, int(self._clock.wall()))
        self._leases.end_all(connection, [entry.key for entry in entries])
        if self._puts // _BATCH > before // _BATCH:
            do = connection.execute
            (pages,), (size,) = do("PRAGMA page_count").fetchone(), do("PRAGMA page_size")
            self._grown(pages * size[0])

    def hurry(self) -> None:
        """Somebody waits now for what was put."""
        self._db.hurry()

    async def claim(self, key: str) -> bool:
        """True when this process is to find the answer; False while another one is at it."""
        return await self._leases.claim(bytes.fromhex(key))

    async def claim_all(self, keys: Sequence[str]) -> set[str]:
        """Claim what is neither kept nor being found out by another process, in one go."""
        free = await self._leases.claim_all([bytes.fromhex(key) for key in keys], unkept)
        return {key.hex() for key in free}

    def release(self, key: str) -> None:
        """The process no longer tries to find the answer."""
        self._leases.release(bytes.fromhex(key))

    def beat(self) -> None:
        """The process still tries to find what it has claimed."""
        self._leases.beat()

    def close(self) -> None:
        """Write what is queued and close the file."""
        if self._used:
            self._note_use()
        self._db.close()

    def _read(self, row: Sequence[Any]) -> CachedAnswer:
        key, value, compressed, check, stored, number = row
        try:
            verify(key, value, stored, check)
            answer = unpack(value, compressed=bool(compressed), stored=stored)
            # Written later, many together: a lookup must not cost a write.
            self._used[int(number)] = int(self._clock.wall())
            if len(self._used) >= _BATCH:
                self._note_use()
        except Exception as error:
            # Flipped bits may change the type of any column: whatever fails here is damage.
            raise damaged(self._db.path, REMEDY, str(error)) from error
        return answer

    def _note_use(self) -> None:
        used, self._used = self._used, {}
        self._db.post(lambda connection: note_use(connection, used))


def _finding(some: str, keys: Sequence[int]) -> Callable[[sqlite3.Connection], list[Any]]:
    return lambda connection: connection.execute(f"{_FIND}WHERE k.short IN {some}", keys).fetchall()
