"""Files of older and newer programs."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.storage.database import (
    DamagedError,
    Database,
    Migration,
    NewerError,
    OldFormatError,
    fits,
)
from tests.storage.damage import sql

FIRST = Migration("test-001-notes", ("CREATE TABLE notes (text TEXT NOT NULL)",))
SECOND = Migration(
    "test-002-length",
    ("ALTER TABLE notes ADD COLUMN length INTEGER", "UPDATE notes SET length = length(text)"),
)
BROKEN = Migration("test-002-broken", ("DELETE FROM notes", "INSERT INTO nowhere VALUES (1)"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of the first version with one note."""
    path = tmp_path / "notes.sqlite3"
    with Database(path, [FIRST]) as db:
        db.write_now(lambda c: c.execute("INSERT INTO notes VALUES ('four')").rowcount)
    return path


def rows(path: Path) -> list[tuple[object, ...]]:
    """What is in the file, without llmctl."""
    return sql(path, "SELECT * FROM notes")


def test_an_older_file_is_migrated_and_a_copy_kept(path: Path) -> None:
    """The new file has the new column, the private copy beside it is as before."""
    Database(path, [FIRST, SECOND]).close()
    assert rows(path) == [("four", 4)]
    copy = path.with_name("notes.sqlite3.before-test-002-length")
    assert rows(copy) == [("four",)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, copy.name]


def test_a_copy_is_kept_only_where_it_may_be(path: Path) -> None:
    """Text that a user can have removed is not kept in a second place."""
    Database(path, [FIRST, SECOND], erasable=True).close()
    assert rows(path) == [("four", 4)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """All of it happens or none; the file still opens with the older program."""
    with pytest.raises(DamagedError):
        Database(path, [FIRST, BROKEN])
    assert rows(path) == [("four",)]
    Database(path, [FIRST]).close()
    Database(path, [FIRST, SECOND]).close()
    assert rows(path) == [("four", 4)]


def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    """The error names the migration and says how to upgrade; the file stays as it is."""
    Database(path, [FIRST, SECOND]).close()
    with pytest.raises(NewerError, match=r"test-002-length.*use a newer llmctl") as info:
        Database(path, [FIRST])
    assert info.value.exit_code == 2
    assert rows(path) == [("four", 4)]


def test_a_migration_takes_the_place_of_former_ones(path: Path) -> None:
    """A new file is made by its steps, an older one by its upgrade; both are alike then. Where it
    has no upgrade the file is refused and stays as it is."""
    steps = ("CREATE TABLE notes (text TEXT NOT NULL, length INTEGER)",)
    former = (FIRST.name,)
    refuses = Migration("test-003-both", steps, replaces=former)
    with pytest.raises(OldFormatError, match="older llmctl"):
        Database(path, [refuses])
    Database(path, [FIRST]).close()
    both = Migration("test-003-both", steps, replaces=former, upgrade=SECOND.steps)
    Database(path, [both]).close()
    assert rows(path) == [("four", 4)]
    new = path.with_name("new.sqlite3")
    for file in (path, new):
        Database(file, [both]).close()
        with closing(sqlite3.connect(file)) as connection:
            assert fits(connection, [both])
            names = connection.execute("SELECT name FROM migrations").fetchall()
        assert names == [("test-003-both",)]
