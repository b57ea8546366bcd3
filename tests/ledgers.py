"""A ledger to report on: as many calls, and as odd, as a test wants."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from llmctl.storage.ledger import add_call, open_ledger
from llmctl.storage.ledger_rows import CallRow

_numbers = count(1)
_USUAL: dict[str, Any] = {
    "run_id": "run-1",
    "started_ms": 1_795_000_000_000,
    "profile": "fast",
    "provider": "openai",
    "model": "gpt-5-mini",
    "tags": "{}",
    "user": "ann",
    "input_tokens": 100,
    "output_tokens": 10,
    "cached_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "estimated": 0,
    "cost_pico": 10**12,
    "saved_pico": None,
    "uncertain": 0,
    "uncertain_pico": 0,
    "latency_ms": 100,
    "elapsed_ms": 120,
    "first_token_ms": None,
    "attempts": 1,
    "status": "ok",
    "error_type": None,
    "cache": "miss",
    "http_status": 200,
    "provider_request_id": None,
}


def a_call(**changes: Any) -> dict[str, Any]:
    """A call of one dollar; `changes` are columns of its row."""
    return {"call_id": f"01CALL{next(_numbers):020d}", **_USUAL, **changes}


def a_hit(**changes: Any) -> dict[str, Any]:
    """A kept answer that saved a dollar."""
    hit = {"cache": "hit", "cost_pico": 0, "saved_pico": 10**12, "latency_ms": 0, "attempts": 0}
    return a_call(**{**hit, **changes})


def a_failure(**changes: Any) -> dict[str, Any]:
    """A call that failed and cost nothing."""
    failed = {"status": "error", "cost_pico": 0, "cache": None, "latency_ms": None}
    return a_call(**{**failed, **changes})


def lost(**changes: Any) -> dict[str, Any]:
    """A call of which nobody knows how it ended: it may have cost a dollar."""
    return a_call(**{"status": "unknown", "cache": None, "latency_ms": None, **changes})


def a_ledger(path: Path, *calls: dict[str, Any]) -> Path:
    """The ledger at `path`, with these calls added."""
    open_ledger(path, "", "").close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for call in calls:
            add_call(connection, CallRow(**call))
    return path


def calls_of(home: Path) -> list[sqlite3.Row]:
    """All calls in the user's ledger, in their order."""
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM calls ORDER BY call_id").fetchall()
