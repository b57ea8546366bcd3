"""The tables of the ledger, and how a ledger of version 0.1.0 comes to have them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal

from llmctl.protocols import BudgetWindow
from llmctl.storage.database import Migration
from llmctl.storage.ledger_queries import ANSWERED, FAILED, HOUR, KIND, OPEN, SUMS, Reading
from llmctl.storage.ledger_rows import MOST, CallKind, matches, rounded

_LATER_SUMS = ("estimated", "retries", "rate_limits", "refused")
_LAST_SUMS = ("batch_saved_pico",)
_ROUTING_SUMS = ("routed_saved_pico",)
_PROVIDER_CACHE_SUMS = ("provider_saved_pico",)
_FIRST_SUMS = tuple(SUMS)[: -len(_LATER_SUMS + _LAST_SUMS + _ROUTING_SUMS + _PROVIDER_CACHE_SUMS)]

_HOURS = f"""
    CREATE TABLE hours (
        hour INTEGER NOT NULL,
        {", ".join(f"{name} TEXT NOT NULL" for name in KIND)},
        {", ".join(f"{name} INTEGER NOT NULL" for name in _FIRST_SUMS)},
        PRIMARY KEY (hour, {", ".join(KIND)})
    ) WITHOUT ROWID
"""
"""Sums of an hour, kept with every call: a report over a million calls reads some ten thousand
rows."""

_WINDOWS = """
    CREATE TABLE windows (
        key TEXT NOT NULL PRIMARY KEY,
        start_ms INTEGER NOT NULL,
        end_ms INTEGER NOT NULL,
        match TEXT NOT NULL,
        spent_pico INTEGER NOT NULL,
        held_pico INTEGER NOT NULL,
        warned TEXT NOT NULL,
        made_ms INTEGER NOT NULL
    ) WITHOUT ROWID
"""
"""Budgets in their periods. `warned` is the highest share of the limit that somebody was told
of."""

_UNKNOWN = "CREATE INDEX calls_unknown ON calls (started_ms) WHERE status = 'unknown'"

_BEATS = (
    "DROP INDEX calls_unknown",
    f"CREATE INDEX calls_open ON calls (started_ms) WHERE {OPEN}",
    # When a process with calls under way last said that it lives.
    """
    CREATE TABLE processes (
        pid INTEGER NOT NULL,
        birth TEXT NOT NULL,
        world TEXT NOT NULL,
        beat_ms INTEGER NOT NULL,
        PRIMARY KEY (pid, birth, world)
    ) WITHOUT ROWID
    """,
    "ALTER TABLE calls ADD COLUMN rate_limits INTEGER NOT NULL DEFAULT 0",
    *(f"ALTER TABLE hours ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0" for name in _LATER_SUMS),
    # What failed calls failed of, by itself.
    f"CREATE INDEX calls_errors ON calls (started_ms, error_type) WHERE {FAILED}",
)


def _add_job_of_holds(connection: sqlite3.Connection) -> None:
    """Holds know their batch; an older ledger's windows are converted by holds that do."""
    _add_to_holds(connection, "job")


def _add_parent_of_holds(connection: sqlite3.Connection) -> None:
    """Holds know the call that their row began with, as above."""
    _add_to_holds(connection, "parent")


def _add_to_holds(connection: sqlite3.Connection, name: str) -> None:
    columns = connection.execute("SELECT name FROM pragma_table_info('holds')").fetchall()
    if (name,) not in columns:
        connection.execute(f"ALTER TABLE holds ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")


_BATCHES = (
    _add_job_of_holds,
    "ALTER TABLE calls ADD COLUMN job TEXT NOT NULL DEFAULT ''",
    """
    CREATE TABLE batch_jobs (
        intent TEXT NOT NULL PRIMARY KEY,
        output TEXT NOT NULL,
        input TEXT NOT NULL,
        run_id TEXT NOT NULL,
        profile TEXT NOT NULL,
        provider TEXT NOT NULL,
        adapter TEXT NOT NULL,
        base_url TEXT NOT NULL,
        model TEXT NOT NULL,
        wire_path TEXT NOT NULL,
        rows INTEGER NOT NULL,
        size INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        made_ms INTEGER NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('sealed', 'creating', 'running', 'fetched', 'done')),
        sent_ms INTEGER,
        file TEXT,
        batch TEXT,
        word TEXT NOT NULL DEFAULT '',
        done INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        checked_ms INTEGER,
        note TEXT NOT NULL DEFAULT '',
        key TEXT NOT NULL DEFAULT '',
        cancelled INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID
    """,
    "CREATE INDEX batch_jobs_open ON batch_jobs (output) WHERE state != 'done'",
    """
    CREATE TABLE batch_rows (
        call_id TEXT NOT NULL PRIMARY KEY,
        intent TEXT NOT NULL,
        id TEXT NOT NULL,
        answer_key TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        fitted INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX batch_rows_job ON batch_rows (intent, call_id)",
    "CREATE INDEX batch_rows_key ON batch_rows (answer_key)",
)
"""Providers' batches, and the rows in them whose end is not on record yet."""

_CREATE = (
    # Clustered by call id, which begins with the time: new rows go to the end.
    """
    CREATE TABLE calls (
        call_id TEXT NOT NULL PRIMARY KEY,
        run_id TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        profile TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        tags TEXT NOT NULL,
        user TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        cost_pico INTEGER,
        saved_pico INTEGER,
        uncertain INTEGER NOT NULL,
        uncertain_pico INTEGER,
        latency_ms INTEGER,
        elapsed_ms INTEGER,
        first_token_ms INTEGER,
        attempts INTEGER,
        status TEXT NOT NULL
            CHECK (status IN ('ok', 'error', 'interrupted', 'cancelled', 'unknown')),
        error_type TEXT,
        cache TEXT,
        http_status INTEGER,
        provider_request_id TEXT,
        asked_model TEXT NOT NULL DEFAULT '',
        windows TEXT NOT NULL DEFAULT '[]'
    ) WITHOUT ROWID
    """,
    # What reports add up at the edges of their spans, but tags and the model that was asked.
    """
    CREATE INDEX calls_started ON calls (
        started_ms, call_id, model, profile, provider, user, status, cache, input_tokens,
        output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
        cost_pico, saved_pico, uncertain, uncertain_pico, latency_ms
    )
    """,
    "CREATE INDEX calls_run ON calls (run_id)",
    # Percentiles need every latency: this has them side by side, and all that decides
    # about them, so that the table is not touched.
    """
    CREATE INDEX calls_latency ON calls (
        profile, provider, model, user, started_ms, latency_ms, status, cache, tags
    )
    """,
    _UNKNOWN,
    """
    CREATE TABLE holds (
        call_id TEXT NOT NULL PRIMARY KEY,
        run_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        profile TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        tags TEXT NOT NULL,
        user TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cost_pico INTEGER,
        pid INTEGER NOT NULL,
        birth TEXT NOT NULL,
        world TEXT NOT NULL,
        times INTEGER NOT NULL DEFAULT 1,
        windows TEXT NOT NULL DEFAULT '[]'
    ) WITHOUT ROWID
    """,
    _HOURS,
    _WINDOWS,
)

_WHOSE = (
    # Of a window of one user or tag, its match: thousands of callers may have a budget each. A
    # match that may have a second value is looked at with every call.
    """
    ALTER TABLE windows ADD COLUMN whose TEXT AS (
        CASE
            WHEN instr(match, '", "') THEN ''
            WHEN substr(match, 1, 8) = '{"user":' OR substr(match, 1, 6) = '{"tag:' THEN match
            ELSE ''
        END
    ) VIRTUAL
    """,
    "CREATE INDEX windows_whose ON windows (whose, end_ms)",
)

_WATCHING = (
    # What was masked in what was asked, by kind, as JSON; empty: nothing.
    "ALTER TABLE calls ADD COLUMN masked TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX calls_masked ON calls (started_ms, masked) WHERE masked != ''",
    # As `calls_latency`, of the calls that were streamed.
    """
    CREATE INDEX calls_first_token ON calls (
        profile, provider, model, user, started_ms, first_token_ms, status, cache, tags
    ) WHERE first_token_ms IS NOT NULL
    """,
    *(f"ALTER TABLE hours ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0" for name in _LAST_SUMS),
    # Rows that wait for their turn in a process.
    "ALTER TABLE processes ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    # Circuits of living processes that are not closed.
    """
    CREATE TABLE breakers (
        lane TEXT NOT NULL,
        pid INTEGER NOT NULL,
        birth TEXT NOT NULL,
        world TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'half-open')),
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (lane, pid, birth, world)
    ) WITHOUT ROWID
    """,
    # Of calls that were removed, while their sums stay in `hours`: how many there were (`call`),
    # and how many had which error or masked kind, by the hour; how many missed the cache, or had
    # which latency or first token, by the UTC day. A kind is empty where it is not told apart.
    """
    CREATE TABLE counts (
        what TEXT NOT NULL
            CHECK (what IN ('call', 'error', 'masked', 'miss', 'latency', 'first_token')),
        at_ms INTEGER NOT NULL,
        profile TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        user TEXT NOT NULL,
        tags TEXT NOT NULL,
        value TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (what, at_ms, profile, provider, model, user, tags, value)
    ) WITHOUT ROWID
    """,
)

_ROUTING: tuple[str | Callable[[sqlite3.Connection], None], ...] = (
    # The call id that a row began with, in all of its calls.
    "ALTER TABLE calls ADD COLUMN parent TEXT NOT NULL DEFAULT ''",
    _add_parent_of_holds,
    "CREATE INDEX calls_parent ON calls (parent) WHERE parent != ''",
    "ALTER TABLE calls ADD COLUMN routed_saved_pico INTEGER",
    *(f"ALTER TABLE hours ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0" for name in _ROUTING_SUMS),
)


_PROVIDER_CACHE = (
    # NULL: not known.
    "ALTER TABLE calls ADD COLUMN provider_saved_pico INTEGER DEFAULT 0",
    *(
        f"ALTER TABLE hours ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0"
        for name in _PROVIDER_CACHE_SUMS
    ),
)
"""What providers' prompt caches saved."""


def count_times(connection: sqlite3.Connection) -> None:
    """Count the times of all calls; none are counted yet."""
    connection.create_function("rounded", 1, rounded, deterministic=True)
    kind = "profile, provider, model, user, tags"
    for what in ("latency", "first_token"):
        connection.execute(
            f"INSERT INTO times SELECT '{what}', started_ms / {HOUR}, {kind}, "  # noqa: S608
            f"rounded({what}_ms), count(*) FROM calls "
            f"WHERE {ANSWERED} AND {what}_ms IS NOT NULL GROUP BY 2, {kind}, 8"
        )
    connection.create_function("rounded", 1, None)


_TIMES = (
    # How many answers of an hour took about as long, or as long until their first token: kept with
    # every call, and as long as its row. A report over a million calls reads these alone.
    """
    CREATE TABLE times (
        what TEXT NOT NULL CHECK (what IN ('latency', 'first_token')),
        hour INTEGER NOT NULL,
        profile TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        user TEXT NOT NULL,
        tags TEXT NOT NULL,
        ms INTEGER NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (what, hour, profile, provider, model, ms, user, tags)
    ) WITHOUT ROWID
    """,
    count_times,
    "DROP INDEX calls_latency",
    "DROP INDEX calls_first_token",
)


def _drop_triggers(connection: sqlite3.Connection) -> None:
    asked = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in connection.execute(asked).fetchall():
        connection.execute(f"DROP TRIGGER {name}")


def add_window(
    connection: sqlite3.Connection, window: BudgetWindow, spent: int, warned: str, made_ms: int
) -> None:
    """Give the window its row. The calls under way, and those whose end may become known, learn
    that they count towards it."""
    held = Reading(connection).held_in(window)
    kind = ", ".join(CallKind.__struct_fields__)
    unknown = connection.execute(
        f"SELECT call_id, {kind} FROM calls "  # noqa: S608 - our own names
        f"WHERE {OPEN} AND started_ms >= ? AND started_ms < ?",
        (window.start, window.end),
    ).fetchall()
    connection.execute(
        "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            window.key, window.start, window.end, json.dumps(dict(window.match)), spent,
            min(MOST, sum(hold.amount_pico or 0 for hold in held)), warned, made_ms,
        ),
    )  # fmt: skip
    matching = [call_id for call_id, *of in unknown if matches(window.match, CallKind(*of))]
    for table, call_ids in (("holds", [hold.call_id for hold in held]), ("calls", matching)):
        connection.executemany(
            f"UPDATE {table} SET windows = json_insert(windows, '$[#]', ?) WHERE call_id = ?",  # noqa: S608
            [(window.key, call_id) for call_id in call_ids],
        )


def _convert_windows(connection: sqlite3.Connection) -> None:
    """Take over the budget windows with what is spent of them."""
    found = connection.execute(
        "SELECT key, start_ms, end_ms, run_id, profile, provider, model, user, tags, spent_pico, "
        "warned, made_ms FROM budget_windows"
    ).fetchall()
    for key, start, end, run, profile, provider, model, user, tags, spent, *rest in found:
        named = {
            "run": run, "profile": profile, "provider": provider, "model": model, "user": user,
            **{f"tag:{name}": value for name, value in json.loads(tags or "{}").items()},
        }  # fmt: skip
        match = {name: value for name, value in named.items() if value is not None}
        add_window(connection, BudgetWindow(key, "", Decimal(0), start, end, match), spent, *rest)


_UPGRADE = (
    _drop_triggers,
    "ALTER TABLE calls ADD COLUMN asked_model TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE calls ADD COLUMN windows TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE holds ADD COLUMN windows TEXT NOT NULL DEFAULT '[]'",
    _add_job_of_holds,
    _add_parent_of_holds,
    _UNKNOWN,
    _HOURS,
    f"""
    INSERT INTO hours
    SELECT slot, profile, provider, '', model, user, tags, {", ".join(_FIRST_SUMS)} FROM slots
    """,  # noqa: S608 - our own names
    _WINDOWS,
    _convert_windows,
    "DROP TABLE slots",
    "DROP TABLE budget_windows",
    "DROP TABLE together",
)

MIGRATIONS = (
    Migration(
        "ledger-005-windows",
        _CREATE,
        replaces=(
            "ledger-001-calls-and-holds",
            "ledger-002-slots",
            "ledger-003-budgets",
            "ledger-004-together",
        ),
        upgrade=_UPGRADE,
    ),
    Migration("ledger-006-beats", _BEATS),
    Migration("ledger-007-batches", _BATCHES),
    Migration("ledger-008-whose", _WHOSE),
    Migration("ledger-009-watching", _WATCHING),
    Migration("ledger-010-routing", _ROUTING),
    Migration("ledger-011-provider-cache", _PROVIDER_CACHE),
    Migration("ledger-012-times", _TIMES),
)
