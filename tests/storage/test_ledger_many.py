"""Calls written together: the same sums, whatever they are, and nobody else is in the way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.errors import LlmctlError
from llmctl.storage.database import Database
from llmctl.storage.ledger import SqliteLedger, open_ledger
from llmctl.storage.ledger_budgets import use
from llmctl.storage.ledger_many import MANY, NewHold
from llmctl.storage.ledger_tables import MIGRATIONS
from llmctl.storage.ledger_write import (
    OWNED,
    NewCall,
    NotAllError,
    add_calls,
    hold_all,
    settle_all,
)
from llmctl.storage.process import Process
from llmctl.storage.rows import CallRow
from llmctl.storage.sums import SLOT
from tests.conformance.calls import NOW, a_cap, a_hold, a_request, an_outcome
from tests.ledgers import a_call

MS = int(NOW * 1000) // SLOT * SLOT + SLOT // 2
EDGE = MS + 5
"""Where a budget's period ends and the next one begins."""

CAPS = (
    a_cap(10**6, "until", start=0, end=EDGE),
    a_cap(10**6, "from", start=EDGE, end=1 << 62),
    a_cap(10**6, "asked", start=0, end=1 << 62, match={"model": "gpt-5"}),
    a_cap(10**6, "tagged", start=0, end=1 << 62, match={"tag:team": "a", "user": "ann"}),
)
usual = st.fixed_dictionaries({"model": st.just("gpt-5"), "started_ms": st.integers(MS, MS + 4)})
apart = (
    st.fixed_dictionaries({"started_ms": st.sampled_from([MS, EDGE])}),
    st.fixed_dictionaries({"started_ms": st.sampled_from([MS + 10, MS + SLOT])}),
    st.fixed_dictionaries({"cache": st.sampled_from(["miss", "hit", "shared", "bypass"])}),
)
odd = st.fixed_dictionaries(
    {
        "started_ms": st.sampled_from([MS, MS + 4, EDGE, MS + SLOT]),
        "model": st.sampled_from(["gpt-5", "gpt-5-2026-05-01", "other"]),
        "tags": st.sampled_from(["{}", '{"team":"a"}']),
        "cost_pico": st.sampled_from([None, 0, 1, 10**12, 1 << 62]),
        "saved_pico": st.sampled_from([None, 0, 7]),
        "cache": st.sampled_from(["miss", "hit", "shared", "bypass", None]),
        "status": st.sampled_from(["ok", "ok", "ok", "error", "unknown"]),
        "uncertain": st.sampled_from([0, 0, 0, 1]),
        "uncertain_pico": st.sampled_from([0, 3, None]),
        "cached_tokens": st.integers(0, 9),
        "reasoning_tokens": st.integers(0, 9),
    }
)
held = st.sampled_from(["gpt-5", "gpt-5-latest", "other", None])
many = st.sampled_from([usual, *apart, st.one_of(usual, odd)]).flatmap(
    lambda call: st.lists(st.tuples(call, held), min_size=MANY, max_size=2 * MANY)
)


@contextmanager
def a_database(path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger's tables, with the windows of `CAPS`."""
    Database(path, MIGRATIONS).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for cap in CAPS:
            use(connection, cap, Process.current(), MS)
        yield connection


def the_sums(connection: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
    """All that is kept of calls and holds, added up."""
    windows = "SELECT key, spent_pico, held_pico FROM budget_windows ORDER BY key"
    slots = "SELECT * FROM slots ORDER BY slot, profile, provider, model, user, tags"
    assert connection.execute("SELECT * FROM together").fetchall() == []
    return connection.execute(windows).fetchall(), connection.execute(slots).fetchall()


def new_hold(call: dict[str, Any], model: str) -> NewHold:
    """The hold of the call, made when it started, for the model that was asked."""
    me = Process.current()
    values = {
        **call, "model": model, "at_ms": call["started_ms"], "cost_pico": 300, "times": 2,
        "pid": me.pid, "birth": me.birth, "world": me.world,
    }  # fmt: skip
    return NewHold(tuple(values[name] for name in OWNED), 600, (), call["started_ms"])


def new_calls(made: Sequence[tuple[dict[str, Any], str | None]]) -> list[NewCall]:
    """Calls as they are settled, each with its hold, if it has one."""
    calls: list[NewCall] = []
    for changes, model in made:
        call = a_call(**changes)
        hold = None if model is None else new_hold(call, model)
        calls.append(NewCall(tuple(call[name] for name in CallRow.__struct_fields__), (), hold))
    return calls


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(many)
@example([({"uncertain": 0, "uncertain_pico": 3}, "gpt-5")] * MANY)
def test_many_calls_add_up_to_what_each_of_them_adds(
    made: list[tuple[dict[str, Any], str | None]],
) -> None:
    """While they are held, and when they are settled: budgets and reports have the same figures,
    to the picodollar, as when triggers see to every row."""
    calls, me = new_calls(made), Process.current()
    holds = [call.held for call in calls if call.held is not None]
    with (
        TemporaryDirectory() as folder,
        a_database(Path(folder) / "one.db") as one,
        a_database(Path(folder) / "all.db") as all_,
    ):
        hold_all(all_, holds, me)
        for hold in holds:
            hold_all(one, [hold], me)
        assert the_sums(all_) == the_sums(one)
        settle_all(all_, calls)
        for call in calls:
            settle_all(one, [call])
        assert the_sums(all_) == the_sums(one)
        assert all_.execute("SELECT * FROM holds").fetchall() == []


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(many)
@example([({"uncertain": 0, "uncertain_pico": 3}, "gpt-5")] * MANY)
def test_many_kept_answers_add_up_to_what_each_of_them_adds(
    made: list[tuple[dict[str, Any], str | None]],
) -> None:
    """Also where they are a batch's, that were never held."""
    rows = [call.values for call in new_calls(made)]
    with (
        TemporaryDirectory() as folder,
        a_database(Path(folder) / "one.db") as one,
        a_database(Path(folder) / "all.db") as all_,
    ):
        add_calls(all_, rows)
        for row in rows:
            add_calls(one, [row])
        assert the_sums(all_) == the_sums(one)


def test_a_statement_of_many_is_what_saves_the_time(tmp_path: Path) -> None:
    """SQLite takes less than half as many steps for calls that are alike as for each of them."""
    steps: list[int] = []
    for size in (1, 4 * MANY):
        calls = new_calls([({"started_ms": MS}, "gpt-5")] * 4 * MANY)
        with a_database(tmp_path / f"{size}.db") as connection:
            count = [0]

            def step(count: list[int] = count) -> int:
                count[0] += 1
                return 0

            connection.set_progress_handler(step, 1)
            for start in range(0, len(calls), size):
                settle_all(
                    connection, [call._replace(held=None) for call in calls[start : start + size]]
                )
            connection.set_progress_handler(None, 1)
            steps += count
    assert steps[1] < steps[0] / 2


def test_a_hold_that_is_not_there_is_seen(tmp_path: Path) -> None:
    """What was thought to be held would be taken away although it had gone."""
    calls = new_calls([({}, "gpt-5")] * MANY)
    with a_database(tmp_path / "l.db") as connection:
        hold_all(connection, [call.held for call in calls[1:] if call.held], Process.current())
        connection.execute("BEGIN")
        with pytest.raises(NotAllError):
            settle_all(connection, calls)
        connection.execute("ROLLBACK")
        for call in calls:
            settle_all(connection, [call])
        windows, _ = the_sums(connection)
        assert [held for _, _, held in windows] == [0] * len(CAPS)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    """One on disk."""
    with closing(open_ledger(tmp_path / "l.db", "run-1", "ann")) as opened:
        yield opened


def test_among_many_each_fails_by_itself(ledger: SqliteLedger, tmp_path: Path) -> None:
    """A call that was settled before, one whose process was thought to be dead, and the others of
    the same transaction: each gets what it would alone, and budgets have the right sums."""
    cap = a_cap(100)
    requests = [a_request() for _ in range(4 * MANY)]
    outcomes = [an_outcome(request, cost=Decimal(1)) for request in requests]

    async def run() -> list[object]:
        assert await ledger.hold_all([(a_hold(r, Decimal(2)), [cap]) for r in requests])
        await ledger.settle(outcomes[0])
        with closing(sqlite3.connect(tmp_path / "l.db")) as other, other:
            other.execute("DELETE FROM holds WHERE call_id = ?", (requests[1].call_id,))
        again = [ledger.settle(outcome) for outcome in outcomes]
        return await asyncio.gather(*again, return_exceptions=True)

    settled = asyncio.run(run())
    assert isinstance(settled[0], sqlite3.IntegrityError)
    assert settled[1:] == [()] * (len(requests) - 1)
    standing = ledger.standing(cap)
    assert standing is not None
    assert (standing.spent, standing.held) == (Decimal(len(requests)), Decimal(0))
    assert len(list(ledger.calls())) == len(requests)


def test_a_second_hold_among_many_takes_the_place_of_the_first(ledger: SqliteLedger) -> None:
    """What an attempt that may have been billed adds is held once."""
    cap = a_cap(100)
    holds = [a_hold(a_request(), Decimal(1)) for _ in range(2 * MANY)]

    async def run() -> None:
        assert await ledger.hold_all([(hold, [cap]) for hold in holds])
        twice = [ledger.hold(replace(hold, times=2), [cap]) for hold in holds]
        assert await asyncio.gather(*twice) == [None] * len(holds)

    asyncio.run(run())
    standing = ledger.standing(cap)
    assert standing is not None
    assert standing.held == 2 * len(holds)


def test_a_ledger_in_which_triggers_add_up_nothing_is_damage(tmp_path: Path) -> None:
    """Whoever left that mark outside of a transaction was not llmctl."""
    open_ledger(tmp_path / "l.db", "run-1", "ann").close()
    with closing(sqlite3.connect(tmp_path / "l.db")) as connection, connection:
        connection.execute("INSERT INTO together VALUES (1)")
    with pytest.raises(LlmctlError, match="is damaged"):
        open_ledger(tmp_path / "l.db", "run-1", "ann")
