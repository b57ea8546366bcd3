"""The cache of answers: one SQLite table, claims across processes, pruning and statistics."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
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

T = TypeVar("T")

SILENCE = 30.0
"""Seconds without a `beat` after which a process that cannot be seen (it runs in another
container) counts as dead. Any other is asked after by its number."""

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
                body BLOB NOT NULL
            )
            """,
            # What statistics and pruning look at, without the answers themselves.
            "CREATE INDEX answers_facts ON answers (model, asked, stored, used, bytes)",
            # Which process is getting which answer; `at` is its last sign of life.
            """
            CREATE TABLE claims (
                key BLOB NOT NULL PRIMARY KEY,
                pid INTEGER NOT NULL,
                birth TEXT NOT NULL,
                world TEXT NOT NULL,
                at REAL NOT NULL
            ) WITHOUT ROWID
            """,
        ),
        replaces=("cache-001-answers", "cache-002-apart"),
    ),
)

_FIND = "SELECT id, key, stored, body FROM answers WHERE key"
_PAGE = 500
_FIND_MANY = f"{_FIND} IN ({', '.join('?' * _PAGE)})"
_PUT = (
    "INSERT OR REPLACE INTO answers (key, asked, model, stored, used, bytes, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_MINE = "pid = ? AND birth = ? AND world = ?"
_END = f"DELETE FROM claims WHERE key = ? AND {_MINE}"  # noqa: S608 - our own words
_BATCH = 1000
"""Hits whose time of use is written together; answers stored between two looks at the size."""


def open_database(path: Path) -> Database:
    """The database of a cache. Raises as `Database` does."""
    return Database(path, MIGRATIONS, remedy=REMEDY, erasable=True, replaceable=True)


class SqliteCache:
    """The `AnswerCache` in one file. Keys are fingerprints: hexadecimal digits.

    With `size` the file is kept below so many bytes: the answers used least recently go, when it
    has grown and when it is closed. All verbs raise what `Database` does; an answer that is not
    what was stored is a `DamagedError` too.
    """

    def __init__(self, path: Path, clock: Clock | None = None, size: int | None = None) -> None:
        self._clock = clock or SystemClock()
        self._size = size
        self._puts = 0
        self._used: dict[int, int] = {}
        me = Process.current()
        self._me = (me.pid, me.birth, me.world)
        self._db = open_database(path)
        try:
            if self._db.read(lambda c: c.execute("SELECT 1 FROM claims").fetchone()):
                self._db.write_now(self._drop_dead_claims)
        except BaseException:
            self._db.close()
            raise

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers, however old, of those keys that have one."""
        found: dict[str, CachedAnswer] = {}
        asked = [bytes.fromhex(key) for key in dict.fromkeys(keys)]
        for start in range(0, len(asked), _PAGE):
            for number, key, stored, body in self._db.read(self._find(asked[start:][:_PAGE])):
                found[bytes(key).hex()] = self._unpack(key, stored, body)
                # Written later, many together: a look-up must not cost a write.
                self._used[number] = int(self._clock.wall())
        if len(self._used) >= _BATCH:
            await self._db.write(self._note_use())
        return found

    def _find(self, keys: list[bytes]) -> Callable[[sqlite3.Connection], list[Any]]:
        if len(keys) == 1:
            return lambda connection: connection.execute(f"{_FIND} = ?", keys).fetchall()
        values = keys + keys[-1:] * (_PAGE - len(keys))  # one statement stays prepared
        return lambda connection: connection.execute(_FIND_MANY, values).fetchall()

    def _unpack(self, key: bytes, stored: float, body: bytes) -> CachedAnswer:
        try:
            answer = unpack(key, stored, body)
        except Exception as error:
            # Flipped bits may change the type of any column: whatever fails here is damage.
            raise damaged(self._db.path, REMEDY, f"an answer is not as stored: {error}") from error
        return answer

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one, and end this process's claim on it. On return
        it outlives the process; a power cut may undo it."""
        binary = bytes.fromhex(key)
        body = pack(binary, answer)
        now = int(self._clock.wall())
        row = (
            binary, answer.asked or answer.model, answer.model, answer.stored, now, len(body), body,
        )  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT, row)
            connection.execute(_END, (binary, *self._me))

        await self._db.write(work)
        self._puts += 1
        if self._size is not None and self._puts % _BATCH == 0:
            await self._db.write(self._shrink)

    async def claim(self, key: str) -> bool:
        """True when this process is to get the answer; False while another one is at it."""
        binary = bytes.fromhex(key)

        def is_free(connection: sqlite3.Connection) -> bool:
            asked = "SELECT pid, birth, world, at FROM claims WHERE key = ?"
            row = connection.execute(asked, (binary,)).fetchone()
            return row is None or row[:3] == self._me or self._is_dead(*row)

        def work(connection: sqlite3.Connection) -> bool:
            free = is_free(connection)
            if free:
                values = (binary, *self._me, self._clock.wall())
                connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", values)
            return free

        # Asked again and again by who waits: without the lock for writing, while it is not free.
        return self._db.read(is_free) and await self._db.write(work)

    async def release(self, key: str) -> None:
        """End this process's claim without an answer; a claim of another process stays."""
        values = (bytes.fromhex(key), *self._me)
        await self._db.write(lambda connection: connection.execute(_END, values).rowcount)

    async def beat(self) -> None:
        """Renew this process's claims: it is alive."""
        values = (self._clock.wall(), *self._me)
        statement = f"UPDATE claims SET at = ? WHERE {_MINE}"  # noqa: S608 - our own words
        await self._db.write(lambda connection: connection.execute(statement, values).rowcount)

    def close(self) -> None:
        """Write what waits, make the file small enough, and close it."""
        with contextlib.suppress(DiskError, BusyError, RuntimeError):  # neither loses an answer
            if self._used:
                self._db.write_now(self._note_use())
            if self._size is not None:
                self._db.write_now(self._shrink)
        self._db.close()

    def _note_use(self) -> Callable[[sqlite3.Connection], None]:
        used, self._used = self._used, {}

        def work(connection: sqlite3.Connection) -> None:
            values = [(at, number) for number, at in used.items()]
            connection.executemany("UPDATE answers SET used = ? WHERE id = ?", values)

        return work

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Make a tenth of the size free where it is used up, or this would soon begin again."""
        if self._size is None or _used_bytes(connection) <= self._size:
            return
        goal = PruneFilter(max_bytes=round(self._size * 0.9))
        while _choose(connection, goal)[0]:
            connection.execute("DELETE FROM answers WHERE id IN (SELECT id FROM chosen)")

    def _is_dead(self, pid: int, birth: str, world: str, at: float) -> bool:
        dead = Process(pid, birth, world).is_dead()
        return self._clock.wall() - at >= SILENCE if dead is None else dead

    def _drop_dead_claims(self, connection: sqlite3.Connection) -> None:
        asked = "SELECT pid, birth, world, max(at) FROM claims GROUP BY pid, birth, world"
        for owner in connection.execute(asked).fetchall():
            if self._is_dead(*owner):
                connection.execute(f"DELETE FROM claims WHERE {_MINE}", owner[:3])  # noqa: S608


_WORTH_SQUEEZING = 2048  # bytes; below, unpacking takes more time than a disk block is worth

_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes, CachedAnswer])


def pack(key: bytes, answer: CachedAnswer) -> bytes:
    """The answer and its key as gzip, whose checksum tells a flipped bit: SQLite does not notice
    one in a value, and a wrong answer is worse than none."""
    # JSON may carry half of a surrogate pair, which is no UTF-8 by itself.
    text = answer.text.encode("utf-8", "surrogatepass")
    plain = msgspec.msgpack.encode((key, text, replace(answer, text="", asked="")))
    return zlib.compress(plain, 1 if len(plain) >= _WORTH_SQUEEZING else 0, wbits=31)


def unpack(key: bytes, stored: float, body: bytes) -> CachedAnswer:
    """The answer that was packed. Raises `ValueError` or `zlib.error` for anything else."""
    was, text, answer = _decoder.decode(zlib.decompress(body, wbits=31))
    if (was, answer.stored) != (key, stored):
        raise ValueError("it is another one")
    return replace(answer, text=text.decode("utf-8", "surrogatepass"))


class MemoryCache:
    """An `AnswerCache` that ends with the process. It keeps the answers used last, about
    `max_bytes` of them."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._room = max_bytes
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
        if old := self._answers.pop(key, None):
            self._room += _memory_of(old)
        self._answers[key] = answer = replace(answer, asked="")
        self._room -= _memory_of(answer)
        while self._room < 0:
            self._room += _memory_of(self._answers.popitem(last=False)[1])

    async def claim(self, key: str) -> bool:  # noqa: ARG002 - nobody else can be at it
        """True: no other process sees this memory."""
        return True

    async def release(self, key: str) -> None:
        """Nothing to give back."""

    async def beat(self) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing to close."""


def _memory_of(answer: CachedAnswer) -> int:
    # What Python adds for the object and its fields is about a kilobyte.
    return 1024 + len(answer.text) + len(answer.body or b"")


class SelfHealingCache:
    """The `AnswerCache` at `path`, kept below `size` bytes. Opening it never fails.

    A file that is damaged, found at once or later, or of version 0.1.0 is set aside under another
    name and a new one takes its place. Where there can be no file (its folder cannot be written,
    it belongs to a newer llmctl, it is damaged and another process still uses it) answers are kept
    in memory. `warn` gets a sentence each time. All verbs raise `DiskError` and `BusyError`: a
    disk that refuses in the middle of a run is not the cache's to excuse.
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
        self._clock = clock or SystemClock()
        self._size = size
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
        return await self._ask(lambda store: store.get(key))

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers, however old, of those keys that have one."""
        return await self._ask(lambda store: store.get_many(keys))

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one, and end this process's claim on it."""
        await self._ask(lambda store: store.put(key, answer))

    async def claim(self, key: str) -> bool:
        """True when this process is to get the answer; False while another one is at it."""
        return await self._ask(lambda store: store.claim(key))

    async def release(self, key: str) -> None:
        """End this process's claim without an answer."""
        await self._ask(lambda store: store.release(key))

    async def beat(self) -> None:
        """Renew this process's claims."""
        await self._ask(lambda store: store.beat())

    def close(self) -> None:
        """Write what waits, make the file small enough, and close it."""
        self._store.close()

    async def _ask(self, work: Callable[[SqliteCache | MemoryCache], Awaitable[T]]) -> T:
        store = self._store
        try:
            return await work(store)
        except DamagedError as error:
            if self._store is store:  # unless another task has seen to that
                store.close()
                self._store = self._replacement(error)
        return await work(self._store)

    def _open(self) -> SqliteCache:
        self._inode = _inode(self._path)
        store = SqliteCache(self._path, self._clock, self._size)
        self._inode = _inode(self._path)
        return store

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
    found = [*path.parent.glob(f"{path.name}.damaged-*"), *path.parent.glob(f"{path.name}.old-*")]
    with disk("read", path.parent):
        return sorted(file for file in found if before is None or file.stat().st_mtime < before)


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


# --- Pruning

_STEP = 500  # answers of one transaction: bounds how long others wait for the lock for writing
_REST = 0.005  # seconds between two of them: whoever waits asks every millisecond
_ROUNDS = 3  # times to look whether the file is small enough: others may add all the time
_CHECKPOINT = 10.0  # seconds to wait until nobody reads the WAL any more

_CHOOSE = """
    INSERT INTO chosen SELECT id, bytes FROM (
        SELECT id, bytes, stored, sum(bytes + :overhead) OVER (
            ORDER BY stored >= :before, used, id ROWS UNBOUNDED PRECEDING
        ) - bytes - :overhead AS earlier
        FROM answers WHERE :model IS NULL OR :model IN (asked, model)
    )
    WHERE stored < :before OR earlier < :excess
"""
_DELETE = """
    DELETE FROM answers
    WHERE id >= :first AND id <= :last AND id IN (SELECT id FROM chosen)
"""
_MOVE = """
    UPDATE answers SET id = id - :first + 1 + (SELECT max(id) FROM answers)
    WHERE id >= :first AND id <= :last
"""


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
    before, entries = _used_bytes(connection), 0
    for _ in range(_ROUNDS):
        chosen_now, about = retry_busy(lambda: _choose(connection, chosen))
        if dry_run or not chosen_now:
            break
        entries += chosen_now
        _steps(connection, "chosen", _DELETE)
        # What stays may lie less densely than was counted on, or others have added to it.
        if chosen.max_bytes is None or _used_bytes(connection) <= chosen.max_bytes:
            break
    if dry_run:
        return Pruned(chosen_now, about)
    if chosen.model is not None and entries:
        _steps(connection, "answers", _MOVE)  # half-empty pages give nothing back
    lingers = not _empty_wal(connection)
    return Pruned(entries, max(0, before - _used_bytes(connection)), lingers)


def _choose(connection: sqlite3.Connection, chosen: PruneFilter) -> tuple[int, int]:
    """Put what goes into the temporary table `chosen`, anew; gives the number of answers, and
    about the bytes that they take."""
    connection.execute("DROP TABLE IF EXISTS temp.chosen")
    connection.execute("CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)")
    sums = "SELECT count(*), ifnull(sum(bytes), 0) FROM"
    entries, size = connection.execute(f"{sums} answers").fetchone()
    overhead = max(0, (_used_bytes(connection) - size) // max(1, entries))
    before, excess = chosen.before, 0
    if chosen.max_bytes is not None:
        excess = _used_bytes(connection) - chosen.max_bytes
    elif before is None:
        before = float("inf")
    values = {
        "model": chosen.model, "overhead": overhead, "excess": excess,
        "before": float("-inf") if before is None else before,
    }  # fmt: skip
    connection.execute(_CHOOSE, values)
    entries, size = connection.execute(f"{sums} chosen").fetchone()
    return entries, size + entries * overhead


def _steps(connection: sqlite3.Connection, table: str, statement: str) -> None:
    """Run the statement over the ids that the table has now, a stretch in each transaction."""
    ids = f"SELECT id FROM {table} WHERE id > ? AND id <= ? ORDER BY id LIMIT {_STEP}"  # noqa: S608
    (last,) = connection.execute(f"SELECT ifnull(max(id), 0) FROM {table}").fetchone()  # noqa: S608
    done = -1
    while stretch := connection.execute(ids, (done, last)).fetchall():
        (first,), (done,) = stretch[0], stretch[-1]
        values = {"first": first, "last": done}
        retry_busy(partial(connection.execute, statement, values))
        time.sleep(_REST)


def _empty_wal(connection: sqlite3.Connection) -> bool:
    """Fold the WAL into the file and cut it to nothing; False when a reader prevents that."""
    until = time.monotonic() + _CHECKPOINT
    while True:
        with contextlib.suppress(sqlite3.OperationalError):
            if not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(_REST)


def _used_bytes(connection: sqlite3.Connection) -> int:
    asked = (
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )
    return int(connection.execute(asked).fetchone()[0])


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
            stats.models[model] = CacheFigures(entries, size)
        for file in (cache, cache.with_name(f"{cache.name}-wal")):
            with contextlib.suppress(OSError):
                stats.file_bytes += file.stat().st_size
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
