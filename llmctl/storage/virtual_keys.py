"""Virtual keys of the gateway: what the holder of each may do, and the digest of its secret."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Caps
from llmctl.errors import InputError, LlmctlError
from llmctl.redact import remember
from llmctl.storage.database import Database, Migration, Work, corrupt
from llmctl.storage.files import disk

FILE = "tokens.db"
"""Where tokens are kept, in the state folder."""

PREFIX = "lk-"
"""What every secret of ours begins with; 43 characters of base64url follow, which are 256 bits."""

LOOK = 0.5
"""Seconds between two looks at whether another process changed the file: so long, at most, is a
revoked token still accepted."""

_NOTE = 60.0  # seconds between two writes of when tokens were used

MIGRATIONS = (
    Migration(
        "tokens-001-tokens",
        (
            """
            CREATE TABLE tokens (
                name TEXT NOT NULL PRIMARY KEY,
                token TEXT NOT NULL,
                last_used REAL
            ) WITHOUT ROWID
            """,
            # Two of one token while it is rotated: the former one expires first.
            """
            CREATE TABLE secrets (
                digest TEXT NOT NULL PRIMARY KEY,
                token TEXT NOT NULL,
                expires REAL
            ) WITHOUT ROWID
            """,
        ),
    ),
)

_TOKENS = "SELECT token, last_used FROM tokens"
_SECRETS = (
    "SELECT digest, expires, tokens.token, last_used FROM secrets "
    "JOIN tokens ON tokens.name = secrets.token"
)


class Token(Struct, frozen=True):
    """A virtual key without its secret. Moments are seconds since the epoch.

    Attributes:
        user, team, organisation: whom its calls are counted for.
        profiles: those it may use; None: all that are served.
        caps: what it may use; without any it has those of `serve: caller:`.
        weight: its share of turns where callers wait for a provider, 1 to 100.
        admin: whether it may see what other callers used.

    """

    name: str
    user: str
    created: float
    team: str | None = None
    organisation: str | None = None
    profiles: tuple[str, ...] | None = None
    caps: Caps = Caps()
    weight: int = 1
    admin: bool = False
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        """Whether it is accepted at the moment."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


class TokenStore:
    """The tokens in the file at `path`, which the first token creates; looking creates nothing.

    Methods raise what `Database` raises. One that cannot look accepts nobody.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._db: Database | None = None
        self._file: tuple[int, int] | None = None
        self._version = -1  # SQLite's, of what `_known` was read from
        self._known: dict[str, tuple[str, Token]] = {}  # by digest, which each has beside it
        self._next_look = self._next_note = float("-inf")
        self._used: dict[str, float] = {}
        self._noting: asyncio.Task[None] | None = None

    def find(self, secret: str) -> Token | None:
        """The token of a secret, expired and revoked ones, too; what other processes did counts
        after `LOOK` seconds."""
        now = self._clock.monotonic()
        if now >= self._next_look:
            self._look()
            self._next_look = now + LOOK
        digest = _digest(secret)
        stored, token = self._known.get(digest, ("", None))
        return token if hmac.compare_digest(stored, digest) else None

    def any_active(self) -> bool:
        """Whether anybody could call with a token."""
        now = self._clock.wall()
        return any(token.state(now) == "active" for token in self.all())

    def all(self) -> list[Token]:
        """All tokens, by name."""
        db = self._opened()
        return [] if db is None else db.read(_read_tokens)

    def note_use(self, token: Token) -> None:
        """Note that the token is used now; written once a minute and at the end, if it can be."""
        self._used[token.name] = self._clock.wall()
        now = self._clock.monotonic()
        if now >= self._next_note:
            self._next_note = now + _NOTE
            self._noting = asyncio.get_running_loop().create_task(self._write_uses())

    def create(self, token: Token) -> str:
        """Add the token; its secret, which nobody can find out later. Raises `InputError` where
        one of the same name is in force."""
        secret = _new_secret()

        def work(connection: sqlite3.Connection) -> None:
            found = _read_token(connection, token.name)
            if found is not None and found.state(token.created) == "active":
                raise InputError(
                    f"there is a token {token.name}: give it a new secret with `llmctl tokens "
                    f"rotate {token.name}`, or revoke it first"
                )
            connection.execute("DELETE FROM secrets WHERE token = ?", (token.name,))
            _keep(connection, token)
            connection.execute(
                "INSERT INTO secrets VALUES (?, ?, NULL)", (_digest(secret), token.name)
            )

        self._create_file().write_now(work)
        return secret

    def revoke(self, names: Collection[str]) -> None:
        """Refuse the tokens from now on; those that are not there, and that were revoked before,
        stay as they are."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> None:
            for name in names:
                found = _read_token(connection, name)
                if found is not None and found.revoked is None:
                    _keep(connection, replace(found, revoked=now))

        self._create_file().write_now(work)

    def rotate(self, name: str, grace: float) -> str:
        """A new secret of the token; those before it are accepted for `grace` seconds more."""
        secret, now = _new_secret(), self._clock.wall()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM secrets WHERE token = ? AND expires <= ?", (name, now))
            connection.execute(
                "UPDATE secrets SET expires = min(coalesce(expires, ?1), ?1) WHERE token = ?2",
                (now + grace, name),
            )
            connection.execute("INSERT INTO secrets VALUES (?, ?, NULL)", (_digest(secret), name))

        self._create_file().write_now(work)
        return secret

    def close(self) -> None:
        """Write what is noted, and give the file back."""
        db = self._db
        if db is not None and self._used:
            with suppress(LlmctlError):
                db.write_now(_noted(self._used))
        self._give_back()

    async def _write_uses(self) -> None:
        used, self._used = self._used, {}
        if self._db is not None:
            with suppress(LlmctlError):  # it is for people to look at, and no call waits for it
                await self._db.write(_noted(used))

    def _look(self) -> None:
        db = self._opened()
        if db is None:
            self._known = {}
            return
        version: int = db.read(lambda connection: _one(connection, "PRAGMA data_version"))
        if version != self._version:
            self._known = db.read(_read_secrets)
            self._version = version

    def _opened(self) -> Database | None:
        """The file, None where there is none; another one where it was replaced."""
        file = _identity(self._path)
        if file != self._file:
            self._give_back()
        if self._db is None and file is not None:
            self._db = Database(self._path, MIGRATIONS)
            self._file = file
        return self._db

    def _create_file(self) -> Database:
        if (db := self._opened()) is None:
            db = self._db = Database(self._path, MIGRATIONS)
            self._file = _identity(self._path)
        return db

    def _give_back(self) -> None:
        db, self._db, self._file, self._version = self._db, None, None, -1
        if db is not None:
            db.close()


def _new_secret() -> str:
    secret = PREFIX + secrets.token_urlsafe(32)
    remember(secret)
    return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _identity(path: Path) -> tuple[int, int] | None:
    with disk("read", path), suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _one(connection: sqlite3.Connection, question: str) -> int:
    (value,) = connection.execute(question).fetchone()
    return int(value)


def _decoded(text: str, last_used: float | None) -> Token:
    try:
        return replace(msgspec.json.decode(text, type=Token), last_used=last_used)
    except msgspec.MsgspecError as error:
        raise corrupt(f"a token cannot be read: {error}") from error


def _read_token(connection: sqlite3.Connection, name: str) -> Token | None:
    row = connection.execute(f"{_TOKENS} WHERE name = ?", (name,)).fetchone()
    return None if row is None else _decoded(*row)


def _read_tokens(connection: sqlite3.Connection) -> list[Token]:
    return [_decoded(*row) for row in connection.execute(f"{_TOKENS} ORDER BY name").fetchall()]


def _read_secrets(connection: sqlite3.Connection) -> dict[str, tuple[str, Token]]:
    found = {}
    for digest, expires, text, last_used in connection.execute(_SECRETS).fetchall():
        token = _decoded(text, last_used)
        ends = [moment for moment in (token.expires, expires) if moment is not None]
        found[digest] = digest, replace(token, expires=min(ends, default=None))
    return found


def _keep(connection: sqlite3.Connection, token: Token) -> None:
    text = msgspec.json.encode(token).decode()
    connection.execute(
        "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (token.name, text, token.last_used)
    )


def _noted(used: Mapping[str, float]) -> Work[None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "UPDATE tokens SET last_used = max(coalesce(last_used, ?2), ?2) WHERE name = ?1",
            list(used.items()),
        )

    return work
