"""What counts against each budget of the present, kept by the ledger itself.

A row of `budget_windows` holds what the calls of one budget and period have cost and what those
under way can come to. Triggers keep it: whoever writes a call or a hold, also a process that
knows nothing of the budget, counts. It is made when a budget is first used in a period.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from decimal import Decimal

from llmctl.protocols import BudgetDenied, BudgetUsage, BudgetWarning, BudgetWindow
from llmctl.storage.caps import LATEST, gravest, newly_reached, refusal, standing, tags_of
from llmctl.storage.migrations import Migration
from llmctl.storage.process import Process
from llmctl.storage.sums import SLOT

_PLAIN = ("run_id", "profile", "provider", "user")
_DAY = 24 * 3600 * 1000
_UNSEEN = 30 * _DAY
"""Milliseconds after which a run of a process that cannot be seen has surely ended."""

_MICRO = 1_000_000
_W = "budget_windows."


def _fits(row: str, *, run: bool = True, asked: str = "") -> str:
    """SQL: whether the row's columns, behind the prefix `row`, are what a window matches by.
    `asked` is SQL for another name of the model."""
    names = _PLAIN if run else _PLAIN[1:]
    parts = [f"({_W}{name} IS NULL OR {_W}{name} = {row}{name})" for name in names]
    model = _same_model(f"{row}model")
    if asked:
        model = f"({model} OR {_same_model(asked)})"
    had = f"(SELECT value FROM json_each({row}tags) AS had WHERE had.key = wanted.key)"  # noqa: S608
    missing = f"SELECT 1 FROM json_each({_W}tags) AS wanted WHERE wanted.value IS NOT {had}"  # noqa: S608
    parts += [
        f"({_W}model IS NULL OR {model})",
        f"({_W}tags IS NULL OR NOT EXISTS ({missing}))",
    ]
    return " AND ".join(parts)


def _same_model(model: str) -> str:
    """SQL for `caps.same_model`; a window keeps the name without `-latest`."""
    rest = f"substr({model}, length({_W}model) + 1)"
    after = f"ltrim(substr({rest}, 2), '0123456789')"
    dated = (
        f"substr({rest}, 1, 1) = '-' AND length({after}) <= length({rest}) - 4 "
        f"AND substr({after}, 1, 1) IN ('', '-')"
    )
    return (
        f"(substr({model}, 1, length({_W}model)) = {_W}model "
        f"AND ({rest} IN ('', '{LATEST}') OR ({dated})))"
    )


_SPENT = "coalesce({r}cost_pico, 0) + coalesce({r}uncertain_pico, 0)"
_HELD = "coalesce({r}cost_pico, 0) * {r}times"


def _count(sign: str, column: str, amount: str, row: str, when: str, fits: str) -> str:
    return (
        f"UPDATE budget_windows SET {column} = {column} {sign} ({amount.format(r=row)}) "  # noqa: S608
        f"WHERE {row}{when} >= {_W}start_ms AND {row}{when} < {_W}end_ms AND {fits};"
    )


def _call(sign: str, row: str, *, also: str = "") -> str:
    # Whose name the provider does not use is known by the hold, which ends after its call.
    asked = f"(SELECT model FROM holds WHERE call_id = {row}call_id)"  # noqa: S608
    fits = _fits(row, asked=asked) + also
    return _count(sign, "spent_pico", _SPENT, row, "started_ms", fits)


def on_calls(row: str) -> str:
    """SQL that adds a new call to what is spent; `row` is where its columns are."""
    return _call("+", row, also=f" AND ({row}cost_pico > 0 OR {row}uncertain_pico > 0)")


def on_holds(sign: str, row: str) -> str:
    """SQL that adds a hold to what is held, or takes it away."""
    return _count(sign, "held_pico", _HELD, row, "at_ms", _fits(row))


SPENT = _count("+", "spent_pico", ":amount", ":", "started_ms", _fits(":", asked=":asked"))
BEGUN = _count("+", "held_pico", ":amount", ":", "at_ms", _fits(":"))
ENDED = _count("-", "held_pico", ":amount", ":", "at_ms", _fits(":"))
"""SQL that adds `:amount` picodollars to what is spent or held, or takes them away, for calls that
have all the other values in common."""


BUDGETS = Migration(
    "ledger-003-budgets",
    (
        "ALTER TABLE holds ADD COLUMN times INTEGER NOT NULL DEFAULT 1",
        # A run's window has the process whose run it is; `warned` is the highest share of the
        # limit that somebody was told of.
        """
        CREATE TABLE budget_windows (
            key TEXT NOT NULL PRIMARY KEY,
            start_ms INTEGER NOT NULL,
            end_ms INTEGER NOT NULL,
            run_id TEXT, profile TEXT, provider TEXT, model TEXT, user TEXT, tags TEXT,
            spent_pico INTEGER NOT NULL,
            held_pico INTEGER NOT NULL,
            warned TEXT NOT NULL DEFAULT '0',
            made_ms INTEGER NOT NULL,
            pid INTEGER NOT NULL, birth TEXT NOT NULL, world TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        f"""
        CREATE TRIGGER calls_are_spent AFTER INSERT ON calls
        WHEN NEW.cost_pico > 0 OR NEW.uncertain_pico > 0 BEGIN {_call("+", "NEW.")} END
        """,
        f"""
        CREATE TRIGGER calls_are_spent_otherwise AFTER UPDATE ON calls
        BEGIN {_call("-", "OLD.")} {_call("+", "NEW.")} END
        """,
        f"CREATE TRIGGER holds_begin AFTER INSERT ON holds BEGIN {on_holds('+', 'NEW.')} END",
        f"""
        CREATE TRIGGER holds_change AFTER UPDATE ON holds
        BEGIN {on_holds("-", "OLD.")} {on_holds("+", "NEW.")} END
        """,
        f"CREATE TRIGGER holds_end AFTER DELETE ON holds BEGIN {on_holds('-', 'OLD.')} END",
    ),
)
"""The step that adds the windows, and how many attempts a hold stands for."""

_EDGE = (
    "SELECT 1 FROM budget_windows WHERE (start_ms > :first AND start_ms <= :last) "
    "OR (end_ms > :first AND end_ms <= :last) LIMIT 1"
)
_STANDS = "SELECT spent_pico, held_pico, warned FROM budget_windows WHERE key = ?"
_MAKE = (
    "INSERT INTO budget_windows VALUES "
    "(:key, :start, :end, :run, :profile, :provider, :model, :user, :tags, 0, 0, '0', :now, "
    ":pid, :birth, :world)"
)
_ADD_UP = f"sum(p / {_MICRO}) * {_MICRO} + sum(p % {_MICRO})"  # one sum of all need not fit
_FROM_SLOTS = (
    f"SELECT {_ADD_UP} FROM (SELECT cost_pico + doubtful_pico AS p FROM slots AS r "  # noqa: S608
    f"WHERE r.slot >= :start / {SLOT} AND r.slot < :end / {SLOT} AND {_fits('r.', run=False)})"
)
_FROM_CALLS = (
    f"SELECT {_ADD_UP} FROM (SELECT {_SPENT.format(r='r.')} AS p FROM calls AS r "  # noqa: S608
    f"WHERE r.started_ms >= :start AND r.started_ms < :end AND {_fits('r.')})"
)
_FROM_RUN = (
    f"SELECT {_ADD_UP} FROM (SELECT {_SPENT.format(r='r.')} AS p FROM calls AS r "  # noqa: S608
    f"WHERE r.run_id = :run AND r.started_ms >= :start AND r.started_ms < :end "
    f"AND {_fits('r.')})"
)
_FROM_HOLDS = (
    f"SELECT {_ADD_UP} FROM (SELECT {_HELD.format(r='r.')} AS p FROM holds AS r "  # noqa: S608
    f"WHERE r.at_ms >= :start AND r.at_ms < :end AND {_fits('r.')})"
)


def glance(
    connection: sqlite3.Connection, caps: Sequence[BudgetWindow], amount: int
) -> BudgetDenied | None:
    """Why so many more picodollars do not fit, as far as can be seen without writing."""
    rows = ((cap, connection.execute(_STANDS, (cap.key,)).fetchone()) for cap in caps)
    return gravest(refusal(cap, row[0], row[1], amount) for cap, row in rows if row is not None)


def check(
    connection: sqlite3.Connection, caps: Sequence[BudgetWindow], amount: int
) -> BudgetDenied | None:
    """Why the hold of `amount` picodollars that has just been written must go again; None when
    it may stay."""
    rows = ((cap, *connection.execute(_STANDS, (cap.key,)).fetchone()) for cap in caps)
    return gravest(refusal(cap, spent, held - amount, amount) for cap, spent, held, _ in rows)


def is_at_an_edge(connection: sqlite3.Connection, first: int, last: int) -> bool:
    """Whether a window begins or ends between the two moments, in milliseconds since the epoch."""
    moments = {"first": first, "last": last}
    return first != last and connection.execute(_EDGE, moments).fetchone() is not None


def is_exceeded(connection: sqlite3.Connection, cap: BudgetWindow) -> bool:
    """Whether more is spent and held than the cap allows."""
    spent, held, _ = connection.execute(_STANDS, (cap.key,)).fetchone()
    return refusal(cap, spent, held, 0) is not None


def use(connection: sqlite3.Connection, cap: BudgetWindow, me: Process, now: int) -> None:
    """See to it that the cap has its window. `now`: milliseconds since the epoch."""
    if connection.execute(_STANDS, (cap.key,)).fetchone() is not None:
        return
    _tidy(connection, now)
    tags = tags_of(cap.match)
    model = cap.match.get("model")
    values = {
        "key": cap.key,
        "start": cap.start,
        "end": cap.end,
        **{name: cap.match.get(name) for name in ("run", "profile", "provider", "user")},
        "model": None if model is None else model.removesuffix(LATEST),
        "tags": json.dumps(tags) if tags else None,
        "now": now,
        "pid": me.pid,
        "birth": me.birth,
        "world": me.world,
    }
    connection.execute(_MAKE, values)
    whole = cap.start % SLOT == 0 and cap.end % SLOT == 0
    spent = _FROM_RUN if values["run"] is not None else _FROM_SLOTS if whole else _FROM_CALLS
    connection.execute(
        f"UPDATE budget_windows SET spent_pico = coalesce(({spent}), 0), "  # noqa: S608
        f"held_pico = coalesce(({_FROM_HOLDS}), 0) WHERE key = :key",
        values,
    )


def stands(connection: sqlite3.Connection, cap: BudgetWindow) -> BudgetUsage | None:
    """What counts against the cap; None where its window has not been used yet."""
    row = connection.execute(_STANDS, (cap.key,)).fetchone()
    return None if row is None else standing(row[0], row[1])


def crossings(connection: sqlite3.Connection, caps: Sequence[BudgetWindow]) -> list[BudgetWarning]:
    """The shares to warn at that were reached, each told once in all processes."""
    found = []
    for cap in caps:
        row = connection.execute(_STANDS, (cap.key,)).fetchone()
        if row is None:
            continue
        share = newly_reached(cap, row[0], Decimal(row[2]))
        if share is not None:
            told = (str(share), cap.key)
            connection.execute("UPDATE budget_windows SET warned = ? WHERE key = ?", told)
            found.append(BudgetWarning(cap, share, standing(row[0], 0).spent))
    return found


def _tidy(connection: sqlite3.Connection, now: int) -> None:
    """Drop the windows that nobody uses any more."""
    connection.execute("DELETE FROM budget_windows WHERE end_ms < ?", (now - _DAY,))
    runs = connection.execute(
        "SELECT key, made_ms, pid, birth, world FROM budget_windows WHERE run_id IS NOT NULL"
    ).fetchall()
    for key, made, *process in runs:
        dead = Process(*process).is_dead()
        if dead or (dead is None and made < now - _UNSEEN):
            connection.execute("DELETE FROM budget_windows WHERE key = ?", (key,))
