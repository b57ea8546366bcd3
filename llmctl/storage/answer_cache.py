"""The cache of answers: one SQLite table, claims across processes, pruning and statistics."""

from __future__ import annotations

import contextlib
import copy
import math
import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock, SystemClock
from llmctl.errors import BusyError, DiskError, LlmctlError, NoKeyError, SetupError
from llmctl.protocols import CachedAnswer, Claim
from llmctl.storage.cipher import Cipher, StoreCipher, WrongKeyError
from llmctl.storage.database import (
    DamagedError,
    Database,
    Migration,
    OldFormatError,
    ReadOnlyFile,
    corrupt,
)
from llmctl.storage.files import disk, use_lock
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_rows import from_pico
from llmctl.storage.process import Process

T = TypeVar("T")

SILENCE = 30.0
"""Seconds without a `beat` after which a process counts as dead: it may be stopped, or in a
container out of sight."""

_REMEDY = (
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
    Migration(
        "cache-004-questions",
        (
            """
            CREATE TABLE questions (
                id INTEGER PRIMARY KEY,
                form BLOB NOT NULL UNIQUE,
                facts BLOB NOT NULL,
                answer BLOB NOT NULL,
                body BLOB NOT NULL
            )
            """,
            "CREATE INDEX questions_facts ON questions (facts)",
            """
            CREATE TABLE semantic_counts (
                name TEXT NOT NULL PRIMARY KEY,
                number INTEGER NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)

_PAGE = 500
_FIND = "SELECT id, key, stored, body FROM answers WHERE key"
_FIND_MANY = f"{_FIND} IN ({', '.join('?' * _PAGE)})"
_PUT = (
    "INSERT OR REPLACE INTO answers (key, asked, model, stored, used, bytes, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_MINE = "pid = ? AND birth = ? AND world = ?"
_END = f"DELETE FROM claims WHERE key = ? AND {_MINE}"  # noqa: S608 - our own words
_PLAIN = "SELECT id, key, body FROM answers WHERE key >= x''"
_ENCRYPTED = "SELECT key, body FROM answers WHERE key < x'' LIMIT 1"
_ENCRYPT = "UPDATE OR REPLACE answers SET key = ?, bytes = ?, body = ? WHERE id = ?"
_ORPHANS = "DELETE FROM questions WHERE answer NOT IN (SELECT key FROM answers)"
_BATCH = 1000  # hits noted together; answers stored between two looks at the size


RowKey = bytes | str
"""The key of a row: a fingerprint in bytes; or in text a name of it, which nobody can tell who has
not the store key, and then the body is encrypted. SQLite has all text before all bytes, so that its
index tells at once whether there are rows of a kind."""


def open_database(path: Path) -> Database:
    """The database of a cache. Raises as `Database` does."""
    return Database(path, MIGRATIONS, remedy=_REMEDY, erasable=True, replaceable=True)


class SqliteCache:
    """The `AnswerCache` at `path`. Keys are fingerprints: hexadecimal digits. No file keeps it from
    opening.

    A file that is damaged, found at once or later, or of version 0.1.0 is set aside under another
    name and a new one takes its place. Where there can be no file (its folder cannot be written,
    it belongs to a newer llmctl, it is damaged and another process still uses it) no answer is
    kept, nor where `path` is None. `warn` gets a sentence each time. All verbs raise `DiskError`
    and `BusyError`. With `size` the file is kept below so many bytes: the answers used least
    recently go, when it has grown and when it is closed.

    With a `store` that is on, answers are encrypted, those that are there in clear when it is
    opened. While it is off, encrypted ones are found where the store key can be had. Those of
    another key are told of once, and not found. Raises as `StoreCipher.writing`.
    """

    def __init__(
        self,
        path: Path | None,
        warn: Callable[[str], None],
        clock: Clock | None = None,
        size: int | None = None,
        store: StoreCipher | None = None,
    ) -> None:
        self._store = store
        self._cipher = None if store is None else store.writing
        self._ciphers: tuple[Cipher | None, ...] = (self._cipher,)
        self._warn = warn
        self._clock = clock or SystemClock()
        self._size = size
        self._puts = 0
        self._used: dict[int, int] = {}
        self._awaited: set[str] = set()  # keys that another process is getting the answers of
        me = Process.current()
        self._me = (me.pid, me.birth, me.world)
        self._inode: int | None = None
        self._db = None if path is None else self._open(path)

    def on_behalf_of(self, owner: Process) -> SqliteCache:
        """The same cache, whose claims are the owner's. Only the first is closed."""
        other = copy.copy(self)
        other.__dict__.update(_me=(owner.pid, owner.birth, owner.world), _awaited=set())
        return other

    async def end_claims(self) -> None:
        """End all claims of the process, or of the one that this is on behalf of."""
        await self._change(f"DELETE FROM claims WHERE {_MINE}", *self._me)  # noqa: S608

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers, however old, of those keys that have one."""

        async def find(db: Database) -> dict[str, CachedAnswer]:
            found: dict[str, CachedAnswer] = {}
            for cipher in self._ciphers:
                rest = [key for key in dict.fromkeys(keys) if key not in found]
                for start in range(0, len(rest), _PAGE):
                    asked = {row_key(key, cipher): key for key in rest[start : start + _PAGE]}
                    found |= db.read(partial(self._find, asked=asked, cipher=cipher))
            if len(self._used) >= _BATCH:
                await db.write(self._note_use())
            return found

        return await self.ask(find, {})

    def _find(
        self, connection: sqlite3.Connection, asked: Mapping[RowKey, str], cipher: Cipher | None
    ) -> dict[str, CachedAnswer]:
        keys = [*asked]
        if len(keys) == 1:
            rows = connection.execute(f"{_FIND} = ?", keys).fetchall()
        else:  # always as many, so that one statement stays prepared
            rows = connection.execute(_FIND_MANY, keys + keys[-1:] * (_PAGE - len(keys))).fetchall()
        found = {}
        for number, key, stored, body in rows:
            try:
                data = body if cipher is None else cipher.decrypt(body, key.encode())
                found[asked[key]] = unpack(bytes.fromhex(asked[key]), stored, data)
            except Exception as error:
                # Flipped bits may change the type of any column: whatever fails here is damage.
                raise corrupt(f"an answer is not as stored: {error}") from error
            # Written later, many together: a look-up must not cost a write.
            self._used[number] = int(self._clock.wall())
        return found

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep the answer instead of an older one, and end this process's claim on it. On return
        it outlives the process; a power cut may undo it."""
        body, named = pack(bytes.fromhex(key), answer), row_key(key, self._cipher)
        if self._cipher is not None:
            body = self._cipher.encrypt(body, str(named).encode())
        now = int(self._clock.wall())
        row = (
            named, answer.asked or answer.model, answer.model, answer.stored, now, len(body), body,
        )  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT, row)
            connection.execute(_END, (named, *self._me))
            self._puts += 1
            if self._puts % _BATCH == 0:
                self._shrink(connection)

        await self.ask(lambda db: db.write(work), None)

    async def claim(self, key: str) -> Claim:
        """Who is to get the answer; a process that asks again and again waits for another one."""
        named = row_key(key, self._cipher)

        def is_free(connection: sqlite3.Connection) -> bool:
            asked = "SELECT pid, birth, world, at FROM claims WHERE key = ?"
            row = connection.execute(asked, (named,)).fetchone()
            return row is None or row[:3] == self._me or self._is_dead(*row)

        def work(connection: sqlite3.Connection) -> Claim:
            if not is_free(connection):
                return "theirs"
            values = (named, *self._me, self._clock.wall())
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", values)
            kept = connection.execute("SELECT 1 FROM answers WHERE key = ?", (named,)).fetchone()
            return "kept" if kept else "ours"

        async def ask(db: Database) -> Claim:
            # Who waits asks without the lock for writing, while it is not free.
            if key in self._awaited and not db.read(is_free):
                return "theirs"
            claim = await db.write(work)
            (self._awaited.add if claim == "theirs" else self._awaited.discard)(key)
            return claim

        ours: Claim = "ours"
        return await self.ask(ask, otherwise=ours)

    async def release(self, key: str) -> None:
        """End this process's claim without an answer; a claim of another process stays."""
        await self._change(_END, row_key(key, self._cipher), *self._me)

    async def beat(self) -> None:
        """Renew this process's claims: it is alive."""
        await self._change(
            f"UPDATE claims SET at = ? WHERE {_MINE}",  # noqa: S608 - our own words
            self._clock.wall(),
            *self._me,
        )

    def close(self) -> None:
        """Write what waits, make the file small enough, and close it."""
        if self._db is None:
            return
        with contextlib.suppress(DiskError, BusyError, RuntimeError):  # neither loses an answer
            if self._used:
                self._db.write_now(self._note_use())
            self._db.write_now(self._shrink)
        self._db.close()

    async def _change(self, statement: str, *values: object) -> None:
        await self.ask(
            lambda db: db.write(lambda c: c.execute(statement, values).rowcount), otherwise=0
        )

    @property
    def cipher(self) -> Cipher | None:
        """What encrypts what is kept; None where it is in clear."""
        return self._cipher

    async def ask(self, work: Callable[[Database], Awaitable[T]], otherwise: T) -> T:
        """What `work` makes of the database, or of its replacement; `otherwise` without one."""
        for _ in range(2):
            db = self._db
            if db is None:
                break
            try:
                return await work(db)
            except DamagedError as error:
                if self._db is db:  # unless another task has seen to that
                    self._used = {}
                    db.close()
                    self._db = self._replace(db.path, error)
        return otherwise

    def _open(self, path: Path) -> Database | None:
        self._inode = _inode(path)
        try:
            with contextlib.ExitStack() as stack:
                db = stack.enter_context(open_database(path))
                self._inode = _inode(path)
                db.write_now(self._drop_dead_claims)
                self._ciphers = self._find_ciphers(db)
                stack.pop_all()
        except (DamagedError, OldFormatError) as error:
            return self._replace(path, error)
        except LlmctlError as error:
            self._warn(f"answers are not cached on disk in this run: {error}")
            return None
        return db

    def _find_ciphers(self, db: Database) -> tuple[Cipher | None, ...]:
        """What the rows are looked for with, in turn; none in clear is left where all are to be
        encrypted."""
        cipher = self._cipher
        if cipher is not None and encrypt_rows(db, cipher) and not db.rebuild():
            self._warn(
                f"answers were encrypted in {db.path}, but another llmctl keeps reading it: its "
                "WAL may hold them in clear until that one has ended"
            )
        row = db.read(lambda connection: connection.execute(_ENCRYPTED).fetchone())
        if row is None or self._store is None:
            return (cipher,)
        with contextlib.suppress(NoKeyError, SetupError):
            cipher = self._store.cipher
            try:
                cipher.decrypt(row[1], str(row[0]).encode())
            except WrongKeyError:
                self._warn(
                    f"{db.path}: answers that were encrypted with another store key are not used; "
                    "use that key again, or remove them: `llmctl cache prune --all`"
                )
        return (cipher,) if self._store.on or cipher is None else (None, cipher)

    def _replace(self, path: Path, error: DamagedError | OldFormatError) -> Database | None:
        old = isinstance(error, OldFormatError)
        # Another process may have done it: then the path leads to a new file already.
        if self._inode == _inode(path):
            try:
                aside = set_aside(path, self._clock.wall(), "old" if old else "damaged")
            except LlmctlError as refusal:
                self._warn(f"answers are not cached on disk in this run: {refusal}")
                return None
            why = "is of an older llmctl" if old else f"is damaged ({error.__cause__ or error})"
            self._warn(
                f"{path} {why}: it was set aside as {aside.name}, and the run goes on with an "
                "empty cache"
            )
        return self._open(path)

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
        connection.execute(_ORPHANS)

    def _is_dead(self, pid: int, birth: str, world: str, at: float) -> bool:
        silent = self._clock.wall() - at >= SILENCE
        return silent or Process(pid, birth, world).is_dead(out_of_sight=False)

    def _drop_dead_claims(self, connection: sqlite3.Connection) -> None:
        asked = "SELECT pid, birth, world, max(at) FROM claims GROUP BY pid, birth, world"
        for owner in connection.execute(asked).fetchall():
            if self._is_dead(*owner):
                connection.execute(f"DELETE FROM claims WHERE {_MINE}", owner[:3])  # noqa: S608


def row_key(key: str, cipher: Cipher | None) -> RowKey:
    """What a row of this key (in hex) is found by."""
    binary = bytes.fromhex(key)
    return binary if cipher is None else cipher.name(binary)


def encrypt_rows(db: Database, cipher: Cipher) -> int:
    """Encrypt the answers that are in clear; gives their number. The WAL may still hold them. What
    was known of questions in clear is forgotten."""
    done = 0

    def step(connection: sqlite3.Connection) -> int:
        rows = connection.execute(f"{_PLAIN} LIMIT {_STEP}").fetchall()
        for number, key, body in rows:
            named = cipher.name(key)
            encrypted = cipher.encrypt(body, named.encode())
            connection.execute(_ENCRYPT, (named, len(encrypted), encrypted, number))
        connection.execute("DELETE FROM questions WHERE answer >= x''")
        return len(rows)

    while db.read(lambda connection: connection.execute(f"{_PLAIN} LIMIT 1").fetchone()):
        done += db.write_now(step)
        time.sleep(_REST)
    return done


_WORTH_SQUEEZING = 2048  # bytes; below, unpacking takes more time than a disk block is worth

_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes, CachedAnswer])


def pack(key: bytes, answer: CachedAnswer) -> bytes:
    """The answer and its key as gzip, whose checksum tells a flipped bit: SQLite does not notice
    one in a value, and a wrong answer is worse than none."""
    # JSON may carry half of a surrogate pair, which is no UTF-8 by itself.
    text = answer.text.encode("utf-8", "surrogatepass")
    plain = msgspec.msgpack.encode((key, text, replace(answer, text="", asked="")))
    if len(plain) >= _WORTH_SQUEEZING:
        return zlib.compress(plain, 1, wbits=31)
    # With the smallest window: to make zlib's usual one takes 50 times as long as all the rest.
    packer = zlib.compressobj(0, wbits=16 + 9, memLevel=1)
    return packer.compress(plain) + packer.flush()


def unpack(key: bytes, stored: float | None, body: bytes) -> CachedAnswer:
    """The answer that was packed, at the time `stored` where that is known. Raises `ValueError` or
    `zlib.error` for anything else."""
    was, text, answer = _decoder.decode(zlib.decompress(body, wbits=31))
    if was != key or stored not in (None, answer.stored):
        raise ValueError("it is another one")
    return replace(answer, text=text.decode("utf-8", "surrogatepass"))


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
    with use_lock(path, alone=True), disk("set aside", path):
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
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


class CachePeek(ReadOnlyFile):
    """Which answers a cache would give at the time `now` (seconds since the epoch), if those
    older than `ttl` seconds do not count. Of encrypted ones those that `cipher` has encrypted."""

    def __init__(
        self, path: Path, ttl: float | None, now: float, cipher: Cipher | None = None
    ) -> None:
        super().__init__(path)
        self._cipher = cipher
        self._oldest = -1.0 if ttl is None else now - ttl

    def has(self, key: str) -> bool:
        """Whether there is an answer to the request of this fingerprint."""
        # Those in clear are encrypted when the run begins.
        named = {row_key(key, self._cipher), bytes.fromhex(key)}
        asked = f"SELECT max(stored) FROM answers WHERE key IN ({', '.join('?' * len(named))})"  # noqa: S608
        found = self.ask(lambda connection: connection.execute(asked, [*named]).fetchone()[0])
        return found is not None and bool(found >= self._oldest)


# --- Pruning

_STEP = 500  # answers of one transaction: bounds how long others wait for the lock for writing
_REST = 0.005  # seconds between two of them: whoever waits asks every millisecond

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
    with open_database(path) as db:
        before, removed = db.read(_used_bytes), 0
        while True:
            entries, about = db.write_now(lambda connection: _choose(connection, chosen))
            if dry_run:
                return Pruned(entries, about)
            _delete_chosen(db)
            removed += entries
            # What stays may lie less densely than was counted on, or others have added to it.
            if not entries or chosen.max_bytes is None:
                break
        db.write_now(lambda connection: connection.execute(_ORPHANS))
        lingers = not db.rebuild()
        return Pruned(removed, max(0, before - db.read(_used_bytes)), lingers)


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


def _delete_chosen(db: Database) -> None:
    """Delete what was chosen, a stretch in each transaction."""
    ids = f"SELECT id FROM chosen WHERE id > ? AND id <= ? ORDER BY id LIMIT {_STEP}"  # noqa: S608
    done = -1

    def step(connection: sqlite3.Connection) -> int:
        stretch = connection.execute(ids, (done, last)).fetchall()
        if not stretch:
            return last
        first, end = int(stretch[0][0]), int(stretch[-1][0])
        connection.execute(_DELETE, {"first": first, "last": end})
        return end

    latest = "SELECT ifnull(max(id), 0) FROM chosen"
    last = db.write_now(lambda connection: int(connection.execute(latest).fetchone()[0]))
    while done < last:
        done = db.write_now(step)
        time.sleep(_REST)


def _used_bytes(connection: sqlite3.Connection) -> int:
    asked = (
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )
    return int(connection.execute(asked).fetchone()[0])


# --- Statistics


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


class SemanticFigures(Struct, frozen=True):
    """Of the semantic cache, of all models.

    `hits` are in the ledger. Pairs of questions were `judged`, of which `refused` got no common
    answer. Hits were `audited`: asked all the same, and the judge compared both answers; `wrong`
    is how many did not say the same.
    """

    hits: int = 0
    judged: int = 0
    refused: int = 0
    audited: int = 0
    wrong: int = 0

    @property
    def bound(self) -> float | None:
        """The share of hits that are wrong, at the most, with 95% confidence (Clopper and Pearson
        1934, one-sided), as the judge sees it; None before the first audit."""
        if not self.audited:
            return None
        low, high = self.wrong / self.audited, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            if _at_most(self.wrong, self.audited, middle) > 0.05:
                low = middle
            else:
                high = middle
        return high


def _at_most(wrong: int, audited: int, share: float) -> float:
    """The chance of so few among the audited if `share` of all are wrong."""
    if share >= 1:
        return float(wrong >= audited)
    return sum(
        math.exp(
            math.lgamma(audited + 1) - math.lgamma(n + 1) - math.lgamma(audited - n + 1)
            + n * math.log(share) + (audited - n) * math.log1p(-share)
        )
        for n in range(wrong + 1)
    )  # fmt: skip


@dataclass(slots=True)
class CacheStats:
    """`file_bytes`: the database with its WAL, more than the answers alone. `encrypted`: all
    answers are."""

    models: dict[str, CacheFigures] = field(default_factory=dict)
    file_bytes: int = 0
    encrypted: bool = False
    semantic: SemanticFigures = field(default_factory=SemanticFigures)

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
        asked = "SELECT model, count(*), sum(bytes) FROM answers GROUP BY model"
        with open_database(cache) as db:
            rows = db.read(lambda connection: connection.execute(asked).fetchall())
            plain = db.read(lambda connection: connection.execute(f"{_PLAIN} LIMIT 1").fetchone())
            counts = db.read(
                lambda c: c.execute("SELECT name, number FROM semantic_counts").fetchall()
            )
        stats.semantic = msgspec.convert(dict(counts), SemanticFigures)
        stats.encrypted = bool(rows) and plain is None
        stats.models = {model: CacheFigures(entries, size) for model, entries, size in rows}
        for file in (cache, cache.with_name(f"{cache.name}-wal")):
            with contextlib.suppress(OSError):
                stats.file_bytes += file.stat().st_size
    if ledger.exists():
        with contextlib.closing(open_ledger(ledger, "", "")) as opened:
            calls, semantic = opened.report(
                lambda reading: (reading.cache_use(), reading.semantic_hits())
            )
        stats.semantic = replace(stats.semantic, hits=semantic)
        for model, hits, misses, saved, unpriced in calls:
            of = stats.models.setdefault(model, CacheFigures())
            of.hits, of.misses, of.unpriced = hits, misses, unpriced
            of.saved = from_pico(saved) or Decimal(0)
    return stats
