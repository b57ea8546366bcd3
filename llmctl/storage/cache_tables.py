"""The tables of the cache, step by step, and how its file is opened."""

from __future__ import annotations

from pathlib import Path

from llmctl.storage.database import Database
from llmctl.storage.migrations import Migration

# `answers.short` in SQL: the last sixteen digits, each moved to its place.
_SHORT = " | ".join(
    f"((instr('0123456789ABCDEF', substr(hex(key), {n - 16}, 1)) - 1) << {60 - 4 * n})"
    for n in range(16)
)

MIGRATIONS = (
    Migration(
        "cache-001-answers",
        (
            """
            CREATE TABLE answers (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL UNIQUE,
                model TEXT NOT NULL,
                stored REAL NOT NULL,
                used INTEGER NOT NULL,
                bytes INTEGER NOT NULL,
                compressed INTEGER NOT NULL,
                checksum INTEGER NOT NULL,
                value BLOB NOT NULL
            )
            """,
            "CREATE INDEX answers_used ON answers (used, bytes)",
            "CREATE INDEX answers_stored ON answers (stored, bytes)",
            "CREATE INDEX answers_model ON answers (model, bytes)",
        ),
    ),
    # What is looked up by its scattered key, what pruning and statistics read from end to end,
    # and what is large lie apart, and nothing is indexed twice. So storing touches one page at
    # random (in `keys`) and appends the rest, a look-up descends two trees, and all the answers
    # can be added up by reading a twentieth of the file.
    Migration(
        "cache-002-apart",
        (
            "ALTER TABLE answers RENAME TO old",
            """
            CREATE TABLE models (
                id INTEGER PRIMARY KEY,
                asked TEXT NOT NULL,
                answered TEXT NOT NULL,
                UNIQUE (asked, answered)
            )
            """,
            # An id is never used again (AUTOINCREMENT): a key that outlived its answer, because
            # a pruning process was killed, must not lead to another one.
            """
            CREATE TABLE answers (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                model INTEGER NOT NULL,
                stored REAL NOT NULL,
                used INTEGER NOT NULL,
                bytes INTEGER NOT NULL
            )
            """,
            """
            CREATE TABLE texts (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL,
                stored REAL NOT NULL,
                compressed INTEGER NOT NULL,
                checksum INTEGER NOT NULL,
                value BLOB NOT NULL
            )
            """,
            "CREATE TABLE keys (short INTEGER PRIMARY KEY, id INTEGER NOT NULL)",
            # Who is finding out which answer: `beat` is moved while the owner lives.
            """
            CREATE TABLE leases (
                key BLOB NOT NULL PRIMARY KEY,
                pid INTEGER NOT NULL,
                birth TEXT NOT NULL,
                world TEXT NOT NULL,
                beat INTEGER NOT NULL
            ) WITHOUT ROWID
            """,
            "INSERT INTO models (asked, answered) SELECT DISTINCT model, model FROM old",
            """
            INSERT INTO answers SELECT o.id, m.id, o.stored, o.used, o.bytes
            FROM old AS o JOIN models AS m ON m.asked = o.model
            """,
            "INSERT INTO texts SELECT id, key, stored, compressed, checksum, value FROM old",
            f"INSERT OR REPLACE INTO keys SELECT {_SHORT}, id FROM old",  # noqa: S608 - our own words
            "DROP TABLE old",
        ),
    ),
)

PRAGMAS = (
    # Deleted and replaced answers are overwritten with zeros, not only unlinked: after pruning
    # (and a truncating checkpoint, for the WAL) their text is in no byte of the files.
    "secure_delete=ON",
    # 8 MiB hold the inner pages of a million entries' trees.
    "cache_size=-8192",
    # Keys are scattered over many pages: folding the WAL in at 64 MB instead of 4 writes a page
    # once for several keys, and storing takes no longer in a large file than in a small one.
    "wal_autocheckpoint=16000",
)

READER_PRAGMAS = ("cache_size=-16384",)  # four fifths of the keys of a million entries, too

REMEDY = (
    "the next call sets it aside and starts an empty one; or remove it: nothing but cached "
    "answers is lost"
)


def cache_database(path: Path) -> Database:
    """The database of a cache. Raises as `Database` does."""
    return Database(
        path,
        MIGRATIONS,
        synchronous="NORMAL",
        pragmas=PRAGMAS,
        reader_pragmas=READER_PRAGMAS,
        # Settled when the file is made, because later it would take rewriting all of it: free
        # pages can be given back a few at a time, so pruning shrinks the file without locking
        # it for long.
        auto_vacuum="INCREMENTAL",
        remedy=REMEDY,
        keep_copy=False,  # pruning could not reach the text in it
    )
