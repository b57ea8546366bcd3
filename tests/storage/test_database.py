"""The database: group commit, isolation of failures, privacy, and what the disk may do."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llmctl.errors import BusyError, DiskError
from llmctl.storage import database
from llmctl.storage.database import DamagedError, Database, Migration

FIRST = Migration("test-001-notes", ("CREATE TABLE notes (text TEXT NOT NULL)",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be."""
    return tmp_path / "state" / "notes.sqlite3"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    """A database of notes."""
    with Database(path, [FIRST]) as database:
        yield database


def add(text: str) -> Callable[[sqlite3.Connection], int]:
    """A write that gives the number of notes."""

    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO notes VALUES (?)", (text,))
        count: int = connection.execute("SELECT count(*) FROM notes").fetchone()[0]
        return count

    return work


def notes(db: Database) -> list[str]:
    """All notes."""
    return db.read(lambda c: [text for (text,) in c.execute("SELECT text FROM notes")])


def test_a_write_gives_its_value_once_everybody_can_read_it(db: Database, path: Path) -> None:
    """The value arrives, and another connection sees the row."""
    assert asyncio.run(db.write(add("one"))) == 1
    assert db.write_now(add("two")) == 2
    assert notes(db) == ["one", "two"]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM notes").fetchone() == (2,)


def test_writes_that_wait_share_a_commit(db: Database) -> None:
    """A hundred writes that queue behind a slow one need one commit together."""
    queued = threading.Event()
    commits: list[str] = []
    db._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    async def many() -> list[int]:
        slow = asyncio.ensure_future(db.write(lambda _: queued.wait(60)))
        await asyncio.sleep(0)
        writes = [asyncio.ensure_future(db.write(add(str(n)))) for n in range(100)]
        await asyncio.sleep(0)
        queued.set()
        await slow
        return await asyncio.gather(*writes)

    assert asyncio.run(many()) == list(range(1, 101))
    assert len(commits) <= 2


def test_a_write_that_fails_does_not_fail_its_neighbours(db: Database) -> None:
    """Its own error reaches its own caller, its own changes are undone, the others stay."""

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('never')")
        raise LookupError("mine")

    async def all_at_once() -> list[object]:
        works = [db.write(add("a")), db.write(fail), db.write(add("b"))]
        return list(await asyncio.gather(*works, return_exceptions=True))

    a, failed, b = asyncio.run(all_at_once())
    assert (a, b) == (1, 2)
    assert isinstance(failed, LookupError)
    assert notes(db) == ["a", "b"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")
def test_what_a_write_would_undo_is_in_no_other_file(db: Database) -> None:
    """However much a write changes, SQLite makes no file of what stood there before."""
    asyncio.run(db.write(lambda connection: [add("x" * 1000)(connection) for _ in range(500)]))

    def change(connection: sqlite3.Connection) -> list[str]:
        connection.execute("UPDATE notes SET text = upper(text)")
        links = [*Path("/proc/self/fd").iterdir()]  # one is of the listing, and has gone again
        return [str(link.readlink()) for link in links if link.is_symlink()]

    opened = asyncio.run(db.write(change))
    assert str(db.path) in opened
    assert not [path for path in opened if "etilqs" in path]


def test_a_cancelled_wait_does_not_undo_the_write(db: Database) -> None:
    """What was queued is written, whoever waits for it or not."""

    async def give_up() -> None:
        task = asyncio.ensure_future(db.write(add("kept")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await db.write(add("next"))

    asyncio.run(give_up())
    assert notes(db) == ["kept", "next"]


def test_closing_writes_what_is_queued_and_folds_the_wal_in(path: Path) -> None:
    """Afterwards there is one file with everything in it, and using it is refused."""
    db = Database(path, [FIRST])

    async def give_up() -> None:
        tasks = [asyncio.ensure_future(db.write(add(str(n)))) for n in range(2000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    asyncio.run(give_up())
    db.close()
    db.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM notes").fetchone() == (2000,)
    with pytest.raises(RuntimeError, match="after shutdown"):
        db.write_now(add("late"))
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(db.write(add("late")))


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_files_are_private_under_any_umask(path: Path, umask: int) -> None:
    """The database, its WAL and its index are 0600 in a 0700 folder."""
    old = os.umask(umask)
    try:
        db = Database(path, [FIRST])
        db.write_now(add("x"))
        notes(db)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    db.close()
    assert modes == {f"notes.sqlite3{ending}": 0o600 for ending in ("", "-wal", "-shm")}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A disk that refuses to let any file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_the_disk_refuses_everything_stops(db: Database, path: Path) -> None:
    """The commit fails for all who wait, with exit code 74 and the path, and so does every later
    write, although there is room again; what was written before is still there."""
    db.write_now(add("before"))

    async def all_at_once() -> list[object]:
        works = [db.write(add("x" * 100_000)) for _ in range(3)]
        return list(await asyncio.gather(*works, return_exceptions=True))

    with no_file_larger_than(path.stat().st_size + 50_000):
        errors = asyncio.run(all_at_once())
    for error in errors:
        assert isinstance(error, DiskError)
        assert error.exit_code == 74
        assert str(path) in error.message
    with pytest.raises(DiskError):
        db.write_now(add("later"))
    assert notes(db) == ["before"]


def test_waiting_for_another_process_ends(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that keeps the lock is waited for, then named as the reason; later writes succeed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(database, "PATIENCE", 0.05)
        with pytest.raises(BusyError, match="another llmctl"):
            db.write_now(add("x"))
    assert db.write_now(add("y")) == 1


def test_a_file_that_is_no_database_is_damaged(path: Path) -> None:
    """The error names the file and says what to do."""
    path.parent.mkdir()
    path.write_bytes(b"not a database at all. " * 500)
    with pytest.raises(DamagedError, match=r"notes\.sqlite3 is damaged .*; burn it"):
        Database(path, [FIRST], remedy="burn it")


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    """A SQLite file that llmctl did not make is refused and not touched."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(DamagedError, match="not a database of llmctl"):
        Database(path, [FIRST])
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    assert len(path.read_bytes()) == len(before)


def test_a_lost_table_is_damage_but_a_wrong_statement_is_not(db: Database, path: Path) -> None:
    """Statements that do not fit are the program's mistake while the tables are as made."""

    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT no_such_column FROM notes")

    with pytest.raises(sqlite3.OperationalError, match="no_such_column"):
        db.read(wrong)
    with pytest.raises(sqlite3.OperationalError, match="no_such_column"):
        db.write_now(wrong)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE notes")
    with pytest.raises(DamagedError):
        notes(db)
    with pytest.raises(DamagedError):
        db.write_now(add("x"))
