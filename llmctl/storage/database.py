"""A SQLite file: private, migrated, and written in group commits by one thread.

A commit that reaches the disk costs a sync, however much it holds. So writes from all tasks queue
for one thread, which commits everything that waits in one transaction: with 50 calls in flight a
sync is shared by up to 50 of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from msgspec import Struct

from llmctl.errors import BusyError, DiskError, SetupError
from llmctl.storage.files import UseLock, disk, open_private, private_folder, sync_folder

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""Statements on a connection, within a transaction when they write. A writer may be run again
after a rollback, so it changes nothing but the database; a reader fetches all rows."""

Synchronous = Literal["FULL", "NORMAL"]
"""FULL: a commit survives a power cut. NORMAL: it survives the death of the process only."""

AutoVacuum = Literal["NONE", "FULL", "INCREMENTAL"]
"""What becomes of free pages: SQLite's `PRAGMA auto_vacuum`, settled when a file is made."""

FOREIGN = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second when a message quotes a damaged schema that is no text."""

APPLICATION_ID = 0x6C6C6D63
"""Marks a SQLite file as ours (`PRAGMA application_id`); "llmc" in ASCII."""

_APPLIED = "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) WITHOUT ROWID"

PATIENCE = 15.0
"""Seconds to wait for another process that writes before giving up."""

GROUP = 500
"""Most writes in one transaction: bounds how long other processes wait for the lock."""

_PAUSE = 0.001
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class DamagedError(DiskError):
    """A database's bytes are not what was written to it."""


class NewerError(SetupError):
    """A database was written by a newer llmctl than this one."""


class OldFormatError(SetupError):
    """A database was written by an older llmctl, in a format that is not migrated."""


class Migration(Struct, frozen=True):
    """One step of a file's schema: SQL statements, or functions of the connection.

    `name` is never used again. A migration that `replaces` former ones makes a new file by its
    `steps`, and a file that has all of the former ones by its `upgrade`; None: such a file is not
    migrated.
    """

    name: str
    steps: tuple[str | Work[None], ...]
    replaces: tuple[str, ...] = ()
    upgrade: tuple[str | Work[None], ...] | None = None


class _Write(Struct):
    """A write that waits for its commit: a thread waits for `future`, or a task of `loop`; and
    how it went."""

    work: Work[Any]
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None = None
    value: Any = None
    error: BaseException | None = None

    def tell(self) -> None:
        """Let who waits have the value or the error."""
        if self.future.done():  # the task was cancelled
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


class Database:
    """The SQLite file at `path` in WAL mode, created and migrated when it is opened.

    `pragmas` are set on every connection; `remedy` is what a user does about a damaged file, as
    the end of a sentence; `keep_copy` keeps a copy beside an older file that is migrated;
    `replaceable` holds a `UseLock` while the file is open. Files are 0600 in a 0700 folder: SQLite
    gives -wal and -shm the mode of the database.

    Opening raises `DiskError` when the disk refuses, `DamagedError`, `NewerError`,
    `OldFormatError`, and `BusyError` when another process keeps the file locked. Reads and writes
    raise the same, and what a `Work` itself raises. After a `DiskError` in a write every later
    write fails alike: what a failed sync left on the disk is unknown, and asking again may falsely
    succeed.

    Many processes may write to one file. A process forked while it is open must open its own.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        synchronous: Synchronous = "FULL",
        pragmas: Sequence[str] = (),
        auto_vacuum: AutoVacuum = "NONE",
        remedy: str = "move it aside and run the same command again",
        keep_copy: bool = True,
        replaceable: bool = False,
    ) -> None:
        self.path = path
        self._migrations = migrations
        self._synchronous: Synchronous = synchronous
        self._pragmas = pragmas
        self._auto_vacuum = auto_vacuum
        self._remedy = remedy
        self._keep_copy = keep_copy
        self._pid = os.getpid()
        self._closed = False
        self._readers: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._waiting: deque[_Write] = deque()
        self._lock = threading.Lock()
        self._committing = False
        self._broken: BaseException | None = None
        _make_private(path)
        self._in_use = UseLock.shared(path) if replaceable else None
        try:
            self._connection = self._open()
        except BaseException:
            self._end_use()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.name)

    async def write(self, work: Work[T]) -> T:
        """What `work(connection)` returns, once it is committed.

        When `work` raises, only its own changes are undone. Cancelling the wait does not undo the
        write.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Write(work, future, loop))
        return await future

    def write_now(self, work: Work[T]) -> T:
        """As `write`, for callers without an event loop: blocks until it is committed."""
        future: Future[T] = Future()
        self._submit(_Write(work, future))
        return future.result()

    def read(self, work: Work[T]) -> T:
        """What `work(connection)` returns, at once, on the calling thread's own reader.

        A reader sees what was committed when its statement began and never waits for writers.
        """
        self._check_usable()
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        try:
            if reader is None:
                reader = self._local.reader = retry_busy(lambda: self.connect(read_only=True))
                self._readers.append(reader)
            return work(reader)
        except FOREIGN as error:
            known = self._known(error, reader)
            if known is error:
                raise
            raise known from error

    def close(self) -> None:
        """Commit what waits, fold the WAL into the file, and give everything back."""
        if self._closed or self._pid != os.getpid():
            return  # in a forked child the connections are the parent's, with its locks
        self._closed = True
        self._thread.shutdown()
        for reader in self._readers:
            reader.close()
        with contextlib.suppress(sqlite3.Error):  # only tidying: the WAL is as durable
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()
        self._end_use()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, write: _Write) -> None:
        self._check_usable()
        with self._lock:
            self._waiting.append(write)
            if not self._committing:
                self._committing = True
                self._thread.submit(self._commit_waiting)

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(f"{self.path} was opened before a fork: open it again")
        if self._closed:
            raise RuntimeError(f"{self.path} is closed")

    def _commit_waiting(self) -> None:
        """Commit what waits, together, until nothing waits."""
        while True:
            with self._lock:
                group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                self._committing = bool(group)
            if not group:
                return
            self._commit(group)
            _tell(group)

    def _commit(self, group: Sequence[_Write]) -> None:
        """One transaction for all; where one of them raises, one for each."""
        try:
            values = self._transaction(group)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            known = self._known(error, self._connection)
            if isinstance(known, DiskError):
                self._broken = error
            if len(group) > 1 and not isinstance(known, DiskError | BusyError):
                for write in group:
                    self._commit([write])
            else:
                for write in group:  # each its own: a traceback grows with every raise
                    write.error = self._known(error, self._connection)
        else:
            for write, value in zip(group, values, strict=True):
                write.value = value

    def _transaction(self, group: Sequence[_Write]) -> list[Any]:
        """What the works return, once they are committed; on any error all is undone."""
        if self._broken is not None:
            raise self._broken
        connection = self._connection
        retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            values = [write.work(connection) for write in group]
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        return values

    def _open(self) -> sqlite3.Connection:
        try:
            # All of it again when another process is in the way: which of the statements meets
            # a process that is just creating, recovering or closing the file is chance.
            return retry_busy(self._open_once)
        except FOREIGN as error:
            known = map_error(error, self.path, self._remedy)
            if known is error:  # all statements so far are our own, and fit the files we make
                known = damaged(self.path, self._remedy, str(error))
            raise known from error

    def _open_once(self) -> sqlite3.Connection:
        connection = self.connect()
        try:
            if _is_new(connection):
                connection.execute(f"PRAGMA auto_vacuum={self._auto_vacuum}")
            connection.execute("PRAGMA journal_mode=WAL")
            migrate(connection, self.path, self._migrations, keep_copy=self._keep_copy)
            # A file that cannot be written is found now, not after the first paid call.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """A further connection to the file, for who closes it before this database."""
        return connect(
            self.path, synchronous=self._synchronous, pragmas=self._pragmas, read_only=read_only
        )

    def _end_use(self) -> None:
        if self._in_use is not None:
            self._in_use.close()

    def _known(self, error: BaseException, connection: sqlite3.Connection | None) -> BaseException:
        """The program's own error for a foreign one.

        A statement that does not fit the tables is a mistake of the program, unless the tables
        are not those the migrations made: then the file's schema is damaged.
        """
        known = map_error(error, self.path, self._remedy)
        if (
            connection is not None
            and isinstance(error, sqlite3.Error)
            and _primary(error) == sqlite3.SQLITE_ERROR
            and not fits(connection, self._migrations)
        ):
            known = damaged(self.path, self._remedy, str(error))
        if known is not error:
            known.__cause__ = error
        return known


def _tell(group: Sequence[_Write]) -> None:
    """Wake who waits: threads one by one, the tasks of an event loop together."""
    loops: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
    for write in group:
        if write.loop is None:
            write.tell()
        else:
            loops.setdefault(write.loop, []).append(write)
    for loop, writes in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_tell_all, writes)


def _tell_all(writes: Sequence[_Write]) -> None:
    for write in writes:
        write.tell()


class ReadOnlyFile:
    """A database file to look into without a migration or a write, for plans.

    One that is missing or cannot be read answers None: the run itself says what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            with contextlib.suppress(*FOREIGN):
                self._connection = connect(path, read_only=True)

    def ask(self, work: Work[T]) -> T | None:
        """What `work` returns, or None."""
        if self._connection is not None:
            with contextlib.suppress(*FOREIGN):
                return work(self._connection)
        return None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    path: Path,
    *,
    synchronous: Synchronous = "FULL",
    pragmas: Sequence[str] = (),
    read_only: bool = False,
) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use.

    A reader waits for locks inside SQLite. A writer does not: SQLite's own waiting sleeps up
    to 100 ms between two tries, which starves one of several busy processes, so writers ask
    again themselves (`retry_busy`).
    """
    connection = sqlite3.connect(
        path,
        timeout=PATIENCE if read_only else 0.0,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        # macOS's fsync leaves the bytes in the drive's memory; these two ask for the real one.
        # Elsewhere they change nothing.
        connection.execute(f"PRAGMA fullfsync={int(synchronous == 'FULL')}")
        connection.execute(f"PRAGMA checkpoint_fullfsync={int(synchronous == 'FULL')}")
        # Looks harder at every page read from the disk: damage is found before it is built upon.
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute(f"PRAGMA query_only={int(read_only)}")
        # What a statement would undo, with our texts in it, otherwise goes to files in the
        # system's folder for temporary ones.
        connection.execute("PRAGMA temp_store=MEMORY")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def retry_busy(step: Callable[[], T]) -> T:
    """What `step` returns; asks again while another process is in the way, for `PATIENCE`
    seconds, then lets SQLite's own error through."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if _primary(error) not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


def map_error(error: BaseException, path: Path, remedy: str) -> BaseException:
    """The program's own error for one of SQLite's; any other error as it is.

    `remedy` is what a user does about a damaged file, as the end of a sentence.
    """
    if isinstance(error, UnicodeDecodeError):
        return damaged(path, remedy, "a text in it is no text")
    if not isinstance(error, sqlite3.Error):
        return error
    code = _primary(error)
    # Without a code it is Python's own complaint that a text is no text.
    if code in _DAMAGED or (code is None and isinstance(error, sqlite3.OperationalError)):
        return damaged(path, remedy, str(error))
    if code in _REFUSED:
        return DiskError(
            f"{path}: the disk refused ({error}); make room or make the folder writable, "
            "then run the same command again"
        )
    if code in _BUSY:
        return BusyError(
            f"{path}: another llmctl has kept it busy for {PATIENCE:g} s; "
            "wait for that one to end, then run the same command again"
        )
    return error


def damaged(path: Path, remedy: str, why: str) -> DamagedError:
    """The error that says a file is damaged, and the way out."""
    # SQLite quotes statements of a damaged schema as they stand, over many lines.
    return DamagedError(f"{path} is damaged ({' '.join(why.split())[:200]}); {remedy}")


def corrupt(why: str) -> sqlite3.DatabaseError:
    """SQLite's own error for damage, for what it does not look for itself."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration],
    *,
    keep_copy: bool,
) -> None:
    """Bring the file to the newest migration, in one transaction.

    With `keep_copy` an older file is first copied to `NAME.before-MIGRATION`. Raises
    `NewerError`, `OldFormatError` and SQLite's own errors.
    """
    if not _missing(connection, path, migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have done it meanwhile.
        missing = _missing(connection, path, migrations)
        if missing and keep_copy and not _is_new(connection):
            _copy(path, path.with_name(f"{path.name}.before-{missing[0].name}"))
        _apply(connection, missing)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def fits(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> bool:
    """True when the file has the tables, columns and indexes that the migrations make."""
    try:
        found = _schema(connection)
    except FOREIGN:
        return False
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as ideal:
        _apply(ideal, migrations)
        return found == _schema(ideal)


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT m.type, m.name, m.tbl_name, c.name, c.type, c.pk, c.dflt_value "
        "FROM sqlite_master AS m LEFT JOIN pragma_table_xinfo(m.name) AS c "
        "ORDER BY m.type, m.name, c.cid"
    ).fetchall()


def _apply(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Take the steps and put their names on record; the caller holds the transaction."""
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(_APPLIED)
    applied = _applied(connection)
    for migration in migrations:
        former = applied & set(migration.replaces)
        for step in (migration.upgrade or ()) if former else migration.steps:
            if isinstance(step, str):
                connection.execute(step)
            else:
                step(connection)
        connection.executemany("DELETE FROM migrations WHERE name = ?", [(n,) for n in former])
        connection.execute("INSERT INTO migrations VALUES (?)", (migration.name,))


def _missing(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]
) -> list[Migration]:
    if _is_new(connection):
        return list(migrations)
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise corrupt("it is not a database of llmctl, or no longer")
    applied = _applied(connection)
    missing = [migration for migration in migrations if migration.name not in applied]
    former = {name for migration in missing for name in migration.replaces}
    unknown = sorted(applied - former - {migration.name for migration in migrations})
    if unknown:
        raise NewerError(
            f"{path} was written by a newer llmctl (it has {', '.join(unknown)}); "
            "use a newer llmctl (pull its checkout, install it again), or move the file aside"
        )
    for migration in missing:
        found = applied & set(migration.replaces)
        if found and (migration.upgrade is None or len(found) < len(migration.replaces)):
            raise OldFormatError(
                f"{path} was written by an older llmctl, in a format that is not read any more; "
                "move it aside and run the same command again"
            )
    return missing


def _applied(connection: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM migrations")}


def _is_new(connection: sqlite3.Connection) -> bool:
    """True for a file without a table."""
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _copy(path: Path, copy: Path) -> None:
    """Copy what is committed, whole or not at all; the caller holds the write lock."""
    part = copy.with_name(f"{copy.name}.part")
    with disk("write", part):
        part.unlink(missing_ok=True)
        os.close(open_private(part, os.O_RDWR)[0])
    with (
        closing(connect(path, read_only=True)) as source,
        closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        source.backup(target)
    with disk("keep", copy):
        part.replace(copy)
    sync_folder(copy.parent)


def _make_private(path: Path) -> None:
    """See to it that the file exists and is ours alone, before SQLite sees it.

    A file that exists is not opened: closing it would drop the locks that this process may
    hold on it through SQLite (POSIX locks belong to the process, not to the descriptor).
    """
    private_folder(path.parent)
    with disk("open", path):
        if path.exists():
            path.chmod(0o600)
        else:
            os.close(open_private(path, os.O_RDWR)[0])


def _primary(error: sqlite3.Error) -> int | None:
    """The primary result code, without the extended part."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
