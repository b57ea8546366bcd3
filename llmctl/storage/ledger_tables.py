"""The tables of the ledger, step by step."""

from __future__ import annotations

from llmctl.storage.ledger_budgets import BUDGETS
from llmctl.storage.ledger_many import TOGETHER
from llmctl.storage.migrations import Migration
from llmctl.storage.sums import slots_migration

MIGRATIONS = (
    Migration(
        "ledger-001-calls-and-holds",
        (
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
                provider_request_id TEXT
            ) WITHOUT ROWID
            """,
            # All that reports group by and add up, but tags: they need not touch the table.
            """
            CREATE INDEX calls_started ON calls (
                started_ms, call_id, model, profile, provider, user, status, cache, input_tokens,
                output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
                cost_pico, saved_pico, uncertain, uncertain_pico, latency_ms
            )
            """,
            "CREATE INDEX calls_run ON calls (run_id)",
            # Append-only is the file's own rule. The one exception is a call of which it was
            # not known how it ended, and then is.
            """
            CREATE TRIGGER calls_are_final BEFORE UPDATE ON calls WHEN OLD.status <> 'unknown'
            BEGIN SELECT RAISE(ABORT, 'the row of a call is final'); END
            """,
            """
            CREATE TRIGGER calls_stay BEFORE DELETE ON calls
            BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END
            """,
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
                world TEXT NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
    slots_migration(),
    BUDGETS,
    TOGETHER,
)

SCHEMA = "438b037d0c6c3e531f2ae5784373cd5032da7cdccf58e18ece3b8016c4501b3c"
"""The `digest` of what they make: to make it anew at each start took as long as opening the file.
A new migration changes it, and a test says to what."""
