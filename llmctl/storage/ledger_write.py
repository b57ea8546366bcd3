"""Rows of the ledger, written many at once: a statement costs more than the row it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from llmctl.protocols import BudgetDenied, BudgetWarning, BudgetWindow
from llmctl.storage.ledger_budgets import check, crossings, is_exceeded, use
from llmctl.storage.ledger_many import (
    MANY,
    NewHold,
    add_up_calls,
    add_up_holds,
    call_sums,
    hold_sums,
    together,
)
from llmctl.storage.process import Process
from llmctl.storage.rows import CallRow, HeldCall
from llmctl.storage.sqlite import lists, parts, rows

CALL = CallRow.__struct_fields__
"""The columns of `calls`, in the order of `CallRow`."""

HELD = HeldCall.__struct_fields__
"""The columns of `holds`, in the order of `HeldCall`; its owner's stand behind them."""

OWNED = [*HELD, "pid", "birth", "world"]

_MODEL = OWNED.index("model")

call_values: Callable[[CallRow], tuple[Any, ...]] = attrgetter(*CALL)
held_values: Callable[[HeldCall], tuple[Any, ...]] = attrgetter(*HELD)


class NotAllError(Exception):
    """Not all can be done at once (the holds do not fit under a budget, or some are not what they
    were): each must be tried by itself."""


class NewCall(NamedTuple):
    """The row of a call that has ended, the caps to warn at, and its hold, which ends too, where
    that is known."""

    values: tuple[Any, ...]
    caps: Sequence[BudgetWindow]
    held: NewHold | None = None


@lru_cache(maxsize=512)
def insert(table: str, number: int, *, renew: bool = True) -> str:
    """SQL that adds so many rows to `calls` or `holds`; with `renew` they take the place of those
    there are."""
    columns = CALL if table == "calls" else OWNED
    add = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {rows(number, len(columns))}"  # noqa: S608 - our own names
    if not renew:
        return add
    renewed = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    return f"{add} ON CONFLICT (call_id) DO UPDATE SET {renewed}"


def hold_all(
    connection: sqlite3.Connection, new: Sequence[NewHold], me: Process
) -> list[BudgetDenied | None]:
    """Write the holds of the process `me`, in the caller's transaction, if their caps have room
    for them; of a single one why it was not written. Raises `NotAllError` when several do not
    all fit."""
    caps = {cap.key: cap for hold in new for cap in hold.caps}
    for cap in caps.values():
        use(connection, cap, me, new[0].at)
    if len(new) == 1 and caps:
        return [_hold_one(connection, new[0])]
    values = [hold.values for hold in new]
    sums = hold_sums(connection, new) if len(new) >= MANY else None
    if sums is None:
        _add(connection, "holds", values)
    else:
        with together(connection):
            _add(connection, "holds", values, renew=False)
        add_up_holds(connection, sums, begun=True)
    if any(is_exceeded(connection, cap) for cap in caps.values()):
        raise NotAllError
    return [None] * len(new)


def _hold_one(connection: sqlite3.Connection, hold: NewHold) -> BudgetDenied | None:
    connection.execute("SAVEPOINT held")
    connection.execute(insert("holds", 1), hold.values)
    refused = check(connection, hold.caps, hold.amount)
    if refused is not None:
        connection.execute("ROLLBACK TO held")
    connection.execute("RELEASE held")
    return refused


def _add(
    connection: sqlite3.Connection,
    table: str,
    new: Sequence[tuple[Any, ...]],
    *,
    renew: bool = True,
) -> None:
    for part in parts(new, len(CALL if table == "calls" else OWNED)):
        statement = insert(table, len(part), renew=renew)
        connection.execute(statement, [*chain.from_iterable(part)])


def add_calls(connection: sqlite3.Connection, calls: Sequence[tuple[Any, ...]]) -> None:
    """Write the rows of calls that had no holds, in the caller's transaction. Raises
    `sqlite3.IntegrityError` for one that is there already, and is final or one of many."""
    sums = call_sums(connection, calls, [None] * len(calls)) if len(calls) >= MANY else None
    if sums is None:
        _add(connection, "calls", calls)
    else:
        with together(connection):
            _add(connection, "calls", calls, renew=False)
        add_up_calls(connection, sums)


def end_holds(connection: sqlite3.Connection, call_ids: Sequence[str]) -> int:
    """End the calls' holds, where they have some, in the caller's transaction; how many had."""
    ended = 0
    for some, ids in lists(call_ids):
        ended += connection.execute(f"DELETE FROM holds WHERE call_id IN {some}", ids).rowcount  # noqa: S608
    return ended


def settle_all(
    connection: sqlite3.Connection, new: Sequence[NewCall]
) -> list[Sequence[BudgetWarning]]:
    """Write the rows and end the calls' holds, in the caller's transaction; what is reached of
    their caps is said to the first of them. Raises `sqlite3.IntegrityError` when one of the
    calls is settled already, and that or `NotAllError` when each must be settled by itself."""
    if not _settle_together(connection, new):
        _add(connection, "calls", [call.values for call in new])
        end_holds(connection, [call.values[0] for call in new])
    caps = {cap.key: cap for call in new for cap in call.caps}
    reached = crossings(connection, list(caps.values())) if caps else ()
    return [reached, *[()] * (len(new) - 1)]


def _settle_together(connection: sqlite3.Connection, new: Sequence[NewCall]) -> bool:
    """Write and end them, and add up here what that changes; False, and nothing is written, where
    the triggers must."""
    if len(new) < MANY:
        return False
    held = [call.held for call in new if call.held is not None]
    asked = [None if call.held is None else call.held.values[_MODEL] for call in new]
    rows = [call.values for call in new]
    spent = call_sums(connection, rows, asked)
    ended = hold_sums(connection, held)
    if spent is None or ended is None:
        return False
    with together(connection):
        _add(connection, "calls", rows, renew=False)
        if end_holds(connection, [row[0] for row in rows]) != len(held):
            raise NotAllError
    add_up_calls(connection, spent)
    add_up_holds(connection, ended, begun=False)
    return True
