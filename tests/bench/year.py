"""A ledger of a year with many calls a night: `python -m tests.bench.year`.

Three nights are written as single calls, with their hours as the ledger keeps them, and a fourth,
older one, that is pruned by the command's own code. What that leaves in `hours` and `counts` is
then copied to 361 further days: the same rows, with other days. Prints the size of the file, and
how long pruning and reports take, by the clock and of the processor. Options: `--calls N` a night
(100,000), `--full` (1,000,000).
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from llmctl.config.settings import Budget
from llmctl.reports.periods import since, zone_named
from llmctl.reports.report import Query, make
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_prune import prune
from llmctl.storage.ledger_queries import DAY, HOUR, KIND, SUMS, Reading
from llmctl.storage.ledger_schema import count_times

_FEW, _FULL = 100_000, 1_000_000
_KEPT, _YEAR = 3, 365
_NOW = 1_795_000_000_000 // DAY * DAY + 9 * HOUR

# Nights of eight hours; five models, 20 users, four teams; log-normal latencies would need
# functions that SQLite may lack, so they are the product of two random numbers.
_CALLS = """
WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < :calls)
INSERT INTO calls (
    call_id, run_id, started_ms, profile, provider, model, asked_model, tags, user, input_tokens,
    output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated, cost_pico,
    saved_pico, uncertain, uncertain_pico, latency_ms, elapsed_ms, first_token_ms, attempts, status,
    error_type, cache, http_status
)
SELECT
    printf('01%06d%018d', :night / 86400000, n), 'run-' || :night,
    :night + n * 28800000 / :calls, 'p', 'openai', 'model-' || (n % 5), 'model-' || (n % 5),
    printf('{"team":"t%d"}', n % 4), 'user-' || (n % 20), 1000, 100, 0, 0, 0, 0, 1000000000 + n,
    NULL, 0, 0, iif(n % 100, ms, NULL), ms + 5, iif(n % 3 AND n % 100, ms / 4, NULL), 1,
    iif(n % 100, 'ok', 'error'), iif(n % 100, NULL, 'server'), iif(n % 100, 'miss', NULL), 200
FROM (
    SELECT n, 200 + (abs(random()) % 100) * (abs(random()) % 100) AS ms FROM n
)
"""
_HOURS = (
    f"INSERT INTO hours SELECT started_ms / {HOUR}, {', '.join(KIND)}, "
    + ", ".join(f"sum({each})" for each in SUMS.values())
    + f" FROM calls WHERE started_ms >= :night GROUP BY 1, {', '.join(KIND)}"
)


def _write_night(path: Path, night: int, calls: int) -> None:
    """Calls of a night, and their sums; nights come in their order."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_CALLS, {"calls": calls, "night": night})
        connection.execute(_HOURS, {"night": night})


def _repeat_day(path: Path, days: int) -> None:
    """Copy the sums of the oldest day, whose calls were removed, to the days before it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        oldest = connection.execute("SELECT min(hour) * ? FROM hours", (HOUR,)).fetchone()[0]
        for table, column, unit in (("hours", "hour", HOUR), ("counts", "at_ms", 1)):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            moved = ", ".join(f"{n} - ?1" if n == column else n for n in names)
            last = (oldest // DAY + 1) * DAY // unit
            for day in range(1, days + 1):
                connection.execute(
                    f"INSERT INTO {table} SELECT {moved} FROM {table} "
                    f"WHERE {column} >= ?2 AND {column} < ?3",
                    (day * DAY // unit, oldest // DAY * DAY // unit, last),
                )


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def _said(took: tuple[float, float]) -> str:
    return f"{took[0]:.2f} s, {took[1]:.2f} s of the processor"


def main() -> None:
    """Make the year, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.year", description=__doc__)
    parser.add_argument("--calls", type=int, default=_FEW)
    parser.add_argument("--full", dest="calls", action="store_const", const=_FULL)
    calls = parser.parse_args().calls
    zone, today = zone_named("UTC"), _NOW // DAY * DAY
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        path = Path(folder) / "ledger.db"
        open_ledger(path, "", "").close()
        for nights in range(_KEPT, -1, -1):
            _write_night(path, today - nights * DAY, calls)
        with closing(sqlite3.connect(path)) as connection, connection:
            count_times(connection)
        print(f"year: {path.stat().st_size / 1e6:,.0f} MB with {_KEPT + 1} nights of {calls:,}")
        with closing(open_ledger(path, "", "")) as ledger:
            took = _seconds(lambda: prune(ledger.database, today - (_KEPT - 1) * DAY))
        print(f"year: pruning a night: {_said(took)}, {calls / took[0]:,.0f} calls/s")
        _repeat_day(path, _YEAR - _KEPT - 1)
        print(f"year: {path.stat().st_size / 1e6:,.0f} MB with the sums of a year")
        budgets = [Budget("team", 5, "month")]  # type: ignore[arg-type]
        with closing(open_ledger(path, "", "")) as ledger:
            for ago, by in (
                ("30d", ("model",)), ("30d", ("day",)), ("30d", ("tag:team",)),
                ("365d", ("model",)), ("365d", ("day",)), ("1d", ("model",)),
            ):  # fmt: skip
                query = Query(since(ago, _NOW, zone), by, zone, _NOW)

                def work(reading: Reading, query: Query = query) -> object:
                    return make(reading, query, budgets).total.calls

                took = min(_seconds(lambda: ledger.report(work)) for _ in range(3))
                print(f"year: report --since {ago} --by {','.join(by)}: {_said(took)}")
            for order in ("newest", "slowest", "dearest"):
                took = _seconds(
                    lambda order=order: ledger.report(  # type: ignore[misc]
                        lambda reading: len(reading.single_calls(0, _NOW, order=order))
                    )
                )
                print(f"year: report --calls, the {order} of all: {_said(took)}")


if __name__ == "__main__":
    main()
