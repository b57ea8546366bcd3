"""The cache of answers: one SQLite table, claims across processes, pruning and statistics."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock, SystemClock
from llmctl.errors import BusyError, DiskError, LlmctlError
from llmctl.protocols import CachedAnswer
from llmctl.storage.database import (
    FOREIGN,
    DamagedError,
    Database,
    Migration,
    NewerError,
    OldFormatError,
    ReadOnlyFile,
    connect,
    damaged,
    map_error,
    retry_busy,
)
from llmctl.storage.files import UseLock, disk
from llmctl.storage.ledger import REMEDY as LEDGER_REMEDY
from llmctl.storage.ledger_rows import from_pico
from llmctl.storage.process import Process
from llmctl.types import Usage

T = TypeVar("T")

BEAT = 10.0
"""Seconds between two signs of life of a process that holds claims."""

SILENCE = 3 * BEAT
"""Seconds after which a process that cannot be seen (it runs in another container) and gives no
sign of life counts as dead. Any other is asked after by its number."""

REMEDY = (
    "the next call sets it aside and starts an empty one; or remove it: nothing but cached "
    "answers is lost"
)

MIGRATIONS = (
    Migration(
        "cache-003-answers",
        (
            """
            CREATE TABLE answers (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL UNIQUE,
                asked TEXT NOT NULL,
                model TEXT NOT NULL,
                stored REAL NOT NULL,
                used INTEGER NOT NULL,
                bytes INTEGER NOT NULL,
                compressed INTEGER NOT NULL,
                checksum INTEGER NOT NULL,
                body BLOB NOT NULL
            )
            """,
            # What statistics and pruning look at, without the answers themselves.
            "CREATE INDEX answers_facts ON answers (model, asked, stored, used, bytes)",
            # Which process is getting which answer: `beat` is moved while the owner lives.
            """
            CREATE TABLE claims (
                key BLOB NOT NULL PRIMARY KEY,
                pid INTEGER NOT NULL,
                birth TEXT NOT NULL,
                world TEXT NOT NULL,
                at REAL NOT NULL,
                beat INTEGER NOT NULL
            ) WITHOUT ROWID
            """,
        ),
        replaces=("cache-001-answers", "cache-002-apart"),
    ),
)

_FIND = "SELECT id, key, body, compressed, checksum, stored FROM answers WHERE key"
_FIND_MANY = f"{_FIND} IN ({', '.join('?' * 500)})"
_PUT = (
    "INSERT OR REPLACE INTO answers (key, asked, model, stored, used, bytes, compressed, checksum, "
    "body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_OWNER = "SELECT pid, birth, world, beat FROM claims WHERE key = ?"
_TAKE = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, 0)"
_MINE = "pid = ? AND birth = ? AND world = ?"
_END = f"DELETE FROM claims WHERE key = ? AND {_MINE}"  # noqa: S608 - our own words
_BEAT = f"UPDATE claims SET beat = beat + 1 WHERE {_MINE}"  # noqa: S608

_USES = 1000  # hits whose time of use is written together
_RECENT = 3600  # seconds for which a noted use stands: pruning does not ask for minutes
_UNSEEN = 24 * 3600.0  # seconds after which a claim of a process we cannot see is given up


def open_database(path: Path) -> Database:
    """The database of a cache. Raises as `Database` does."""
    return Database(
        path,
        MIGRATIONS,
        synchronous="NORMAL",
        pragmas=(
            # Deleted and replaced answers are overwritten with zeros, not only unlinked: after
            # pruning (and a truncating checkpoint, for the WAL) their text is in no byte.
            "secure_delete=ON",
            "cache_size=-16384",  # the inner pages of a million answers' keys
            # Keys are scattered over many pages: folding the WAL in at 64 MB instead of 4 writes
            # a page once for several keys.
            "wal_autocheckpoint=16000",
        ),
        # Settled when the file is made: free pages can be given back a few at a time, so pruning
        # shrinks the file without locking it for long.
        auto_vacuum="INCREMENTAL",
        remedy=REMEDY,
        keep_copy=False,  # pruning could not reach the text in it
        replaceable=True,
    )


class SqliteCache:
    """The `AnswerCache` in one file. Keys are fingerprints: hexadecimal digits.

    All verbs raise what `Database` does; an answer that is not what was stored is a
    `DamagedError` too. `grown` gets the file's size in bytes after every 1,000 answers stored.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock | None = None,
        grown: Callable[[int], None] | None = None,
    ) -> None:
        self._db = db
        self._clock = clock or SystemClock()
        self._grown = grown
        self._puts = 0
        self._used: dict[int, int] = {}
        me = Process.current()
        self._me = (me.pid, me.birth, me.world)
        self._watched: dict[bytes, tuple[int, float]] = {}
        if db.read(lambda connection: connection.execute("SELECT 1 FROM claims").fetchone()):
            db.write_now(partial(_drop_dead_claims, now=self._clock.wall()))

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        asked = (bytes.fromhex(key),)
        row = self._db.read(lambda c: c.execute(f"{_FIND} = ?", asked).fetchone())
        return None if row is None else self._read(row)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers, however old, of those keys that have one."""
        found: dict[str, CachedAnswer] = {}
        asked = [bytes.fromhex(key) for key in dict.fromkeys(keys)]
        for start in range(0, len(asked), 500):
            part = asked[start : start + 500]
            values = part + [part[-1]] * (500 - len(part))  # one statement stays prepared
            for row in self._db.read(partial(_find_many, values=values)):
                found[row[1].hex()] = self._read(row)
        return found

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one, and end this process's claim on it. On return
        it outlives the process; a power cut may undo it."""
        binary = bytes.fromhex(key)
        body, compressed = pack(answer)
        check = checksum(binary, body, answer.stored)
        models = (answer.asked or answer.model, answer.model)
        row = (
            binary, *models, answer.stored, int(self._clock.wall()), len(body), compressed, check,
            body,
        )  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT, row)
            connection.execute(_END, (binary, *self._me))

        await self._db.write(work)
        self._puts += 1
        if self._grown and self._puts % _USES == 0:
            self._grown(self._db.read(_file_bytes))
        if len(self._used) >= _USES:
            await self._db.write(self._note_use())

    async def claim(self, key: str) -> bool:
        """True when this process is to get the answer; False while another one is at it."""
        binary = bytes.fromhex(key)
        if binary in self._watched and not self._db.read(lambda c: self._is_free(c, binary)):
            return False  # asked again and again, while it waits: without the lock for writing
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> bool:
            free = self._is_free(connection, binary)
            if free:
                connection.execute(_TAKE, (binary, *self._me, now))
            return free

        taken = await self._db.write(work)
        if taken:
            self._watched.pop(binary, None)
        return taken

    async def release(self, key: str) -> None:
        """End this process's claim without an answer; a claim of another process stays."""
        values = (bytes.fromhex(key), *self._me)
        await self._db.write(lambda connection: connection.execute(_END, values).rowcount)

    async def beat(self) -> None:
        """Renew this process's claims: it is alive."""
        await self._db.write(lambda connection: connection.execute(_BEAT, self._me).rowcount)

    def close(self) -> None:
        """Write what waits and close the file."""
        if self._used:
            with contextlib.suppress(DiskError, BusyError, RuntimeError):  # only times of use
                self._db.write_now(self._note_use())
        self._db.close()

    def _read(self, row: Sequence[Any]) -> CachedAnswer:
        number, key, body, compressed, check, stored = row
        try:
            sound = checksum(key, body, stored) == check
            answer = unpack(body, compressed=bool(compressed), stored=stored) if sound else None
            # Written later, many together: a look-up must not cost a write.
            self._used[int(number)] = int(self._clock.wall())
        except Exception as error:
            # Flipped bits may change the type of any column: whatever fails here is damage.
            raise damaged(self._db.path, REMEDY, str(error)) from error
        if answer is None:
            raise damaged(self._db.path, REMEDY, "an answer is not what was stored")
        return answer

    def _note_use(self) -> Callable[[sqlite3.Connection], None]:
        used, self._used = self._used, {}
        values = [(at, number, at - _RECENT) for number, at in used.items()]

        def work(connection: sqlite3.Connection) -> None:
            statement = "UPDATE answers SET used = ? WHERE id = ? AND used <= ?"
            connection.executemany(statement, values)

        return work

    def _is_free(self, connection: sqlite3.Connection, key: bytes) -> bool:
        row = connection.execute(_OWNER, (key,)).fetchone()
        if row is None or row[:3] == self._me:
            return True
        dead = Process(*row[:3]).is_dead()
        now, beat = self._clock.monotonic(), int(row[3])
        seen, since = self._watched.get(key, (beat, now))
        if seen != beat:
            since = now
        self._watched[key] = beat, since
        # Its clock may differ: what counts is how long nothing moved by ours.
        return now - since >= SILENCE if dead is None else dead


def _find_many(connection: sqlite3.Connection, *, values: Sequence[bytes]) -> list[Any]:
    return connection.execute(_FIND_MANY, values).fetchall()


def _drop_dead_claims(connection: sqlite3.Connection, *, now: float) -> None:
    """Drop the claims whose owners have died, or are out of sight and a day old."""
    owners = connection.execute("SELECT DISTINCT pid, birth, world FROM claims").fetchall()
    for owner in owners:
        dead = Process(*owner).is_dead()
        if dead is not False:
            end = f"DELETE FROM claims WHERE {_MINE} AND (? OR at < ?)"  # noqa: S608
            connection.execute(end, (*owner, bool(dead), now - _UNSEEN))


class MemoryCache:
    """An `AnswerCache` that ends with the process. It keeps the answers used last, about
    `max_bytes` of them."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, CachedAnswer] = OrderedDict()

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers of those keys that have one."""
        return {key: answer for key in keys if (answer := await self.get(key)) is not None}

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one."""
        answer = replace(answer, asked="")
        if old := self._answers.pop(key, None):
            self._bytes -= _memory_of(old)
        self._answers[key] = answer
        self._bytes += _memory_of(answer)
        while self._bytes > self._max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= _memory_of(oldest)

    async def claim(self, key: str) -> bool:  # noqa: ARG002 - nobody else can be at it
        """True: no other process sees this memory."""
        return True

    async def release(self, key: str) -> None:
        """Nothing to give back."""

    async def beat(self) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._bytes = 0


def _memory_of(answer: CachedAnswer) -> int:
    # What Python adds for the object and its fields is about a kilobyte.
    return 1024 + len(answer.text) + len(answer.body or b"")


class SelfHealingCache:
    """The `AnswerCache` at `path`. Opening it never fails.

    A file that is damaged, found at once or later, or of version 0.1.0 is set aside under another
    name and a new one takes its place. Where there can be no file (its folder cannot be written,
    it belongs to a newer llmctl, it is damaged and another process still uses it) answers are kept
    in memory. `warn` gets a sentence each time. All verbs raise `DiskError` and `BusyError`: a
    disk that refuses in the middle of a run is not the cache's to excuse.

    With `size` the file is kept below so many bytes: it is looked at as it grows and when it is
    closed, and pruned in a thread of its own, so it may be larger for as long as that takes.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], None],
        clock: Clock | None = None,
        size: int | None = None,
    ) -> None:
        self._path = path
        self._warn = warn
        self._limit = None if size is None else SizeLimit(path, size, warn)
        self._clock = clock or SystemClock()
        self._inode: int | None = None
        self._store: SqliteCache | MemoryCache
        try:
            self._store = self._open()
        except (DamagedError, OldFormatError) as error:
            self._store = self._replacement(error)
        except (DiskError, BusyError, NewerError) as error:
            self._store = self._memory_fallback(error)

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        store = self._store
        try:
            return await store.get(key)
        except DamagedError as error:
            self._replace(store, error)
            return None

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers, however old, of those keys that have one."""
        store = self._store
        try:
            return await store.get_many(keys)
        except DamagedError as error:
            self._replace(store, error)
            return {}

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one, and end this process's claim on it."""
        store = self._store
        try:
            await store.put(key, answer)
        except DamagedError as error:
            self._replace(store, error)
            await self._store.put(key, answer)

    async def claim(self, key: str) -> bool:
        """True when this process is to get the answer; False while another one is at it."""
        store = self._store
        try:
            return await store.claim(key)
        except DamagedError as error:
            self._replace(store, error)
            return await self._store.claim(key)

    async def release(self, key: str) -> None:
        """End this process's claim without an answer."""
        with contextlib.suppress(DamagedError):  # a file that is replaced has no claims
            await self._store.release(key)

    async def beat(self) -> None:
        """Renew this process's claims."""
        with contextlib.suppress(DamagedError):
            await self._store.beat()

    def close(self) -> None:
        """Write what waits, close the file, and make it small enough."""
        self._store.close()
        if self._limit is not None:
            self._limit.close()

    def _open(self) -> SqliteCache:
        self._inode = _inode(self._path)
        db = open_database(self._path)
        try:
            grown = self._limit.grown if self._limit else None
            store = SqliteCache(db, self._clock, grown)
        except BaseException:
            db.close()
            raise
        self._inode = _inode(self._path)
        return store

    def _replace(self, store: SqliteCache | MemoryCache, error: DamagedError) -> None:
        """Go on with another store, unless another task has seen to that."""
        if self._store is store:
            store.close()
            self._store = self._replacement(error)

    def _replacement(self, error: DamagedError | OldFormatError) -> SqliteCache | MemoryCache:
        old = isinstance(error, OldFormatError)
        try:
            # Another process may have done it: then the path leads to a new file already.
            if self._inode is not None and self._inode == _inode(self._path):
                aside = set_aside(self._path, self._clock.wall(), "old" if old else "damaged")
                why = "is of an older llmctl" if old else f"is damaged ({error.__cause__ or error})"
                self._warn(
                    f"{self._path} {why}: it was set aside as {aside.name}, and the run goes on "
                    "with an empty cache"
                )
            return self._open()
        except (DiskError, BusyError, NewerError, OldFormatError) as refusal:
            return self._memory_fallback(refusal)

    def _memory_fallback(self, error: LlmctlError) -> MemoryCache:
        self._warn(f"answers are not cached on disk in this run: {error}")
        return MemoryCache()


def open_cache(
    path: Path | None, clock: Clock, warn: Callable[[str], None], *, size: int | None = None
) -> SelfHealingCache | MemoryCache:
    """The cache at `path`, kept below `size` bytes; None: one that ends with the process."""
    return MemoryCache() if path is None else SelfHealingCache(path, warn, clock, size)


def set_aside(path: Path, now: float, reason: str = "damaged") -> Path:
    """Rename a database that is not open here, with its WAL, to `NAME.REASON-TIME` (`now`:
    seconds since the epoch); gives the new path.

    Raises `BusyError` while anybody has it open, who would remove the WAL of the new file, which
    has its old name, at the end. Raises `DiskError` when it cannot be done.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    number, aside = 1, path.with_name(f"{path.name}.{reason}-{moment}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{reason}-{moment}-{number}")
    with UseLock.exclusive(path), disk("set aside", path):
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(f"{path.name}{ending}").rename(f"{aside}{ending}")
    return aside


def set_aside_files(path: Path, before: float | None = None) -> list[Path]:
    """The files of caches that were set aside, or those of them last changed before that time
    (seconds since the epoch): they hold answers, too."""
    found = sorted(
        file for why in ("damaged", "old") for file in path.parent.glob(f"{path.name}.{why}-*")
    )
    with disk("read", path.parent):
        return [file for file in found if before is None or file.stat().st_mtime < before]


def remove_files(files: Sequence[Path]) -> int:
    """Remove the files; gives their bytes. Raises `DiskError`."""
    size = 0
    for file in files:
        with disk("remove", file):
            size += file.stat().st_size
            file.unlink()
    return size


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


class CachePeek(ReadOnlyFile):
    """Which answers a cache would give at the time `now` (seconds since the epoch), if those
    older than `ttl` seconds do not count."""

    def __init__(self, path: Path, ttl: float | None, now: float) -> None:
        super().__init__(path)
        self._oldest = -1.0 if ttl is None else now - ttl

    def has(self, key: str) -> bool:
        """Whether there is an answer to the request of this fingerprint."""
        asked = ("SELECT stored FROM answers WHERE key = ?", (bytes.fromhex(key),))
        found = self.ask(lambda connection: connection.execute(*asked).fetchone())
        return found is not None and found[0] >= self._oldest


# --- Answers as bytes

_LENGTHS = struct.Struct(">BII")  # whether there is a body; bytes of the head and of the text
_WORTH_TRYING = 1024  # bytes; below, unpacking takes more time than a disk block is worth
_PAYS = 0.9


def pack(answer: CachedAnswer) -> tuple[bytes, bool]:
    """All of the answer but when it was stored; True when the bytes are compressed, which they
    are when that saves a tenth."""
    usage = answer.usage
    cost = None if answer.cost is None else str(answer.cost)
    head = orjson.dumps([answer.finish, answer.model, cost, *(getattr(usage, n) for n in _USAGE)])
    # JSON may carry half of a surrogate pair, which is no UTF-8 by itself.
    text = answer.text.encode("utf-8", "surrogatepass")
    lengths = _LENGTHS.pack(answer.body is not None, len(head), len(text))
    plain = b"".join((lengths, head, text, answer.body or b""))
    if len(plain) >= _WORTH_TRYING:
        # Text and body hold the same words: even quick compression finds that.
        small = zlib.compress(plain, 1)
        if len(small) < _PAYS * len(plain):
            return small, True
    return plain, False


_USAGE = Usage.__struct_fields__


def unpack(body: bytes, *, compressed: bool, stored: float) -> CachedAnswer:
    """The answer that was packed. Raises `ValueError`, `struct.error` or `zlib.error` for bytes
    that `pack` did not make."""
    plain = zlib.decompress(body) if compressed else body
    has_body, head_length, text_length = _LENGTHS.unpack_from(plain)
    text_start = _LENGTHS.size + head_length
    body_start = text_start + text_length
    finish, model, cost, *usage = orjson.loads(plain[_LENGTHS.size : text_start])
    return CachedAnswer(
        text=plain[text_start:body_start].decode("utf-8", "surrogatepass"),
        finish=finish,
        model=model,
        usage=Usage(*usage),
        cost=None if cost is None else Decimal(cost),
        body=plain[body_start:] if has_body else None,
        stored=stored,
    )


def checksum(key: bytes, body: bytes, stored: float) -> int:
    """Tells a damaged entry from a sound one: SQLite does not notice a flipped bit in a value,
    and a wrong answer is worse than none."""
    return zlib.crc32(body, zlib.crc32(struct.pack(">d", stored), zlib.crc32(key)))


# --- Pruning: in steps of some 50 ms, between which others write

_STEP = 0.05  # seconds that others may have to wait for the lock for writing, about
_REST = 0.005  # seconds between two steps: whoever waits for the lock asks every millisecond
_ROWS = 200  # answers looked at together; the least work of a step
_SPARSE = 0.2  # share of removed answers in a stretch from which on the others are moved together
_ROUNDS = 3  # times to look again whether the file is small enough: others may add all the time
_CHECKPOINT = 10.0  # seconds to wait until nobody reads the WAL any more
_END_ID = 1 << 62

_MATCH = "SELECT id, bytes FROM answers WHERE (:model IS NULL OR :model IN (asked, model)) "
_LEAST_USED = f"{_MATCH} AND id NOT IN (SELECT id FROM chosen) ORDER BY used, id"  # noqa: S608
_NEXT = (
    "SELECT a.id, c.id FROM answers AS a LEFT JOIN chosen AS c ON c.id = a.id "
    "WHERE a.id >= ? ORDER BY a.id LIMIT ?"
)
_MOVE = "UPDATE answers SET id = (SELECT max(id) + 1 FROM answers) WHERE id = ?"


class PruneFilter(Struct, frozen=True):
    """Which answers go. `before`: those stored before this time (seconds since the epoch);
    `max_bytes`: those used least recently, until the file needs no more than that; both: either.
    `model`, as asked for or as answered: of these only. None of them: all answers."""

    before: float | None = None
    max_bytes: int | None = None
    model: str | None = None


class Pruned(Struct, frozen=True):
    """What went, or would go: answers, and the bytes by which the file shrank, or about would.
    `lingers`: another process kept the WAL from being emptied, so its bytes may still hold
    what went until that one ends."""

    entries: int = 0
    bytes: int = 0
    lingers: bool = False


def prune(path: Path, chosen: PruneFilter, *, dry_run: bool = False) -> Pruned:
    """Remove answers from the cache at `path`, or with `dry_run` only say what would go.

    A file that is not there has nothing to remove. What goes is overwritten in the file and its
    WAL. Raises `DamagedError`, `OldFormatError`, `DiskError` and `BusyError`.
    """
    if not path.exists():
        return Pruned()
    with contextlib.closing(open_database(path)) as db:
        try:
            with contextlib.closing(db.connect()) as connection:
                return _prune(connection, chosen, dry_run=dry_run)
        except FOREIGN as error:
            raise map_error(error, path, REMEDY) from error


def _prune(connection: sqlite3.Connection, chosen: PruneFilter, *, dry_run: bool) -> Pruned:
    before = _file_bytes(connection)
    entries, about = retry_busy(lambda: _choose(connection, chosen))
    if dry_run:
        return Pruned(entries, about)
    _remove(connection)
    for _ in range(_ROUNDS):
        # What stays may lie less densely than was counted on, or others have added to it.
        if chosen.max_bytes is None or _used_bytes(connection) <= chosen.max_bytes:
            break
        entries += retry_busy(lambda: _choose(connection, chosen))[0]
        _remove(connection)
    lingers = not _empty_wal(connection)
    return Pruned(entries, max(0, before - _file_bytes(connection)), lingers)


def _choose(connection: sqlite3.Connection, chosen: PruneFilter) -> tuple[int, int]:
    """Put what goes into the temporary table `chosen`, anew; gives the number of answers, and
    about the bytes that they take."""
    do = connection.execute
    do("DROP TABLE IF EXISTS temp.chosen")
    do("CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)")
    entries, size = do("SELECT count(*), ifnull(sum(bytes), 0) FROM answers").fetchone()
    overhead = max(0.0, (_used_bytes(connection) - size) / entries) if entries else 0.0
    if chosen.before is not None or chosen.max_bytes is None:
        before = _END_ID if chosen.before is None else chosen.before
        values = {"model": chosen.model, "before": before}
        do(f"INSERT INTO chosen {_MATCH} AND stored < :before", values)
    going = "SELECT count(*), ifnull(sum(bytes), 0) FROM chosen"
    entries, size = do(going).fetchone()
    if chosen.max_bytes is not None:
        excess = _used_bytes(connection) - chosen.max_bytes - size - entries * overhead
        found = do(_LEAST_USED, {"model": chosen.model})
        least_used = list(_until(found, excess, overhead))
        connection.executemany("INSERT INTO chosen VALUES (?, ?)", least_used)
        entries, size = do(going).fetchone()
    return entries, round(size + entries * overhead)


def _until(
    found: Iterator[tuple[int, int]], excess: float, overhead: float
) -> Iterator[tuple[int, int]]:
    for answer, size in found:
        if excess <= 0:
            return
        yield answer, size
        excess -= size + overhead


def _remove(connection: sqlite3.Connection) -> None:
    """Remove what is chosen, and give free pages back to the file system."""
    start, first = 0, "SELECT min(id) FROM chosen WHERE id >= ?"
    while (at := connection.execute(first, (start,)).fetchone()[0]) is not None:
        start = _step(connection, partial(_remove_from, connection, at))
    pages = 50.0
    while (free := _pragma(connection, "freelist_count")) > 0:
        began = time.monotonic()
        # A script, because Python's `execute` takes only the first step of this pragma.
        script = f"BEGIN IMMEDIATE; PRAGMA incremental_vacuum({pages:.0f}); COMMIT"
        retry_busy(partial(connection.executescript, script))
        if _pragma(connection, "freelist_count") >= free:
            return  # others free pages as fast
        took = time.monotonic() - began
        pages = max(10.0, pages * min(2.0, _STEP / max(took, 0.001)))
        time.sleep(_REST)


def _remove_from(connection: sqlite3.Connection, first: int) -> int:
    """Remove answers from this id on, for one step; gives the id after them."""
    until = time.monotonic() + _STEP
    while True:
        rows = connection.execute(_NEXT, (first, _ROWS)).fetchall()
        going = [(answer,) for answer, chosen in rows if chosen is not None]
        staying = [(answer,) for answer, chosen in rows if chosen is None]
        connection.executemany("DELETE FROM answers WHERE id = ?", going)
        if len(going) >= _SPARSE * len(rows):
            # Half-empty pages give nothing back: what stays is written anew, side by side.
            connection.executemany(_MOVE, staying)
        if len(rows) < _ROWS:
            return _END_ID
        first = rows[-1][0] + 1
        if not going or time.monotonic() >= until:
            return first


def _step(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """What `work` gives, done in one short transaction; then a pause for others."""
    retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        done = work()
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    time.sleep(_REST)
    return done


def _empty_wal(connection: sqlite3.Connection) -> bool:
    """Fold the WAL into the file and cut it to nothing; False when a reader prevents that.

    First without a lock, however long that takes; then there is little left to do while
    others wait.
    """
    until = time.monotonic() + _CHECKPOINT
    while True:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        with contextlib.suppress(sqlite3.OperationalError):
            if not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(_REST)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _file_bytes(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "page_count") * _pragma(connection, "page_size")


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


_ROOM = 0.9
"""Share of the limit that pruning leaves: otherwise it would have to begin again at once."""


class SizeLimit:
    """Keeps the cache at `path` below `most` bytes: the answers used least recently go.

    `warn` gets a sentence, once, when pruning fails.
    """

    def __init__(self, path: Path, most: int, warn: Callable[[str], None]) -> None:
        self._path = path
        self._most = most
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._failed = False

    def grown(self, size: int) -> None:
        """The file has `size` bytes now."""
        if size <= self._most or self._failed or (self._thread and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._prune, name="llmctl-prune", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The run has ended, and has closed the file. Returns when it is small enough."""
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self.grown(self._path.stat().st_size)
        if self._thread is not None:
            self._thread.join()

    def _prune(self) -> None:
        try:
            prune(self._path, PruneFilter(max_bytes=round(self._most * _ROOM)))
        except LlmctlError as error:
            self._failed = True
            self._warn(f"the cache could not be made smaller: {error.message}")


# --- Statistics

_ENTRIES = "SELECT model, count(*), sum(bytes) FROM answers GROUP BY model"
_CALLS = (
    "SELECT model, sum(cache IN ('hit', 'shared')), sum(cache = 'miss'), "
    "sum(saved_pico), sum(cache IN ('hit', 'shared') AND saved_pico IS NULL) "
    "FROM calls WHERE cache IN ('hit', 'shared', 'miss') GROUP BY model"
)


@dataclass(slots=True)
class CacheFigures:
    """Of one model, as it named itself when it answered, or of all.

    `entries` and their `bytes` are in the cache now. `hits` were answered without a call,
    `misses` asked the cache first and then the provider, since the ledger began. `saved` is in
    US dollars, of all hits but the `unpriced` ones, whose price nobody knows.
    """

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    saved: Decimal = Decimal(0)
    unpriced: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Hits as a share of what asked the cache; None when nothing did."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


@dataclass(slots=True)
class CacheStats:
    """`file_bytes`: the database with its WAL, more than the answers alone."""

    models: dict[str, CacheFigures] = field(default_factory=dict)
    file_bytes: int = 0

    @property
    def total(self) -> CacheFigures:
        """All models together."""
        total = CacheFigures()
        for figures in self.models.values():
            for name in ("entries", "bytes", "hits", "misses", "saved", "unpriced"):
                setattr(total, name, getattr(total, name) + getattr(figures, name))
        return total


def cache_stats(cache: Path, ledger: Path) -> CacheStats:
    """The figures of both files; one that is not there counts as empty, and is not made.

    Raises `DamagedError`, `OldFormatError`, `DiskError` and `BusyError`.
    """
    stats = CacheStats()
    if cache.exists():
        with contextlib.closing(open_database(cache)) as db:
            rows = db.read(lambda connection: connection.execute(_ENTRIES).fetchall())
        for model, entries, size in rows:
            of = stats.models.setdefault(model, CacheFigures())
            of.entries, of.bytes = entries, size
        for name in (cache.name, f"{cache.name}-wal"):
            with contextlib.suppress(OSError):
                stats.file_bytes += cache.with_name(name).stat().st_size
    if ledger.exists():
        for model, hits, misses, saved, unpriced in _read_calls(ledger):
            of = stats.models.setdefault(model, CacheFigures())
            of.hits, of.misses, of.unpriced = hits, misses, unpriced
            of.saved = from_pico(saved) or Decimal(0)
    return stats


def _read_calls(ledger: Path) -> list[tuple[Any, ...]]:
    try:
        with contextlib.closing(connect(ledger, read_only=True)) as connection:
            return connection.execute(_CALLS).fetchall()
    except FOREIGN as error:
        raise map_error(error, ledger, LEDGER_REMEDY) from error
