"""Removal of old calls from the ledger: their sums stay in `hours`, the rest in `counts`."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct

from llmctl.storage.database import Database
from llmctl.storage.ledger_queries import ANSWERED, DAY, FAILED, HOUR, OPEN, REFUSED
from llmctl.storage.ledger_rows import MOST, rounded

_STEP = 2000  # calls of one transaction: bounds how long others wait for the lock for writing
_REST = 0.005  # seconds between two of them: whoever waits asks every millisecond

_OPEN_RUNS = (
    "SELECT run_id FROM holds UNION SELECT run_id FROM batch_jobs WHERE state != 'done' "
    "UNION SELECT json_extract(match, '$.run') FROM windows "
    "WHERE json_extract(match, '$.run') IS NOT NULL"
)
"""Runs with calls under way, rows in a provider's batch, or a budget of their own: such a budget
is added up anew from single calls, 30 days after it was first used."""

_KIND = ("profile", "provider", "model", "user", "tags")
_CHOSEN = (
    f"SELECT started_ms, call_id, {', '.join(_KIND)}, cache = 'miss', "  # noqa: S608 - our own names
    f"iif({ANSWERED}, latency_ms, NULL), iif({ANSWERED}, first_token_ms, NULL), "
    f"iif({FAILED} AND NOT {REFUSED}, coalesce(error_type, 'unknown'), NULL), masked "
    "FROM calls INDEXED BY calls_started "
    "WHERE (started_ms, call_id) > (?, ?) AND started_ms < ? "
    f"AND NOT {OPEN} AND run_id NOT IN ({_OPEN_RUNS}) ORDER BY started_ms, call_id LIMIT ?"
)
_COUNT = (
    f"INSERT INTO counts (what, at_ms, {', '.join(_KIND)}, value, number) "  # noqa: S608
    f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT DO UPDATE SET number = min({MOST}, number + excluded.number)"
)
_IN_TIMES = " AND ".join(f"{name} = ?" for name in ("what", "hour", *_KIND, "ms"))
_UNCOUNT = f"UPDATE times SET number = number - ? WHERE {_IN_TIMES}"  # noqa: S608
_EMPTY = f"DELETE FROM times WHERE {_IN_TIMES} AND number <= 0"  # noqa: S608
_Position = tuple[int, str]
_BEGIN: _Position = (-(1 << 62), "")


class OldCalls(Struct, frozen=True):
    """How many calls there are of the UTC days that ended by some moment.

    Attributes:
        removable: those that can go.
        in_doubt: those that stay because they may have been billed for what nobody saw.
        of_runs: those that stay because their run has not ended, or has a budget of its own.

    """

    removable: int = 0
    in_doubt: int = 0
    of_runs: int = 0


def whole_days(moment: int) -> int:
    """The beginning of the UTC day of the moment, in milliseconds since the epoch."""
    return moment // DAY * DAY


def old_calls(connection: sqlite3.Connection, before: int) -> OldCalls:
    """The calls that `prune` would look at."""
    before = whole_days(before)

    def number(where: str) -> int:
        asked = f"SELECT count(*) FROM calls WHERE started_ms < ?{where}"  # noqa: S608
        count: int = connection.execute(asked, (before,)).fetchone()[0]
        return count

    in_doubt = number(f" AND {OPEN}")
    of_runs = number(f" AND NOT {OPEN} AND run_id IN ({_OPEN_RUNS})")
    return OldCalls(number("") - in_doubt - of_runs, in_doubt, of_runs)


def used_and_free(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the ledger's file, and how many of them are free for coming calls."""
    size, free = connection.execute(
        "SELECT page_count * page_size, freelist_count * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return size, free


def prune(db: Database, before: int, progress: Callable[[int], None] = lambda _: None) -> int:
    """Remove the calls of the UTC days that ended by `before` (milliseconds since the epoch), and
    give how many; `progress` hears of each step's number.

    Calls in doubt stay, and those of open runs. Each step is one transaction, so that others write
    meanwhile and whoever is killed leaves a ledger that is whole. The pages that become free are
    used for coming calls. Raises as `Database.write` does.
    """
    before, position, removed = whole_days(before), _BEGIN, 0

    def step(connection: sqlite3.Connection) -> tuple[_Position | None, int]:
        found = connection.execute(_CHOSEN, (*position, before, _STEP)).fetchall()
        counts, times = _counts(found)
        connection.executemany(_COUNT, [(*key, number) for key, number in counts.items()])
        connection.executemany(_UNCOUNT, [(number, *key) for key, number in times.items()])
        connection.executemany(_EMPTY, [*times])
        connection.executemany("DELETE FROM calls WHERE call_id = ?", [(row[1],) for row in found])
        return found[-1][:2] if found else None, len(found)

    while True:
        last, number = db.write_now(step)
        if last is None:
            return removed
        position, removed = last, removed + number
        progress(number)
        time.sleep(_REST)


def _counts(rows: list[Any]) -> tuple[Counter[Any], Counter[Any]]:
    """Of the calls: what `counts` is to have, and what `times` has; all columns but the number."""
    counts, times = Counter[Any](), Counter[Any]()
    for started, _, *labels, miss, latency, first_token, error, masked in rows:
        kind, hour, day = tuple(labels), started // HOUR * HOUR, started // DAY * DAY
        counts["call", hour, "", "", "", "", "", ""] += 1
        if miss:
            counts["miss", day, "", "", kind[2], "", "", ""] += 1
        for what, ms in (("latency", latency), ("first_token", first_token)):
            if ms is not None:
                counts[what, day, *kind, str(rounded(ms))] += 1
                times[what, started // HOUR, *kind, rounded(ms)] += 1
        if error is not None:
            counts["error", hour, *kind, error] += 1
        for what, number in (orjson.loads(masked) if masked else {}).items():
            counts["masked", hour, *kind, what] += number
    return counts, times
