"""The queue: calls that nobody could answer in an outage, kept until they can be sent.

A call is claimed before it is sent, by a lease that names its process, and removed when its answer
is where it belongs. In between the answer is kept here, so that a crash asks no question twice that
was answered. Questions and answers are text in clear, or bytes that are encrypted for their call.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from llmctl.clock import Clock
from llmctl.config.paths import STORE_KEY
from llmctl.errors import BusyError, NoKeyError
from llmctl.storage.cipher import Cipher, StoreCipher, WrongKeyError
from llmctl.storage.database import Database, Migration, ReadOnlyFile
from llmctl.storage.process import Process
from llmctl.types import Request

LEASE = 180.0
"""Seconds after which the lease of a process that cannot be seen from here (in another container,
on another host) is over, unless it is renewed. A process in sight has it until it ends."""

MIGRATIONS = (
    Migration(
        "queue-001-calls",
        (
            """
            CREATE TABLE calls (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                at_ms INTEGER NOT NULL,
                profile TEXT NOT NULL,
                model TEXT NOT NULL,
                output TEXT NOT NULL,
                row TEXT NOT NULL,
                format TEXT NOT NULL,
                conversation TEXT NOT NULL,
                remembered INTEGER NOT NULL,
                attempts INTEGER NOT NULL,
                error TEXT NOT NULL,
                request NOT NULL,
                answer,
                pass TEXT NOT NULL DEFAULT '',
                pid INTEGER,
                birth TEXT,
                world TEXT,
                lease_ms INTEGER
            )
            """,
            "CREATE UNIQUE INDEX calls_row ON calls (output, row) WHERE output != ''",
            "CREATE INDEX calls_next ON calls (profile, attempts, number)",
        ),
    ),
)

Format = Literal["llmctl", "openai"]


class Origin(Struct, frozen=True):
    """Where a call comes from, and its answer goes.

    Attributes:
        output: the OUTPUT of `batch` as a real path; empty: it was `ask`'s.
        format: of that file's lines.
        conversation: the id of the one that `ask` continued; empty: a new one.
        remembered: the answer of `ask` is kept as a conversation.

    """

    output: str = ""
    format: Format = "llmctl"
    conversation: str = ""
    remembered: bool = True


class QueuedCall(Struct, frozen=True):
    """A call in the queue, without what it asks.

    Attributes:
        id: the call id that it failed under.
        at: when it was queued first, in seconds since the epoch.
        profile, model: who is asked.
        row: the id of the input row; empty: it is none.
        attempts: how often it was tried from the queue.
        error: the type of the error that the last try, or the first call, met.
        answered: its answer is there, and not yet where it belongs.
        in_hand: a process is sending it.

    """

    id: str
    at: float
    profile: str
    model: str
    row: str
    origin: Origin
    attempts: int
    error: str
    answered: bool
    in_hand: bool


class ClaimedCall(Struct, frozen=True):
    """A call that this process has a lease on: what it asks, and the output row of its answer
    where that came before."""

    call: QueuedCall
    request: Request
    answer: bytes | None


_ORIGIN = Origin.__struct_fields__
_COLUMNS = ("id", "at_ms", "profile", "model", "row", *_ORIGIN, "attempts", "error")
_CALL = f"{', '.join(_COLUMNS)}, answer IS NOT NULL"
_OWNER = "pid, birth, world"
_NEXT = (
    f"SELECT {_CALL}, {_OWNER}, request, answer FROM calls "  # noqa: S608 - our own names
    "WHERE profile = ? AND pass != ? AND pid IS NULL ORDER BY attempts, number LIMIT 1"
)
_ADD = (
    f"INSERT INTO calls (number, {', '.join(_COLUMNS)}, request) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"
)
_FREE = "pid = NULL, birth = NULL, world = NULL, lease_ms = NULL"
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Request).decode


class CallQueue:
    """The queue's file. `clock` says when leases are over. `lingers`: when it was opened its calls
    were encrypted, but another process reads on, and so the WAL may still hold them in clear.

    Raises what `Database` raises, for what is encrypted as `StoreCipher.cipher`, and `NoKeyError`
    where that was done with another key.
    """

    def __init__(self, db: Database, store: StoreCipher, clock: Clock) -> None:
        self._db, self._store, self._clock = db, store, clock
        self._me: tuple[int, str, str] = astuple(Process.current())
        self._removed = self.lingers = False
        if (cipher := store.writing) is not None and db.read(_has_plain):
            db.write_now(lambda connection: _encrypt(connection, cipher))
            self.lingers = not db.rebuild()

    async def put(self, request: Request, origin: Origin, error: str) -> None:
        """Keep a call under its call id, durably. A row that is there already is put once more: as
        old as it was, and tried one time more. Raises `TypeError` and `ValueError` for what JSON
        cannot say."""
        text, cipher, now = _encode(request).decode(), self._store.writing, self._now()
        sealed = _sealed(text, request.call_id, "request", cipher)
        row = request.id if origin.output else ""

        def work(connection: sqlite3.Connection) -> None:
            before = connection.execute(
                "DELETE FROM calls WHERE output = ? AND row = ? AND output != '' "
                "RETURNING number, at_ms, attempts + 1",
                (origin.output, row),
            ).fetchall()
            # Without a number it gets one above all that are there: the last place.
            number, at, attempts = before[0] if before else (None, now, 0)
            target = request.target
            about = (number, request.call_id, at, target.profile, target.model, row)
            connection.execute(_ADD, (*about, *astuple(origin), attempts, error, sealed))

        await self._db.write(work)

    async def claim(self, profile: str, name: str) -> ClaimedCall | None:
        """The next call of a profile, those tried least first and then as they were queued, under
        a lease; None: there is none that the pass of that name has not had."""
        until = self._now() + round(LEASE * 1000)

        def work(connection: sqlite3.Connection) -> Any:
            found = connection.execute(_NEXT, (profile, name)).fetchone()
            if found is not None:
                connection.execute(
                    "UPDATE calls SET pass = ?, pid = ?, birth = ?, world = ?, lease_ms = ? "
                    "WHERE id = ?",
                    (name, *self._me, until, found[0]),
                )
            return found

        row = await self._db.write(work)
        if row is None:
            return None
        *about, request, answer = row
        call = replace(_call(about), in_hand=True)
        try:
            asked = _decode(self._opened(request, call.id, "request"))
            kept = None if answer is None else self._opened(answer, call.id, "answer")
        except BaseException:
            await self.give_back(call.id)
            raise
        return ClaimedCall(call, replace(asked, call_id=call.id), kept)

    async def give_back(self, id: str, error: str = "") -> None:
        """End the lease: the call waits on; with an `error` it was tried once more."""
        asked = f"UPDATE calls SET {_FREE}, attempts = attempts + ?"  # noqa: S608
        more = ", error = ?" if error else ""
        values = (1, error, id) if error else (0, id)
        await self._run(f"{asked}{more} WHERE id = ?", values)

    async def answer(self, id: str, line: bytes) -> None:
        """Keep the output row of a call's answer, durably, until it is where it belongs."""
        sealed = _sealed(line.decode(), id, "answer", self._store.writing)
        await self._run("UPDATE calls SET answer = ? WHERE id = ?", (sealed, id))

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget calls; gives how many there were."""
        return await self._remove("id = ?", [(each,) for each in ids])

    async def remove_row(self, output: str, row: str) -> None:
        """Forget the call of an output's row, if there is one: the row has its end."""
        await self._remove("output = ? AND row = ?", [(output, row)])

    async def remove_output(self, output: str) -> None:
        """Forget all calls of an output: it starts over."""
        await self._remove("output = ?", [(output,)])

    async def pass_over(self, output: str, name: str) -> None:
        """Let the pass of that name meet no call of an output."""
        await self._run("UPDATE calls SET pass = ? WHERE output = ?", (name, output))

    async def free_dead(self) -> None:
        """End the leases of processes that have ended, or have not been heard of."""
        owners = self._db.read(_owners)
        now = self._now()
        for *owner, until in owners:
            if tuple(owner) != self._me and Process(*owner).is_dead(out_of_sight=until < now):
                await self._run(
                    f"UPDATE calls SET {_FREE} WHERE ({_OWNER}) = (?, ?, ?)",  # noqa: S608
                    tuple(owner),
                )

    async def renew(self) -> None:
        """Let the leases of this process last on."""
        until = self._now() + round(LEASE * 1000)
        asked = f"UPDATE calls SET lease_ms = ? WHERE ({_OWNER}) = (?, ?, ?)"  # noqa: S608
        await self._run(asked, (until, *self._me))

    def calls(self) -> list[QueuedCall]:
        """All calls, in the order in which they are sent."""
        return self._db.read(_calls)

    def rows(self, output: str) -> set[str]:
        """The ids of an output's rows that are queued."""
        asked = "SELECT row FROM calls WHERE output = ?"
        found = self._db.read(lambda c: c.execute(asked, (output,)).fetchall())
        return {row for (row,) in found}

    def answers(self, output: str) -> list[tuple[str, str, bytes]]:
        """Of an output's calls whose answers are not in it yet: id, row, and the answer's line.
        For who holds the file."""
        asked = (
            "SELECT id, row, answer FROM calls "
            "WHERE output = ? AND answer IS NOT NULL ORDER BY number"
        )
        found = self._db.read(lambda c: c.execute(asked, (output,)).fetchall())
        return [(key, row, self._opened(kept, key, "answer")) for key, row, kept in found]

    def tidy(self) -> bool:
        """Leave no byte of what was removed in the file; False when another process uses it, and
        so it, or the WAL, may still hold some."""
        try:
            return not self._removed or self._db.rebuild()
        except BusyError:
            return False

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _now(self) -> int:
        return round(self._clock.wall() * 1000)

    def _opened(self, kept: str | bytes, id: str, part: str) -> bytes:
        if isinstance(kept, str):
            return kept.encode()
        try:
            return self._store.cipher.decrypt(kept, _place(id, part))
        except WrongKeyError as error:
            raise NoKeyError(
                f"{self._db.path}: the call {id} was encrypted with another store key (or "
                f"changed): set {STORE_KEY} to the one of that time, or remove it: `llmctl queue "
                f"remove {id}`"
            ) from error

    async def _remove(self, condition: str, values: Sequence[tuple[str, ...]]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            asked = f"DELETE FROM calls WHERE {condition}"  # noqa: S608
            return connection.executemany(asked, values).rowcount

        gone = await self._db.write(work)
        self._removed = self._removed or gone > 0
        return gone

    async def _run(self, asked: str, values: tuple[object, ...]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(asked, values)

        await self._db.write(work)


def open_queue(path: Path, store: StoreCipher, clock: Clock) -> CallQueue:
    """The queue at `path`, created when it is missing. Raises as `Database` does, and as
    `StoreCipher.writing`."""
    db = Database(
        path, MIGRATIONS, remedy="move it aside to start with an empty queue", erasable=True
    )
    try:
        return CallQueue(db, store, clock)
    except BaseException:
        db.close()
        raise


class CallQueuePeek(ReadOnlyFile):
    """The queue, to look at; no key is needed for it."""

    def calls(self) -> list[QueuedCall]:
        """All calls, in the order in which they are sent."""
        return self.ask(_calls) or []

    def has_rows(self, output: str) -> bool:
        """Whether rows of an output are queued."""
        asked = "SELECT 1 FROM calls WHERE output = ? LIMIT 1"
        return bool(self.ask(lambda connection: connection.execute(asked, (output,)).fetchall()))


def _calls(connection: sqlite3.Connection) -> list[QueuedCall]:
    asked = f"SELECT {_CALL}, {_OWNER} FROM calls ORDER BY attempts, number"  # noqa: S608
    found, living = [], dict[tuple[Any, ...], bool]()
    for row in connection.execute(asked).fetchall():
        owner = row[-3:]
        if owner[0] is not None and owner not in living:
            living[owner] = not Process(*owner).is_dead(out_of_sight=False)
        found.append(replace(_call(row), in_hand=living.get(owner, False)))
    return found


def _call(row: Sequence[Any]) -> QueuedCall:
    key, at, profile, model, name, output, kind, conversation, remembered = row[:9]
    attempts, error, answered = row[9:12]
    origin = Origin(output, kind, conversation, remembered=bool(remembered))
    return QueuedCall(
        key, at / 1000, profile, model, name, origin, attempts, error, bool(answered), in_hand=False
    )


def _owners(connection: sqlite3.Connection) -> list[Any]:
    asked = (
        f"SELECT {_OWNER}, max(lease_ms) FROM calls "  # noqa: S608
        f"WHERE pid IS NOT NULL GROUP BY {_OWNER}"
    )
    return connection.execute(asked).fetchall()


def _has_plain(connection: sqlite3.Connection) -> bool:
    asked = "SELECT 1 FROM calls WHERE 'text' IN (typeof(request), typeof(answer)) LIMIT 1"
    return connection.execute(asked).fetchone() is not None


def _encrypt(connection: sqlite3.Connection, cipher: Cipher) -> None:
    """Encrypt what is in clear."""
    for part in ("request", "answer"):
        plain = f"SELECT id, {part} FROM calls WHERE typeof({part}) = 'text'"  # noqa: S608
        for key, text in connection.execute(plain).fetchall():
            sealed = _sealed(text, key, part, cipher)
            connection.execute(f"UPDATE calls SET {part} = ? WHERE id = ?", (sealed, key))  # noqa: S608


def _sealed(text: str, id: str, part: str, cipher: Cipher | None) -> str | bytes:
    return text if cipher is None else cipher.encrypt(text.encode(), _place(id, part))


def _place(id: str, part: str) -> bytes:
    return f"{id}/{part}".encode()
