"""Conversations of `ask`, kept for 30 days so that `-c` can continue the last one.

A turn's message is text in clear, or bytes that are encrypted for its conversation and its number
in there. Both can be read; what is in clear is encrypted when a history is opened that encrypts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from llmctl.config.paths import STORE_KEY
from llmctl.errors import NoKeyError
from llmctl.storage.cipher import Cipher, StoreCipher, WrongKeyError
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
    since the epoch; `encrypted`: all turns are, on the disk."""

    id: str
    messages: tuple[Message, ...]
    profile: str
    model: str
    at: float
    encrypted: bool = False


class History:
    """Conversations in one database. `lingers`: when it was opened they were encrypted, but another
    process reads on, and so the WAL may still hold them in clear.

    Raises what `Database` raises, for what is encrypted as `StoreCipher.cipher`, and `NoKeyError`
    where that was done with another key.
    """

    def __init__(self, db: Database, store: StoreCipher) -> None:
        self._db, self._store, self.lingers = db, store, False
        if (cipher := store.writing) is not None and db.read(_has_plain):
            db.write_now(lambda connection: _encrypt(connection, cipher))
            self.lingers = not db.rebuild()

    async def append(
        self, id: str, messages: Sequence[Message], *, profile: str, model: str, at: float
    ) -> None:
        """Add turns to the conversation, which is new when its id is; `at` is now, in seconds
        since the epoch. Conversations last touched 30 days before that are forgotten."""
        cipher = self._store.writing

        def work(connection: sqlite3.Connection) -> int:
            gone = connection.execute(
                "DELETE FROM turns WHERE conversation IN "
                "(SELECT id FROM conversations WHERE at < ?)",
                (at - KEEP,),
            ).rowcount
            connection.execute("DELETE FROM conversations WHERE at < ?", (at - KEEP,))
            connection.execute(
                "INSERT INTO conversations (id, at, profile, model) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET at = excluded.at, profile = excluded.profile, "
                "model = excluded.model",
                (id, at, profile, model),
            )
            counted = "SELECT count(*) FROM turns WHERE conversation = ?"
            (first,) = connection.execute(counted, (id,)).fetchone()
            texts = enumerate(map(_as_text, messages), first)
            connection.executemany(
                "INSERT INTO turns (conversation, message) VALUES (?, ?)",
                [(id, _sealed(text, id, number, cipher)) for number, text in texts],
            )
            return gone

        if await self._db.write(work):
            self._db.rebuild()

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
                ).fetchall()
                said = [self._text(kept, key, number) for number, (kept,) in enumerate(turns)]
                messages = _without_empty([_as_message(text) for text in said])
                encrypted = all(isinstance(kept, bytes) for (kept,) in turns)
                found.append(Conversation(key, messages, profile, model, at, encrypted))
            return found

        return self._db.read(work)

    def ids(self, *, since: float = 0.0, before: float = float("inf")) -> list[str]:
        """Of the conversations touched at `since` or later and before `before`, in seconds since
        the epoch: the newest first. What was said is not read."""
        asked = "SELECT id FROM conversations WHERE at >= ? AND at < ? ORDER BY at DESC, rowid DESC"
        found = self._db.read(lambda c: c.execute(asked, (since, before)).fetchall())
        return [str(key) for (key,) in found]

    def _text(self, kept: str | bytes, id: str, number: int) -> str:
        if isinstance(kept, str):
            return kept
        try:
            cipher = self._store.cipher
        except NoKeyError as error:
            raise NoKeyError(
                f"{self._db.path} is encrypted, and there is no store key: set {STORE_KEY} to the "
                "one of that time, or remove all that is there: `llmctl history remove --all`"
            ) from error
        try:
            return cipher.decrypt(kept, _place(id, number)).decode()
        except WrongKeyError as error:
            raise NoKeyError(
                f"{self._db.path}: conversation {id} was encrypted with another store key (or "
                f"changed): set {STORE_KEY} to the one of that time, or remove it: "
                f"`llmctl history remove {id}`"
            ) from error

    async def remove(self, ids: Sequence[str]) -> bool:
        """Forget the conversations; those that are not there are gone already. False when another
        process reads on, and so the WAL may still hold them."""

        def work(connection: sqlite3.Connection) -> None:
            each = [(key,) for key in ids]
            connection.executemany("DELETE FROM turns WHERE conversation = ?", each)
            connection.executemany("DELETE FROM conversations WHERE id = ?", each)

        await self._db.write(work)
        return self._db.rebuild()

    def close(self) -> None:
        """Close the file; then no byte of it holds what was forgotten."""
        self._db.close()


def open_history(path: Path, store: StoreCipher) -> History:
    """The history at `path`, created when it is missing. Raises as `Database` does, and as
    `StoreCipher.writing`."""
    db = Database(
        path, MIGRATIONS, remedy="remove it to start with no conversations", erasable=True
    )
    try:
        return History(db, store)
    except BaseException:
        db.close()
        raise


def _has_plain(connection: sqlite3.Connection) -> bool:
    asked = "SELECT 1 FROM turns WHERE typeof(message) = 'text' LIMIT 1"
    return connection.execute(asked).fetchone() is not None


def _encrypt(connection: sqlite3.Connection, cipher: Cipher) -> None:
    """Encrypt the turns that are in clear."""
    numbered = (
        "SELECT id, conversation, number, message FROM (SELECT *, row_number() OVER "
        "(PARTITION BY conversation ORDER BY id) - 1 AS number FROM turns) "
        "WHERE typeof(message) = 'text'"
    )
    for turn, conversation, number, text in connection.execute(numbered).fetchall():
        sealed = _sealed(text, conversation, number, cipher)
        connection.execute("UPDATE turns SET message = ? WHERE id = ?", (sealed, turn))


def _sealed(text: str, id: str, number: int, cipher: Cipher | None) -> str | bytes:
    return text if cipher is None else cipher.encrypt(text.encode(), _place(id, number))


def _place(id: str, number: int) -> bytes:
    return f"{id}/{number}".encode()


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
