"""Conversations of `ask`, kept for 30 days so that `-c` can continue the last one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from llmctl.storage.database import Database, Migration
from llmctl.types import Message

KEEP = 30 * 24 * 3600.0
"""Seconds that a conversation is kept after its last turn."""

MIGRATIONS = (
    Migration(
        "history-001-conversations",
        (
            """
            CREATE TABLE conversations (
                id TEXT NOT NULL PRIMARY KEY,
                at REAL NOT NULL,
                profile TEXT NOT NULL,
                model TEXT NOT NULL
            )
            """,
            "CREATE INDEX conversations_at ON conversations (at)",
            """
            CREATE TABLE turns (
                id INTEGER PRIMARY KEY,
                conversation TEXT NOT NULL,
                message TEXT NOT NULL
            )
            """,
            "CREATE INDEX turns_conversation ON turns (conversation)",
        ),
    ),
)


class Conversation(Struct, frozen=True):
    """What was said so far; `profile` and `model` of the last answer, `at` its time in seconds
    since the epoch."""

    id: str
    messages: tuple[Message, ...]
    profile: str
    model: str
    at: float


class History:
    """Conversations in one database. Raises what `Database` raises."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append(
        self, id: str, messages: Sequence[Message], *, profile: str, model: str, at: float
    ) -> None:
        """Add turns to the conversation, which is new when its id is; `at` is now, in seconds
        since the epoch. Conversations last touched 30 days before that are forgotten."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM turns WHERE conversation IN "
                "(SELECT id FROM conversations WHERE at < ?)",
                (at - KEEP,),
            )
            connection.execute("DELETE FROM conversations WHERE at < ?", (at - KEEP,))
            connection.execute(
                "INSERT INTO conversations (id, at, profile, model) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET at = excluded.at, profile = excluded.profile, "
                "model = excluded.model",
                (id, at, profile, model),
            )
            connection.executemany(
                "INSERT INTO turns (conversation, message) VALUES (?, ?)",
                [(id, _as_text(message)) for message in messages],
            )

        await self._db.write(work)

    def last(self, *, now: float, max_age: float = KEEP) -> Conversation | None:
        """The conversation touched last, unless that was more than `max_age` seconds before
        `now`."""
        return next(iter(self.all(since=now - max_age, limit=1)), None)

    def all(self, *, since: float = 0.0, limit: int = -1) -> list[Conversation]:
        """The conversations touched at `since`, in seconds since the epoch, or later: the newest
        first, at most `limit` of them (-1: all)."""

        def work(connection: sqlite3.Connection) -> list[Conversation]:
            rows = connection.execute(
                "SELECT id, profile, model, at FROM conversations WHERE at >= ? "
                "ORDER BY at DESC, rowid DESC LIMIT ?",
                (since, limit),
            ).fetchall()
            found = []
            for key, profile, model, at in rows:
                turns = connection.execute(
                    "SELECT message FROM turns WHERE conversation = ? ORDER BY id", (key,)
                )
                messages = _without_empty([_as_message(text) for (text,) in turns])
                found.append(Conversation(key, messages, profile, model, at))
            return found

        return self._db.read(work)

    async def remove(self, ids: Sequence[str]) -> None:
        """Forget the conversations; those that are not there are gone already."""

        def work(connection: sqlite3.Connection) -> None:
            each = [(key,) for key in ids]
            connection.executemany("DELETE FROM turns WHERE conversation = ?", each)
            connection.executemany("DELETE FROM conversations WHERE id = ?", each)

        await self._db.write(work)

    def close(self) -> None:
        """Close the file; then no byte of it holds what was forgotten."""
        self._db.close()


def open_history(path: Path) -> History:
    """The history at `path`, created when it is missing. Raises as `Database` does."""
    return History(
        Database(path, MIGRATIONS, remedy="remove it to start with no conversations", erasable=True)
    )


def _without_empty(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns without answers that have no text and the questions to them: providers refuse a
    conversation that holds one."""
    found: list[Message] = []
    for message in messages:
        if message.role != "assistant" or message.text.strip():
            found.append(message)
        elif found and found[-1].role == "user":
            found.pop()
    return tuple(found)


def _as_text(message: Message) -> str:
    # Escaped to ASCII, so that half of a surrogate pair in a model's text survives too.
    return json.dumps(message.as_json(), separators=(",", ":"))


def _as_message(text: str) -> Message:
    fields = json.loads(text)
    role, content = fields.pop("role"), fields.pop("content")
    return Message(role, tuple(content) if isinstance(content, list) else content, fields)
