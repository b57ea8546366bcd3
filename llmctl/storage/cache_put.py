"""What many answers change in the cache's tables, in a few statements."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from llmctl.storage.answers import short
from llmctl.storage.sqlite import lists, parts, rows

_RECENT = 3600
"""Seconds for which a noted use stands: who prunes by last use does not ask for minutes."""

_MODEL = "SELECT id FROM models WHERE asked = ? AND answered = ?"
_ADD_MODEL = "INSERT INTO models (asked, answered) VALUES (?, ?)"


class Entry(NamedTuple):
    """An answer as it is stored: its key, the model that was asked and the one that answered,
    when it was stored (seconds since the epoch), and its packed bytes with their checksum."""

    key: bytes
    models: tuple[str, str]
    stored: float
    compressed: bool
    check: int
    value: bytes


def put_all(connection: sqlite3.Connection, entries: Sequence[Entry], now: int) -> None:
    """Store the answers, instead of older ones with their keys, in the caller's transaction.
    Where a key is there twice the last one counts. `now`: seconds since the epoch."""
    newest = {short(entry.key): entry for entry in entries}
    models = {
        pair: _model(connection, pair) for pair in dict.fromkeys(e.models for e in newest.values())
    }
    _forget(connection, list(newest))
    for part in parts(list(newest.items()), 6):
        _put(connection, dict(part), models, now)


def _model(connection: sqlite3.Connection, models: tuple[str, str]) -> int:
    """The number of the models asked and answering."""
    found = connection.execute(_MODEL, models).fetchone()
    return int(found[0] if found else connection.execute(_ADD_MODEL, models).lastrowid or 0)


def _forget(connection: sqlite3.Connection, keys: Sequence[int]) -> None:
    """Remove the answers that stand under the short keys; the keys stay."""
    do = connection.execute
    for some, those in lists(keys):
        old = do(f"SELECT id FROM keys WHERE short IN {some}", those).fetchall()  # noqa: S608
        for row in old:
            do("DELETE FROM texts WHERE id = ?", row)
            do("DELETE FROM answers WHERE id = ?", row)


def _put(
    connection: sqlite3.Connection,
    newest: Mapping[int, Entry],
    models: Mapping[tuple[str, str], int],
    now: int,
) -> None:
    number, do = len(newest), connection.execute
    added = do(
        f"INSERT INTO answers (model, stored, used, bytes) VALUES {rows(number, 4)}",  # noqa: S608
        [
            *chain.from_iterable(
                (models[e.models], e.stored, now, len(e.value)) for e in newest.values()
            )
        ],
    )
    # Rows of one statement are numbered one after the other: nobody else writes meanwhile.
    first = int(added.lastrowid or 0) - number + 1
    texts = chain.from_iterable(
        (first + n, e.key, e.stored, e.compressed, e.check, e.value)
        for n, e in enumerate(newest.values())
    )
    do(f"INSERT INTO texts VALUES {rows(number, 6)}", [*texts])  # noqa: S608
    keys = chain.from_iterable((brief, first + n) for n, brief in enumerate(newest))
    do(f"INSERT OR REPLACE INTO keys VALUES {rows(number, 2)}", [*keys])  # noqa: S608


def note_use(connection: sqlite3.Connection, used: Mapping[int, int]) -> None:
    """Write when the answers with these numbers were used, in seconds since the epoch, unless it
    was only just before that."""
    together = defaultdict[int, list[int]](list)
    for number, at in used.items():
        together[at].append(number)
    for at, numbers in together.items():
        for some, those in lists(numbers):
            connection.execute(
                f"UPDATE answers SET used = ? WHERE id IN {some} AND used <= ?",  # noqa: S608
                (at, *those, at - _RECENT),
            )


def unkept(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[bytes]:
    """Those of the keys for which no answer is kept."""
    brief, there = [short(key) for key in keys], set[int]()
    for some, those in lists(brief):
        kept = connection.execute(
            f"SELECT short FROM keys WHERE short IN {some}",  # noqa: S608
            those,
        ).fetchall()
        there.update(row[0] for row in kept)
    return [key for key, name in zip(keys, brief, strict=True) if name not in there]
