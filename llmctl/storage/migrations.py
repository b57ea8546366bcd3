"""Named migrations: how a database file comes to have the tables this program wants."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from llmctl.storage.files import disk, open_private, sync_folder
from llmctl.storage.sqlite import FOREIGN, NewerError, connect, corrupt

APPLICATION_ID = 0x6C6C6D63
"""Marks a SQLite file as ours (`PRAGMA application_id`); "llmc" in ASCII."""

_APPLIED = "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) WITHOUT ROWID"


class Migration(Struct, frozen=True):
    """One step: its `name`, never reused, and the SQL statements that take it."""

    name: str
    statements: tuple[str, ...]


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration],
    *,
    keep_copy: bool,
) -> None:
    """Bring the file to the newest migration, in one transaction.

    With `keep_copy` an older file is first copied to `NAME.before-MIGRATION`. Raises
    `NewerError` for a file with migrations unknown here, SQLite's own errors otherwise.
    """
    if _missing(connection, path, migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Asked again under the lock: another process may have done it meanwhile.
            missing = _missing(connection, path, migrations)
            if keep_copy and 0 < len(missing) < len(migrations):
                _copy(path, path.with_name(f"{path.name}.before-{missing[0].name}"))
            apply(connection, missing)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def apply(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Take the steps and put their names on record; the caller holds the transaction."""
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(_APPLIED)
    for migration in migrations:
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?)", (migration.name,))


def is_new(connection: sqlite3.Connection) -> bool:
    """True for a file without a table."""
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def fits(connection: sqlite3.Connection, migrations: Sequence[Migration], known: str = "") -> bool:
    """True when the file's tables are those that the migrations make: at once when their `digest`
    is the `known` one; otherwise they are made anew, in memory, to compare with."""
    try:
        found = _schema(connection)
    except FOREIGN:
        return False
    return digest(found) == known or found == schema_of(migrations)


def schema_of(migrations: Sequence[Migration]) -> list[tuple[str, str, str | None]]:
    """Type, name and SQL of everything that the migrations make."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as ideal:
        apply(ideal, migrations)
        return _schema(ideal)


def digest(schema: Sequence[tuple[str, str, str | None]]) -> str:
    """SHA-256 of it, in hexadecimal."""
    return hashlib.sha256(repr(schema).encode()).hexdigest()


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    statement = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    return connection.execute(statement).fetchall()


def _missing(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]
) -> list[Migration]:
    if is_new(connection):
        return list(migrations)
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise corrupt("it is not a database of llmctl, or no longer")
    applied = {name for (name,) in connection.execute("SELECT name FROM migrations")}
    unknown = sorted(str(name) for name in applied - {m.name for m in migrations})
    if unknown:
        raise NewerError(
            f"{path} was written by a newer llmctl (it has {', '.join(unknown)}); "
            "upgrade this one (pip install --upgrade llmctl), or move the file aside"
        )
    return [migration for migration in migrations if migration.name not in applied]


def _copy(path: Path, copy: Path) -> None:
    """Copy what is committed, whole or not at all; the caller holds the write lock."""
    part = copy.with_name(f"{copy.name}.part")
    with disk("write", part):
        part.unlink(missing_ok=True)
        os.close(open_private(part, os.O_RDWR)[0])
    with (
        closing(connect(path, synchronous="FULL", read_only=True)) as source,
        closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        source.backup(target)
    with disk("keep", copy):
        part.replace(copy)
    sync_folder(copy.parent)
