"""Rows of the ledger, written many at once: a statement costs more than the row it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from llmctl.protocols import Cap, Crossing, Refusal
from llmctl.stores.ledger_budgets import check, crossings, is_exceeded, use
from llmctl.stores.process import Process
from llmctl.stores.rows import CallRow, HeldCall
from llmctl.stores.sqlite import lists, parts, rows

CALL = CallRow.__struct_fields__
"""The columns of `calls`, in the order of `CallRow`."""

HELD = HeldCall.__struct_fields__
"""The columns of `holds`, in the order of `HeldCall`; its owner's stand behind them."""

OWNED = [*HELD, "pid", "birth", "world"]

call_values: Callable[[CallRow], tuple[Any, ...]] = attrgetter(*CALL)
held_values: Callable[[HeldCall], tuple[Any, ...]] = attrgetter(*HELD)


class NotAllError(Exception):
    """Some of the holds do not fit under a budget: each must be tried by itself."""


class NewHold(NamedTuple):
    """A hold to be written: the values of its columns, its picodollars and the caps it counts
    towards; `at` in milliseconds since the epoch."""

    values: tuple[Any, ...]
    amount: int
    caps: Sequence[Cap]
    at: int


class NewCall(NamedTuple):
    """The row of a call that has ended, whose hold ends too, and the caps to warn at."""

    values: tuple[Any, ...]
    caps: Sequence[Cap]


@lru_cache(maxsize=512)
def insert(table: str, number: int) -> str:
    """SQL that adds so many rows to `calls` or `holds`, or takes the place of those there are."""
    columns = CALL if table == "calls" else OWNED
    renewed = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES {rows(number, len(columns))} "  # noqa: S608 - our own names
        f"ON CONFLICT (call_id) DO UPDATE SET {renewed}"
    )


def hold_all(
    connection: sqlite3.Connection, new: Sequence[NewHold], me: Process
) -> list[Refusal | None]:
    """Write the holds of the process `me`, in the caller's transaction, if their caps have room
    for them; of a single one why it was not written. Raises `NotAllError` when several do not
    all fit."""
    caps = {cap.key: cap for hold in new for cap in hold.caps}
    for cap in caps.values():
        use(connection, cap, me, new[0].at)
    if len(new) == 1 and caps:
        return [_hold_one(connection, new[0])]
    for part in parts(new, len(OWNED)):
        values = [*chain.from_iterable(hold.values for hold in part)]
        connection.execute(insert("holds", len(part)), values)
    if any(is_exceeded(connection, cap) for cap in caps.values()):
        raise NotAllError
    return [None] * len(new)


def _hold_one(connection: sqlite3.Connection, hold: NewHold) -> Refusal | None:
    connection.execute("SAVEPOINT held")
    connection.execute(insert("holds", 1), hold.values)
    refused = check(connection, hold.caps, hold.amount)
    if refused is not None:
        connection.execute("ROLLBACK TO held")
    connection.execute("RELEASE held")
    return refused


def add_calls(connection: sqlite3.Connection, calls: Sequence[tuple[Any, ...]]) -> None:
    """Write the rows of calls, in the caller's transaction. Raises `sqlite3.IntegrityError` for
    one that is final already."""
    for part in parts(calls, len(CALL)):
        connection.execute(insert("calls", len(part)), [*chain.from_iterable(part)])


def end_holds(connection: sqlite3.Connection, call_ids: Sequence[str]) -> None:
    """End the calls' holds, where they have some, in the caller's transaction."""
    for some, ids in lists(call_ids):
        connection.execute(f"DELETE FROM holds WHERE call_id IN {some}", ids)  # noqa: S608


def settle_all(connection: sqlite3.Connection, new: Sequence[NewCall]) -> list[Sequence[Crossing]]:
    """Write the rows and end the calls' holds, in the caller's transaction; what is reached of
    their caps is said to the first of them. Raises `sqlite3.IntegrityError` when one of the
    calls is settled already."""
    add_calls(connection, [call.values for call in new])
    end_holds(connection, [call.values[0] for call in new])
    caps = {cap.key: cap for call in new for cap in call.caps}
    reached = crossings(connection, list(caps.values())) if caps else ()
    return [reached, *[()] * (len(new) - 1)]
