"""A SQLite file: private, migrated, and written in group commits by one thread."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec import Struct

from llmctl.errors import BusyError, DiskError, SetupError
from llmctl.storage.files import (
    disk,
    disk_error,
    gone,
    open_private,
    private_folder,
    sync_folder,
    use_lock,
)
from llmctl.storage.group_commit import GroupCommit

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""Statements on a connection, within a transaction when they write. A writer may be run again
after a rollback, so it changes nothing but the database; a reader fetches all rows."""

# The second when a message quotes a damaged schema that is no text.
_FOREIGN = (sqlite3.Error, UnicodeDecodeError)

LINGERS = (
    "another llmctl keeps reading, so the WAL could not be emptied and may still hold text that "
    "was removed; run the same command again when that one has ended"
)
"""What a user is told after `rebuild` was in vain."""

APPLICATION_ID = 0x6C6C6D63
"""Marks a SQLite file as ours (`PRAGMA application_id`); "llmc" in ASCII."""

PATIENCE = 15.0
"""Seconds to wait for another process that writes before giving up."""

_PAUSE = 0.001  # seconds between two tries
_CHECKPOINT = 10.0  # seconds to wait until nobody reads the WAL any more
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
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

    `name` is never used again. One that `replaces` former ones makes a new file by its `steps`, and
    a file that has all of those by its `upgrade`; None: such a file is not migrated.
    """

    name: str
    steps: tuple[str | Work[None], ...]
    replaces: tuple[str, ...] = ()
    upgrade: tuple[str | Work[None], ...] | None = None


class Database:
    """The SQLite file at `path` in WAL mode, created and migrated when it is opened.

    `remedy` is what a user does about a damaged file, as the end of a sentence. `erasable`: what is
    deleted is overwritten with zeros, free pages go back to the file system, and no copy is kept
    of an older file that is migrated. `replaceable`: a damaged file may be replaced (a `use_lock`
    is held while it is open), and a commit survives the death of the process only, not a power cut.
    Files are 0600 in a 0700 folder: SQLite gives -wal and -shm the mode of the database.

    Opening raises `DiskError` when the disk refuses, `DamagedError`, `NewerError`,
    `OldFormatError`, and `BusyError` when another process keeps the file locked. Reads and writes
    raise the same, and what a `Work` itself raises. After a `DiskError` in a write every later
    write fails alike: what a failed sync left on the disk is unknown, and asking again may falsely
    succeed. So it is once a file that is not `replaceable` was removed or replaced.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        remedy: str = "move it aside and run the same command again",
        erasable: bool = False,
        replaceable: bool = False,
    ) -> None:
        self.path = path
        self._migrations = migrations
        self._remedy = remedy
        self._erasable = erasable
        self._durable = not replaceable
        self._closed = False
        self._reader: sqlite3.Connection | None = None
        self._broken: DiskError | None = None
        with contextlib.ExitStack() as stack:
            _make_private(path)
            self._in_use = stack.enter_context(contextlib.ExitStack())
            if replaceable:
                self._in_use.enter_context(use_lock(path))
            # All of it again when another process is in the way: which of the statements meets
            # a process that is just creating, recovering or closing the file is chance.
            with self._mapped_errors():
                self._connection = _retry_busy(self._open)
            self._file = _identity(path)
            stack.callback(self._connection.close)
            self._commits: GroupCommit[Work[Any]] = GroupCommit(self._commit, path.name)
            stack.pop_all()

    async def write(self, work: Work[T]) -> T:
        """What `work(connection)` returns, once it is committed. When `work` raises, only its own
        changes are undone. Cancelling the wait does not undo the write."""
        if self._closed:
            raise RuntimeError(f"{self.path} is closed")
        value: T = await self._commits.put(work)
        return value

    def write_now(self, work: Work[T]) -> T:
        """As `write`, for callers without an event loop: blocks until it is committed."""
        value: T = self._commits.put_now(work)
        return value

    def read(self, work: Work[T]) -> T:
        """What `work(connection)` returns, at once: it sees what was committed when its statement
        began, and never waits for writers."""
        if self._reader is None:
            with self._mapped_errors():
                self._reader = _retry_busy(lambda: _connect(self.path, read_only=True))
        with self._mapped_errors(self._reader):
            return work(self._reader)

    def check_in_place(self) -> None:
        """Raise `DiskError` when a file that is not `replaceable` was removed or replaced."""
        if self._durable and _identity(self.path) != self._file:
            raise gone(self.path)

    def rebuild(self) -> bool:
        """Write the file anew, so that no byte of what was deleted is left in it, and cut the WAL
        to nothing; False when another process reads that for ten seconds. Takes a second for each
        150 MB, in which nobody else can write. For callers that write nothing meanwhile.

        `erasable` is not enough: when rows move from one page to another, SQLite leaves copies in
        the free space of the old page, and they outlive the rows.
        """
        connection = self._connection
        folder = str(self.path.parent).replace("'", "''")
        with self._mapped_errors(connection):
            # In memory a large file would have no room, and nobody but us may look into ours.
            connection.execute(f"PRAGMA temp_store_directory='{folder}'")
            connection.execute("PRAGMA temp_store=FILE")
            try:
                _retry_busy(lambda: connection.execute("VACUUM"))
            finally:
                connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA busy_timeout={_CHECKPOINT * 1000:.0f}")
            blocked, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute("PRAGMA busy_timeout=0")
        return not blocked

    def close(self) -> None:
        """Commit what waits, fold the WAL into the file, and give everything back."""
        self._closed = True
        self._commits.close()
        if self._reader is not None:
            self._reader.close()
        self._connection.close()  # the last one to close folds the WAL in
        self._in_use.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, works: Sequence[Work[Any]]) -> list[Any]:
        """What the works return, once they are committed; on any error all is undone."""
        if self._broken is not None:
            raise self._broken
        try:
            with self._mapped_errors(self._connection), _transaction(self._connection):
                values = [work(self._connection) for work in works]
            # What is in a file that was moved is still found there: it was paid for.
            self.check_in_place()
        except DiskError as error:
            self._broken = error
            raise
        return values

    def _open(self) -> sqlite3.Connection:
        with contextlib.ExitStack() as stack:
            connection = _connect(self.path, durable=self._durable)
            stack.callback(connection.close)
            connection.execute(f"PRAGMA secure_delete={int(self._erasable)}")
            if _is_new(connection):
                connection.execute(f"PRAGMA auto_vacuum={'FULL' if self._erasable else 'NONE'}")
            connection.execute("PRAGMA journal_mode=WAL")
            if _missing(connection, self.path, self._migrations):
                self._migrate(connection)
            # A file that cannot be written is found now, not after the first paid call.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            stack.pop_all()
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            # Asked again under the lock: another process may have done it meanwhile.
            missing = _missing(connection, self.path, self._migrations)
            if missing and not self._erasable and not _is_new(connection):
                _copy(self.path, self.path.with_name(f"{self.path.name}.before-{missing[0].name}"))
            create(connection, missing)

    @contextlib.contextmanager
    def _mapped_errors(self, connection: sqlite3.Connection | None = None) -> Iterator[None]:
        """Raise the program's own errors for those of SQLite.

        A statement that does not fit the tables is a mistake of the program, unless the tables
        are not those the migrations made: then the file's schema is damaged. So it is without a
        connection: the statements that open a file fit those that we make.
        """
        try:
            yield
        except _FOREIGN as error:
            code = _primary(error)
            if code in _REFUSED:
                raise DiskError(
                    f"{self.path}: the disk refused ({error}); make room or make the folder "
                    "writable, then run the same command again"
                ) from error
            if code in _BUSY:
                raise BusyError(
                    f"{self.path}: another llmctl has kept it busy for {PATIENCE:g} s; "
                    "wait for that one to end, then run the same command again"
                ) from error
            damaged = (
                connection is None
                or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
                # Without a code it is Python's own complaint that a text is no text.
                or (code is None and isinstance(error, sqlite3.OperationalError | ValueError))
                or (code == sqlite3.SQLITE_ERROR and not fits(connection, self._migrations))
            )
            if not damaged:
                raise
            # SQLite quotes statements of a damaged schema as they stand, over many lines.
            why = " ".join(str(error).split())[:200]
            raise DamagedError(f"{self.path} is damaged ({why}); {self._remedy}") from error


class ReadOnlyFile:
    """A database file to look into without a migration or a write, for plans.

    One that is missing or cannot be read answers None: the run itself says what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            with contextlib.suppress(*_FOREIGN):
                self._connection = _connect(path, read_only=True)

    def ask(self, work: Work[T]) -> T | None:
        """What `work` returns, or None."""
        if self._connection is not None:
            with contextlib.suppress(*_FOREIGN):
                return work(self._connection)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()


def _connect(path: Path, *, read_only: bool = False, durable: bool = True) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use; commits that are
    `durable` survive a power cut. A reader waits for locks inside SQLite; a writer asks again
    itself (`_retry_busy`): SQLite sleeps up to 100 ms between two tries, and starves it."""
    connection = sqlite3.connect(
        path,
        timeout=PATIENCE if read_only else 0.0,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for pragma in (
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            # macOS's fsync leaves the bytes in the drive's memory; these ask for the real one.
            f"fullfsync={int(durable)}",
            f"checkpoint_fullfsync={int(durable)}",
            "cell_size_check=ON",  # damage is found before it is built upon
            f"query_only={int(read_only)}",
            "temp_store=MEMORY",  # no text of ours in the system's folder for temporary files
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What the block writes is committed when it ends well, else undone."""
    _retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _retry_busy(step: Callable[[], T]) -> T:
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


def corrupt(why: str) -> sqlite3.DatabaseError:
    """SQLite's own error for damage, for what it does not look for itself."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def fits(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> bool:
    """True when the file has the tables, columns and indexes that the migrations make."""
    schema = (
        "SELECT m.type, m.name, m.tbl_name, c.name, c.type, c.pk, c.dflt_value "
        "FROM sqlite_master AS m LEFT JOIN pragma_table_xinfo(m.name) AS c "
        "ORDER BY m.type, m.name, c.cid"
    )
    try:
        found = connection.execute(schema).fetchall()
    except _FOREIGN:
        return False
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as ideal:
        create(ideal, migrations)
        return found == ideal.execute(schema).fetchall()


def create(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Make what the migrations make, and put their names on record, in one transaction of the
    caller's."""
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) WITHOUT ROWID"
    )
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
) -> Sequence[Migration]:
    """The migrations that the file needs. Raises `NewerError` and `OldFormatError`."""
    if _is_new(connection):
        return migrations
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
        closing(_connect(path, read_only=True)) as source,
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


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file the path leads to; None: to none."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _primary(error: Exception) -> int | None:
    """The primary result code, without the extended part."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


@contextlib.contextmanager
def temporary_file() -> Iterator[None]:
    """Raise `DiskError` for what a temporary SQLite file meets."""
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise disk_error(full, "grow", "a temporary file") from error
        raise DiskError(
            f"cannot use a temporary file: {error}: set TMPDIR to a folder on a disk with space"
        ) from error
