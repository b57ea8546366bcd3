"""What many calls change in the ledger's sums, at once: a trigger takes as long as its row does.

A row of `together` says, within a transaction, that who writes adds up what it writes itself;
nobody else ever sees one. All others' rows are added up by the triggers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

from llmctl.protocols import BudgetWindow
from llmctl.storage.ledger_budgets import BEGUN, ENDED, SPENT, is_at_an_edge, on_calls, on_holds
from llmctl.storage.migrations import Migration
from llmctl.storage.rows import CallRow, HeldCall
from llmctl.storage.sums import ADD_ALIKE, SLOT, on_slots

MANY = 8
"""Calls from which on it pays."""

_ALONE = "WHEN NOT EXISTS (SELECT 1 FROM together)"

TOGETHER = Migration(
    "ledger-004-together",
    (
        "CREATE TABLE together (one INTEGER PRIMARY KEY)",
        *[
            f"DROP TRIGGER {name}"
            for name in ("calls_add_up", "calls_are_spent", "holds_begin", "holds_end")
        ],
        f"""
        CREATE TRIGGER calls_add_up AFTER INSERT ON calls {_ALONE}
        BEGIN {on_slots("NEW.")} {on_calls("NEW.")} END
        """,
        f"""
        CREATE TRIGGER holds_begin AFTER INSERT ON holds {_ALONE}
        BEGIN {on_holds("+", "NEW.")} END
        """,
        f"""
        CREATE TRIGGER holds_end AFTER DELETE ON holds {_ALONE}
        BEGIN {on_holds("-", "OLD.")} END
        """,
    ),
)
"""The step after which triggers leave to a writer what it adds up itself."""

_CALL, _HELD = CallRow.__struct_fields__, HeldCall.__struct_fields__
_KIND = ("run_id", "profile", "provider", "model", "user", "tags")
_AMOUNTS = (
    "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "cost_pico", "saved_pico",
)  # fmt: skip
_call_kind = itemgetter(*map(_CALL.index, ("status", "uncertain", "cache", *_KIND)))
_hold_kind = itemgetter(*map(_HELD.index, _KIND))
_MOST = 1 << 62
"""Beyond that SQLite's integers end: such a sum is left to it."""

Row = Sequence[Any]
Values = dict[str, Any]


class NewHold(NamedTuple):
    """A hold to be written: the values of its columns, its picodollars and the caps it counts
    towards; `at` in milliseconds since the epoch."""

    values: tuple[Any, ...]
    amount: int
    caps: Sequence[BudgetWindow]
    at: int


@contextmanager
def together(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written meanwhile is added up by who writes it. When it raises, the transaction, or
    the savepoint, must be undone."""
    connection.execute("INSERT INTO together VALUES (1)")
    yield
    connection.execute("DELETE FROM together")


def call_sums(
    connection: sqlite3.Connection, rows: Sequence[Row], asked: Sequence[str | None]
) -> list[Values] | None:
    """What the rows of calls add to the sums: a few rows, each of which stands for `number` that
    are alike but for their amounts. `asked`: the model that each call's hold names. None where
    triggers must see to it."""
    alike: dict[tuple[Row, str | None], list[Row]] = {}
    for row, model in zip(rows, asked, strict=True):
        alike.setdefault((_call_kind(row), model), []).append(row)
    sums: list[Values] = []
    for (kind, model), some in alike.items():
        columns = dict(zip(_CALL, zip(*some, strict=True), strict=True))
        moments, amounts = columns["started_ms"], [columns[name] for name in _AMOUNTS]
        first, last = min(moments), max(moments)
        if (
            kind[:2] != ("ok", 0)
            or any(columns["uncertain_pico"])
            or not all(map(_adds_up, amounts))
            or first // SLOT != last // SLOT
            or is_at_an_edge(connection, first, last)
        ):
            return None
        one = dict(zip(_CALL, some[0], strict=True))
        one.update(zip(_AMOUNTS, map(_sum, amounts), strict=True))
        one.update(number=len(some), started_ms=first, asked=model, amount=one["cost_pico"] or 0)
        sums.append(one)
    return sums


def _adds_up(amounts: Row) -> bool:
    """Whether all of them are known, and their sum fits, or none is."""
    unknown = amounts.count(None)
    return unknown == len(amounts) or (not unknown and sum(amounts) < _MOST)


def _sum(amounts: Row) -> int | None:
    return None if amounts[0] is None else sum(amounts)


def hold_sums(connection: sqlite3.Connection, holds: Sequence[NewHold]) -> list[Values] | None:
    """What holds add to what is held: a few rows, each for all that are alike. None where triggers
    must see to it."""
    alike: dict[Row, list[NewHold]] = {}
    for hold in holds:
        alike.setdefault(_hold_kind(hold.values), []).append(hold)
    sums: list[Values] = []
    for kind, some in alike.items():
        moments, total = [hold.at for hold in some], sum([hold.amount for hold in some])
        first, last = min(moments), max(moments)
        if total >= _MOST or is_at_an_edge(connection, first, last):
            return None
        sums.append({**dict(zip(_KIND, kind, strict=True)), "at_ms": first, "amount": total})
    return sums


def add_up_calls(connection: sqlite3.Connection, sums: Sequence[Values]) -> None:
    """Add to the slots and to what is spent."""
    for one in sums:
        connection.execute(ADD_ALIKE, one)
        if one["amount"]:
            connection.execute(SPENT, one)


def add_up_holds(connection: sqlite3.Connection, sums: Sequence[Values], *, begun: bool) -> None:
    """Add to what is held, or take it away."""
    for one in sums:
        connection.execute(BEGUN if begun else ENDED, one)
