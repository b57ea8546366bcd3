"""A ledger of version 0.1.0 is migrated in place, and every sum is the same before and after.

`ledger_0_1_0.sql` is a dump of a ledger that version 0.1.0 wrote: calls of three runs, six budget
windows (two of them made in the middle of their day), a released call, ten open holds of
processes that are dead.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import astuple

from llmctl.storage.database import Database, OldFormatError
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_queries import SUMS
from llmctl.storage.ledger_rows import CallRow, to_pico
from llmctl.storage.ledger_schema import MIGRATIONS
from llmctl.storage.process import world
from tests.conformance.calls import a_cap, a_hold, a_request, an_outcome
from tests.ledgers import a_call, a_failure, a_hit
from tests.storage.damage import sql

DUMP = Path(__file__).with_name("ledger_0_1_0.sql")
KIND = "profile, provider, model, user, tags"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The ledger as version 0.1.0 left it, with holds of processes that are gone."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
        connection.execute("UPDATE holds SET world = ?", (world(),))
        connection.commit()
    return path


def windows(path: Path, table: str = "windows") -> dict[object, tuple[object, ...]]:
    """Picodollars spent and held, and the share that was told, by key."""
    rows = sql(path, f"SELECT key, spent_pico, held_pico, warned FROM {table}")
    return {row[0]: row[1:] for row in rows}


def migrated(path: Path) -> Path:
    """The file, brought up to date but not opened as a ledger."""
    Database(path, MIGRATIONS).close()
    return path


def test_every_sum_is_what_it_was(path: Path) -> None:
    """Calls, holds, the sums of the hours, and what is spent and held of every budget, to the
    picodollar; a copy of the file is kept."""
    sums = ", ".join(f"sum({name})" for name in tuple(SUMS)[:-7])  # 0.1.0 had not the others
    asked = {
        table: f"SELECT {columns} FROM {table} ORDER BY call_id"
        for table, columns in (("calls", "*"), ("holds", "*"))
    }
    before = {table: sql(path, asked[table]) for table in asked}
    hours = sql(path, f"SELECT slot, {KIND}, {sums} FROM slots GROUP BY slot, {KIND}")
    spent = windows(path, "budget_windows")
    migrated(path)
    after = {table: sql(path, asked[table]) for table in asked}
    for table in asked:
        width = len(before[table][0])
        assert [row[:width] for row in after[table]] == before[table]
    assert sql(path, f"SELECT hour, {KIND}, {sums} FROM hours GROUP BY hour, {KIND}") == hours
    assert windows(path) == spent
    assert len(spent) == 6
    assert sql(path, "SELECT name FROM sqlite_master WHERE type = 'trigger'") == []
    copy = path.with_name("ledger.db.before-ledger-005-windows")
    assert windows(copy, "budget_windows") == spent
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_open_holds_of_dead_processes_count_in_full(path: Path) -> None:
    """What was held of each budget is then spent, in the windows that version 0.1.0 counted it
    in, and the rows say `unknown`."""
    before = windows(path, "budget_windows")
    with closing(open_ledger(path, "run", "ann")) as ledger:
        assert ledger.open_holds() == []
        statuses = Counter(row.status for row in ledger.calls())
    assert statuses == {"ok": 72, "error": 6, "unknown": 13}
    expected = {key: (spent + held, 0, told) for key, (spent, held, told) in before.items()}  # type: ignore[operator]
    assert windows(path) == expected


def test_open_holds_of_a_process_out_of_sight_stay(path: Path) -> None:
    """They end in the windows that they began in."""
    elsewhere = world().split(" ")[0] + " pid:[1]"
    sql(path, f"UPDATE holds SET world = '{elsewhere}', at_ms = 1799999999999")
    before = windows(path, "budget_windows")
    with closing(open_ledger(path, "run", "ann")) as ledger:
        request = a_request("04open")
        asyncio.run(ledger.settle(an_outcome(request, cost=Decimal(1))))
        assert len(ledger.open_holds()) == 9
    spent, held, told = before["team 1799971200000"]
    assert isinstance(spent, int)
    assert isinstance(held, int)
    one, attempts = to_pico(Decimal(1)) or 0, to_pico(Decimal("1.4")) or 0
    assert windows(path)["team 1799971200000"] == (spent + one, held - attempts, told)


def test_a_call_of_unknown_end_is_released_from_the_budgets_it_counts_towards(path: Path) -> None:
    """Also one that version 0.1.0 wrote."""
    before = windows(path, "budget_windows")
    rows = sql(
        path,
        "SELECT sum(cost_pico + uncertain_pico) FROM calls WHERE status = 'unknown' "
        "AND started_ms >= 1799971200000 AND started_ms < 1800057600000",
    )
    with closing(open_ledger(path, "run", "ann")) as ledger:
        ledger.release(Decimal(0))
    spent, _, told = before["team 1799971200000"]
    assert isinstance(spent, int)
    assert isinstance(rows[0][0], int)
    assert windows(path)["team 1799971200000"] == (spent - rows[0][0], 0, told)


def test_a_budget_goes_on_where_it_was(path: Path) -> None:
    """What is left of it is left, to the picodollar."""
    spent, held, _ = windows(path, "budget_windows")["team 1799971200000"]
    assert isinstance(spent, int)
    assert isinstance(held, int)
    limit = Decimal(spent + held).scaleb(-12) + Decimal("0.01")
    with closing(open_ledger(path, "run", "ann")) as ledger:
        cap = a_cap(str(limit))
        assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal("0.02")), [cap])) is not None
        assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal("0.01")), [cap])) is None


def test_a_ledger_of_before_the_first_release_is_refused(path: Path) -> None:
    """It says so; nothing is changed."""
    sql(path, "DELETE FROM migrations WHERE name = 'ledger-004-together'")
    with pytest.raises(OldFormatError, match="older llmctl"):
        open_ledger(path, "run", "ann")
    assert len(windows(path, "budget_windows")) == 6


def test_times_of_calls_are_counted(tmp_path: Path) -> None:
    """Of a ledger whose reports read single calls for them: answers alone, by the hour."""
    path = tmp_path / "ledger.db"
    older = [each for each in MIGRATIONS if each.name < "ledger-012"]
    Database(path, older).close()
    names = CallRow.__struct_fields__
    marks = ", ".join("?" * len(names))
    for call in (
        a_call(latency_ms=1234, first_token_ms=7),
        a_call(latency_ms=1151),
        a_call(latency_ms=1151, model="other"),
        a_failure(),
        a_hit(),
    ):
        row = astuple(CallRow(**call))
        sql(path, f"INSERT INTO calls ({', '.join(names)}) VALUES ({marks})", *row)
    migrated(path)
    found = sql(path, "SELECT what, hour * 3600000, model, ms, number FROM times")
    hour = 1_795_000_000_000 // 3_600_000 * 3_600_000
    assert found == [
        ("first_token", hour, "gpt-5-mini", 7, 1),
        ("latency", hour, "gpt-5-mini", 1200, 2),
        ("latency", hour, "other", 1200, 1),
    ]
