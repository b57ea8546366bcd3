"""The state of alerts on the disk, one for all processes, and the messages that must yet go out.

What fires and what it tells whom is one transaction: whoever sees a rule's figure cross first has
made the messages, and no other process makes them again. A message stays until its sink has taken
it; who claims one has it for `LEASE` seconds, so that what a killed process claimed is sent by the
next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from msgspec import Struct

from llmctl.storage.database import Database, Migration

FILE = "alerts.db"
"""Where it is kept, in the state folder."""

LEASE = 60.0
"""Seconds for which a claimed message is another's: longer than any sink may take."""

BACKOFF = (30.0, 900.0)
"""Seconds until a message is tried again: after the first failure, and at most. It doubles."""

GIVEN_UP = 86400.0
"""Seconds after which a message that nobody took is news no more."""

_FORGOTTEN = 30 * 86400.0  # seconds after which a rule that nobody looks at has no state
_SKEW = 2 * BACKOFF[1]  # seconds: a moment further ahead was written by a clock that was wrong

Phase = Literal["quiet", "pending", "firing"]

MIGRATIONS = (
    Migration(
        "alerts-001-rules",
        (
            """
            CREATE TABLE rules (
                rule TEXT NOT NULL PRIMARY KEY,
                phase TEXT NOT NULL CHECK (phase IN ('quiet', 'pending', 'firing')),
                since REAL NOT NULL,
                checked REAL NOT NULL
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE messages (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                incident TEXT NOT NULL,
                sink TEXT NOT NULL,
                body TEXT NOT NULL,
                made REAL NOT NULL,
                attempts INTEGER NOT NULL DEFAULT 0,
                due REAL NOT NULL
            )
            """,
            """
            CREATE TABLE looks (
                rules TEXT NOT NULL PRIMARY KEY,
                until REAL NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)


class AlertState(Struct, frozen=True):
    """Where a rule stands. `since`: when it came to that, and of `firing` when its figure crossed
    the threshold; `checked`: when somebody looked last. Seconds since the epoch."""

    phase: Phase = "quiet"
    since: float = 0.0
    checked: float = 0.0


class Outgoing(Struct, frozen=True):
    """A message to be put on its way: `incident` is what it is about, `sink` the key of whom it is
    for, `body` its text."""

    incident: str
    sink: str
    body: str


class Claimed(Struct, frozen=True):
    """A message that this process may send now; `attempts` counts this one, `made` is in seconds
    since the epoch."""

    number: int
    sink: str
    body: str
    made: float
    attempts: int


Step = Callable[[AlertState], tuple[AlertState, Sequence[Outgoing]]]
"""A rule's next state, and whom it tells of that."""


class AlertStore:
    """The file at `path`. Methods block until they are durable, and raise as `Database` does."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, MIGRATIONS)

    def claim_look(self, rules: str, now: float, seconds: float) -> bool:
        """Whether the caller is to look at these rules; nobody else is for so many seconds."""

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM looks WHERE until < ?", (now - _FORGOTTEN,))
            done = connection.execute(
                "INSERT INTO looks VALUES (?1, ?2) ON CONFLICT (rules) DO UPDATE "
                "SET until = ?2 WHERE until <= ?3 OR until > ?3 + ?4",
                (rules, now + seconds, now, _SKEW),
            )
            return done.rowcount == 1

        return self._db.write_now(work)

    def advance(self, now: float, steps: Mapping[str, Step]) -> dict[str, AlertState]:
        """The new state of each rule, by its key; what the steps tell is on the disk with it.

        A rule that somebody has looked at later than `now` is left as it is.
        """

        def work(connection: sqlite3.Connection) -> dict[str, AlertState]:
            connection.execute("DELETE FROM rules WHERE checked < ?", (now - _FORGOTTEN,))
            known, found = _states(connection), dict[str, AlertState]()
            for rule, step in steps.items():
                state = known.get(rule, AlertState())
                if not now < state.checked < now + _SKEW:
                    state, messages = step(state)
                    connection.execute(
                        "INSERT OR REPLACE INTO rules VALUES (?, ?, ?, ?)",
                        (rule, state.phase, state.since, now),
                    )
                    _put(connection, messages, now)
                found[rule] = state
            return found

        return self._db.write_now(work)

    def states(self) -> dict[str, AlertState]:
        """The states of all rules, by their keys."""
        return self._db.read(_states)

    def put(self, messages: Sequence[Outgoing], now: float) -> None:
        """Have the messages sent."""
        self._db.write_now(lambda connection: _put(connection, messages, now))

    def claim(self, sinks: Collection[str], now: float) -> list[Claimed]:
        """The messages for these sinks that are due, the caller's for `LEASE` seconds.

        Of those of one incident for one sink only the first: nothing is resolved before it fires.
        """

        def work(connection: sqlite3.Connection) -> list[Claimed]:
            marks = ", ".join("?" * len(sinks))
            rows = connection.execute(
                "SELECT number, sink, body, made, attempts + 1 FROM messages AS one "  # noqa: S608
                f"WHERE sink IN ({marks}) AND (due <= ? OR due > ?) AND NOT EXISTS (SELECT 1 "
                "FROM messages WHERE incident = one.incident AND sink = one.sink "
                "AND number < one.number) ORDER BY number",
                (*sinks, now, now + _SKEW),
            ).fetchall()
            connection.executemany(
                "UPDATE messages SET attempts = attempts + 1, due = ? WHERE number = ?",
                [(now + LEASE, number) for number, *_ in rows],
            )
            return [Claimed(*row) for row in rows]

        return self._db.write_now(work)

    def sent(self, message: Claimed) -> None:
        """The sink has taken it."""
        self._db.write_now(
            lambda connection: connection.execute(
                "DELETE FROM messages WHERE number = ?", (message.number,)
            )
        )

    def failed(self, message: Claimed, now: float) -> float | None:
        """The sink has not taken it: the seconds until it may be tried again; None where it is too
        old by now, and dropped."""
        if now - message.made > GIVEN_UP:
            self.sent(message)
            return None
        first, most = BACKOFF
        wait = min(most, first * 2.0 ** min(message.attempts - 1, 20))
        self._db.write_now(
            lambda connection: connection.execute(
                "UPDATE messages SET due = ? WHERE number = ?", (now + wait, message.number)
            )
        )
        return wait

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _states(connection: sqlite3.Connection) -> dict[str, AlertState]:
    rows = connection.execute("SELECT rule, phase, since, checked FROM rules").fetchall()
    return {rule: AlertState(*state) for rule, *state in rows}


def _put(connection: sqlite3.Connection, messages: Sequence[Outgoing], now: float) -> None:
    # What nobody takes is dropped by whoever tries it; of a sink that is gone nobody does.
    connection.execute("DELETE FROM messages WHERE made < ?", (now - 2 * GIVEN_UP,))
    connection.executemany(
        "INSERT INTO messages (incident, sink, body, made, due) VALUES (?, ?, ?, ?, ?)",
        [(one.incident, one.sink, one.body, now, now) for one in messages],
    )
