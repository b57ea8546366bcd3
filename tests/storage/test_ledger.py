"""The ledger on disk: both contracts, crashes, damage, many processes, and windows of budgets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.errors import (
    CallError,
    CallTimeout,
    InputError,
    Interrupted,
    LlmctlError,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.storage.database import DamagedError
from llmctl.storage.ledger import Ledger, open_ledger
from llmctl.types import Target, Usage
from tests.conformance.calls import (
    DAY,
    NOW,
    TARGET,
    a_cap,
    a_hold,
    a_request,
    an_answer,
    an_outcome,
)
from tests.conformance.ledger_budgets import BudgetContract, settle, stands
from tests.conformance.ledger_store import LedgerContract
from tests.ledgers import a_call, a_ledger, lost
from tests.storage.damage import damaged_versions, sql

ROOT = Path(__file__).parents[2]
PICO = 10**12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger will be."""
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with closing(open_ledger(path, "run-1", "ann")) as opened:
        yield opened


class TestLedger(LedgerContract, BudgetContract):
    """The contracts, on disk."""

    @pytest.fixture
    def store(self, ledger: Ledger) -> Ledger:
        """An empty one."""
        return ledger


def test_a_hold_is_on_disk_when_it_returns(ledger: Ledger, path: Path) -> None:
    """Another process sees it at once; no prompt and no answer is in any byte of the files."""
    request = a_request()
    asyncio.run(ledger.hold(a_hold(request)))
    assert sql(path, "SELECT call_id, pid FROM holds") == [(request.call_id, os.getpid())]
    settle(ledger, an_outcome(request))
    assert sql(path, "SELECT call_id FROM calls") == [(request.call_id,)]
    assert b"canary" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


# --- Crashes


def test_calls_whose_process_was_killed_become_unknown(path: Path) -> None:
    """After `kill -9` the next opening counts every open hold in full; what was settled stays."""
    command = [sys.executable, "-m", "tests.storage.worker", str(path), "30"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        watching = open_ledger(path, "run-2", "ann")
        assert len(watching.open_holds()) == 30  # its process lives
        watching.close()
        child.kill()
    assert child.returncode == -signal.SIGKILL
    with closing(open_ledger(path, "run-3", "ann")) as ledger:
        rows = list(ledger.calls())
        assert ledger.open_holds() == []
    assert sorted(row.status for row in rows) == ["ok"] + ["unknown"] * 30
    lost = [row for row in rows if row.status == "unknown"]
    assert {(row.cost_pico, row.input_tokens, row.output_tokens, row.run_id) for row in lost} == {
        (12_300_000_000, 1000, 500, "run-hang")
    }
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_crash_moves_what_was_held_to_what_is_spent(path: Path) -> None:
    """All attempts that a dead process may have made count in full, once; a process with the same
    number that was born at another time is another one."""
    cap = a_cap(9)
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request(), Decimal(2), times=2), [cap]))
        assert stands(ledger, cap) == (0, 4)
    sql(path, "UPDATE holds SET birth = 'long ago'")
    with closing(open_ledger(path, "run-2", "ann")) as ledger:
        assert stands(ledger, cap) == (4, 0)
        (row,) = ledger.calls()
        assert (row.status, row.cost_pico) == ("unknown", 4 * PICO)


ELSEWHERE = "SET world = substr(world, 1, instr(world, ' ')) || 'pid:[1]'"
"""Moves what is on record to another container of this machine."""


def test_holds_of_another_container_end_when_it_is_silent(path: Path) -> None:
    """Case 53: a process that cannot be seen lives as long as it beats; a minute later its calls
    are `unknown`, and block nobody for a day."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        asyncio.run(ledger.beat())
    sql(path, f"UPDATE holds {ELSEWHERE}, at_ms = (unixepoch() - 3600) * 1000")
    for ago, left in ((50, 1), (70, 0)):
        sql(path, f"UPDATE processes {ELSEWHERE}, beat_ms = (unixepoch() - {ago}) * 1000")
        with closing(open_ledger(path, "run-2", "ann")) as ledger:
            assert len(ledger.open_holds()) == left


def test_a_call_that_is_denied_looks_for_the_dead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 53: who waits for the holds of a process that dies meanwhile gets their end, though it
    has the ledger open since before."""
    monkeypatch.setattr("llmctl.storage.ledger.BEAT", 0.0)
    cap = a_cap(3)
    with (
        closing(open_ledger(path, "run-1", "ann")) as dies,
        closing(open_ledger(path, "run-2", "ann")) as waits,
    ):
        asyncio.run(dies.hold(a_hold(a_request(), Decimal(2)), [cap]))
        denied = asyncio.run(waits.hold(a_hold(a_request(), Decimal(2)), [cap]))
        assert denied is not None
        assert not denied.never
        sql(path, "UPDATE holds SET birth = 'long ago'")
        denied = asyncio.run(waits.hold(a_hold(a_request(), Decimal(2)), [cap]))
        assert denied is not None
        assert denied.never
        assert asyncio.run(waits.hold(a_hold(a_request(), Decimal(1)), [cap])) is None


def test_a_call_expired_too_early_settles_all_the_same(path: Path) -> None:
    """When the process was not dead after all, what it knows takes the place of `unknown`, in the
    budget too."""
    request, cap = a_request(), a_cap(9)
    with closing(open_ledger(path, "run-1", "ann")) as alive:
        asyncio.run(alive.hold(a_hold(request, Decimal(2)), [cap]))
        sql(path, "UPDATE holds SET birth = 'long ago'")
        with closing(open_ledger(path, "run-2", "ann")) as other:
            assert [row.status for row in other.calls()] == ["unknown"]
            assert stands(other, cap) == (2, 0)
            settle(alive, an_outcome(request, cost=Decimal(1)))
            assert [row.status for row in other.calls()] == ["ok"]
            assert stands(other, cap) == (1, 0)


def test_a_call_expired_too_early_may_be_tried_again(path: Path) -> None:
    """A process that was stopped for minutes holds its call once more and settles it; never is it
    counted twice."""
    request, cap = a_request(), a_cap(4)
    with closing(open_ledger(path, "run-1", "ann")) as alive:
        asyncio.run(alive.hold(a_hold(request, Decimal(2)), [cap]))
        sql(path, "UPDATE holds SET birth = 'long ago'")
        with closing(open_ledger(path, "run-2", "ann")) as other:
            assert stands(other, cap) == (2, 0)
            too_much = a_hold(request, Decimal(2), times=3)
            assert asyncio.run(alive.hold(too_much, [cap])) is not None
            assert stands(other, cap) == (2, 0)
            assert asyncio.run(alive.hold(a_hold(request, Decimal(2), times=2), [cap])) is None
            assert stands(other, cap) == (0, 4)
            settle(alive, an_outcome(request, cost=Decimal(1)))
            assert [row.status for row in other.calls()] == ["ok"]
            assert stands(other, cap) == (1, 0)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(
    ("end", "status", "spent"),
    [
        (None, "ok", 1),
        (RateLimited("slow down"), "error", 1),
        (CallTimeout("late"), "unknown", 2),  # nobody has seen a bill
    ],
)
def test_a_process_that_wakes_settles_what_was_given_up(
    path: Path, end: CallError | None, status: str, spent: int, *, released: bool, again: bool
) -> None:
    """Case 53: whatever others made of its call meanwhile (lost, or released by a person), held
    once more or not: what the process knows takes its place, and what nobody knows stays in
    doubt at the amount of the hold."""
    request, cap = a_request(), a_cap(9)
    with closing(open_ledger(path, "run-1", "ann")) as alive:
        asyncio.run(alive.hold(a_hold(request, Decimal(2)), [cap]))
        sql(path, "UPDATE holds SET birth = 'long ago'")
        with closing(open_ledger(path, "run-2", "ann")) as other:
            assert stands(other, cap) == (2, 0)
            if released:
                other.release(Decimal("0.5"))
            later = a_cap(9, "later")  # first used in between
            probe(other, later)
            if again:
                assert asyncio.run(alive.hold(a_hold(request, Decimal(2)), [cap])) is None
            settle(alive, an_outcome(request, end, cost=Decimal(1), usage=Usage(9, 9)))
            assert [row.status for row in other.calls() if row.call_id == request.call_id] == [
                status
            ]
            told = released and status == "unknown" and not again  # by a person
            counts = Decimal("0.5") if told else spent
            assert stands(other, cap) == stands(other, later) == (counts, 0)


def test_signs_of_life_do_not_pile_up(path: Path) -> None:
    """Case 53: processes that have ended leave none behind."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        for birth in range(9):
            asyncio.run(ledger.beat())
            sql(path, f"UPDATE processes SET birth = 'b{birth}', beat_ms = 0")
        asyncio.run(ledger.beat())
    assert sql(path, "SELECT count(*) FROM processes") == [(1,)]


def test_a_live_process_of_another_host_keeps_its_holds(path: Path) -> None:
    """Case 53: another boot id is another machine that may be alive, unless it is silent."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        asyncio.run(ledger.beat())
    sql(path, "UPDATE holds SET world = 'another-boot pid:[1]', at_ms = 0")
    sql(path, "UPDATE processes SET world = 'another-boot pid:[1]'")
    for ago, left in ((50, 1), (70, 0)):
        sql(path, f"UPDATE processes SET beat_ms = (unixepoch() - {ago}) * 1000")
        with closing(open_ledger(path, "run-2", "ann")) as ledger:
            assert len(ledger.open_holds()) == left


def test_a_denied_call_says_whose_holds_are_in_its_way(path: Path) -> None:
    """Case 53: each other run with what it holds of the window, its last sign of life, and whether
    it is in a provider's batch."""
    cap, other = a_cap(3), a_cap(3, "other")
    with (
        closing(open_ledger(path, "run-1", "ann")) as theirs,
        closing(open_ledger(path, "run-2", "ann")) as ours,
    ):
        for _ in range(2):
            asyncio.run(theirs.hold(a_hold(a_request(), Decimal(1)), [cap]))
        sql(path, "UPDATE holds SET at_ms = at_ms - 90000000000")  # NOW is to come
        denied = asyncio.run(ours.hold(a_hold(a_request(), Decimal(2)), [other, cap]))
        assert denied is not None
        assert [(h.run_id, h.amount) for h in denied.holders] == [("run-1", Decimal(2))]
        asyncio.run(theirs.beat())
        later = asyncio.run(ours.hold(a_hold(a_request(), Decimal(2)), [other, cap]))
        assert later is not None
        assert later.holders[0].beat > denied.holders[0].beat
        assert not later.holders[0].in_batch
        sql(path, "UPDATE holds SET job = 'a batch'")
        denied = asyncio.run(ours.hold(a_hold(a_request(), Decimal(2)), [other, cap]))
        assert denied is not None
        assert denied.holders[0].in_batch


def test_a_run_that_is_silent_may_be_released(path: Path) -> None:
    """Case 53: its process may be there (stopped) or not; while it lives it may not be."""
    cap = a_cap(9)
    now = time.time()
    with closing(open_ledger(path, "run-1", "ann")) as stopped:
        asyncio.run(stopped.hold(a_hold(a_request(), Decimal(2), at=now), [cap]))
        with closing(open_ledger(path, "run-2", "ann")) as ledger:
            with pytest.raises(InputError, match=r"run run-1 are under way \(1\).*lives"):
                ledger.release(Decimal(0), run_id="run-1")
            sql(path, "UPDATE holds SET at_ms = at_ms - 61000")
            ledger.release(Decimal(0))
            assert len(ledger.open_holds()) == 1
            (call,) = ledger.release(Decimal(0), run_id="run-1")
            assert call.cost == 2
            assert ledger.open_holds() == []


# --- Damage


def test_a_damaged_ledger_refuses_or_works(path: Path) -> None:
    """Whatever byte is broken: a call is either on record or refused before it is paid for, with
    the file's name and the way out, and after that way a new ledger opens."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        for _ in range(150):
            settle(ledger, an_outcome(a_request()))
    refused = 0
    for n, (what, broken) in enumerate(damaged_versions(path.read_bytes(), 80)):
        victim = path.with_name(f"{n}.sqlite3")
        victim.write_bytes(broken)
        request = a_request()
        try:
            ledger = open_ledger(victim, "run-2", "ann")
        except LlmctlError as error:
            refused += 1
            says_how = re.search(rf"{n}\.sqlite3 (is damaged|was written).*move ", str(error))
            assert says_how, what
            victim.rename(path.with_name(f"{n}.aside"))
            ledger = open_ledger(victim, "run-2", "ann")
        with closing(ledger):
            asyncio.run(ledger.hold(a_hold(request)))
            settle(ledger, an_outcome(request))
        found = sql(victim, f"SELECT status FROM calls WHERE call_id = '{request.call_id}'")
        assert found == [("ok",)], what
    assert refused > 20


def test_a_ledger_that_breaks_in_the_middle_refuses_the_next_call(path: Path) -> None:
    """The hold fails, so nothing is sent."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        sql(path, "DROP TABLE holds")
        with pytest.raises(DamagedError, match=r"ledger\.sqlite3 is damaged .*move it"):
            asyncio.run(ledger.hold(a_hold(a_request())))


@pytest.mark.parametrize("change", ["DROP INDEX calls_run", "ALTER TABLE hours ADD COLUMN x"])
def test_tables_that_llmctl_did_not_make_are_damage(path: Path, change: str) -> None:
    """A ledger that would add up something else is refused."""
    open_ledger(path, "", "").close()
    sql(path, change)
    with pytest.raises(DamagedError, match="tables are not those"):
        open_ledger(path, "", "")


# --- Windows of budgets


CALLS = st.fixed_dictionaries(
    {
        "run": st.sampled_from(["run-1", "run-2"]),
        "user": st.sampled_from(["ann", "bob"]),
        "profile": st.sampled_from(["fast", "slow"]),
        "asked": st.sampled_from(["m", "m-latest", "m-mini", "prod-chat"]),
        "answered": st.sampled_from(["m", "m-2026-05-01", "m-12", "m-123b", "m-mini-002"]),
        "tags": st.sampled_from([{}, {"team": "a"}, {"team": "b", "x": "1"}, {"x": "1"}]),
        "at": st.sampled_from([NOW, NOW - 86400, NOW + 86400, NOW - NOW % 86400]),
        "late": st.sampled_from([0.0, 0.0, 86400.0]),
        "cost": st.sampled_from([Decimal(1), Decimal("0.000000000001"), Decimal(0), None]),
        "aware": st.booleans(),
        "end": st.sampled_from(["ok", "held", "doubt", "refused", "unknown", "known"]),
    }
)
WANTED = {
    "profile": "fast", "model": "m", "user": "ann", "run": "run-1", "tag:team": "a", "tag:x": "1",
}  # fmt: skip
MATCHES = st.sets(st.sampled_from(sorted(WANTED)), max_size=3).map(
    lambda chosen: {name: WANTED[name] for name in chosen}
)


ALIAS: dict[str, object] = {
    "run": "run-1", "user": "ann", "profile": "fast", "asked": "prod-chat", "answered": "m",
    "tags": {}, "at": NOW, "late": 0.0, "cost": Decimal(1), "aware": False, "end": "ok",
}  # fmt: skip
LOST = {**ALIAS, "asked": "m", "end": "unknown"}
KNOWN = {**ALIAS, "end": "known", "late": 86400.0}


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    calls=st.lists(CALLS, min_size=1, max_size=6),
    match=MATCHES,
    begins=st.integers(0, 2),
    released=st.sampled_from([None, Decimal(0), Decimal("0.5")]),
    whole=st.booleans(),
)
@example(calls=[ALIAS], match={"model": "m"}, begins=0, released=None, whole=True)
@example(calls=[LOST, LOST], match={"model": "m"}, begins=1, released=Decimal(0), whole=True)
@example(calls=[KNOWN, KNOWN], match={"model": "prod-chat"}, begins=1, released=None, whole=True)
def test_a_window_computed_afresh_is_the_one_that_was_enforced(
    calls: list[dict[str, object]],
    match: dict[str, str],
    begins: int,
    released: Decimal | None,
    *,
    whole: bool,
) -> None:
    """Whatever calls are made, by whom, and however they end; whether or not who makes them knows
    of the budget, whenever it is first used, and what a person says later: `usage` of the window
    as it was kept is the sum over calls and holds by the matcher."""
    window = a_cap(10**6, "kept", match=match)
    if not whole:  # a span that begins and ends inside of an hour
        window = replace(window, start=window.start + 1, end=window.end - 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        for number, call in enumerate(calls):
            with closing(open_ledger(path, str(call["run"]), str(call["user"]))) as ledger:
                if number == begins:
                    probe(ledger, window)
                make(ledger, call, [window] if call["aware"] and number >= begins else [])
        with closing(open_ledger(path, "run-0", "eve")) as ledger:
            if released is not None:
                ledger.release(released)
            probe(ledger, window)
            kept = stands(ledger, window)
            afresh = stands(ledger, replace(window, key="afresh"))
            probe(ledger, replace(window, key="begun last"))
            last = stands(ledger, replace(window, key="begun last"))
    assert kept == afresh == last


def probe(ledger: Ledger, window: BudgetWindow) -> None:
    """Use the budget without spending anything: a call that costs nothing has passed."""
    request = a_request()
    assert asyncio.run(ledger.hold(a_hold(request, Decimal(0)), [window])) is None
    settle(ledger, an_outcome(request, cost=Decimal(0)))


def make(ledger: Ledger, call: dict[str, object], windows: list[BudgetWindow]) -> None:
    """Make the call as it is said."""
    target = replace(TARGET, profile=str(call["profile"]), model=str(call["asked"]))
    request = replace(a_request(), target=target, tags=call["tags"])
    cost, at, end = call["cost"], call["at"], call["end"]
    assert isinstance(at, float)
    assert cost is None or isinstance(cost, Decimal)
    late = call["late"]
    assert isinstance(late, float)
    if end == "doubt":
        asyncio.run(ledger.hold(a_hold(request, cost, at=at), windows))
    times = 2 if end == "doubt" else 1
    asyncio.run(ledger.hold(a_hold(request, cost, at=at, times=times), windows))
    answer = replace(an_answer(request), model=str(call["answered"]))
    outcome = an_outcome(request, answer, cost=cost, started=at + late)
    if end in {"unknown", "known"}:
        settle(ledger, an_outcome(request, CallTimeout("late"), cost=None, started=at + late))
    if end == "refused":
        settle(ledger, an_outcome(request, RateLimited("slow down"), cost=Decimal(0), started=at))
    elif end == "doubt":
        settle(ledger, replace(outcome, uncertain=1))
    elif end in {"ok", "known"}:
        settle(ledger, outcome)


def windows(path: Path) -> list[str]:
    """The keys of the windows that are kept."""
    return [str(key) for (key,) in sql(path, "SELECT key FROM windows ORDER BY key")]


@pytest.mark.parametrize("value", ["bob", "", "ünï✓", 'a"', 'a", "b', '", "', "\\", "{}", "%_"])
@pytest.mark.parametrize("label", ["user", "tag:team"])
def test_a_window_is_found_by_whatever_its_caller_is_called(
    path: Path, label: str, value: str
) -> None:
    """A call counts towards the window of its user and of its tag, though its process does not
    know of it, and towards nobody else's."""
    mine, other = (a_cap(9, one, match={label: one}) for one in (value, f"{value}."))
    request = replace(
        a_request(), **{"user": value} if label == "user" else {"tags": {"team": value}}
    )
    with closing(open_ledger(path, "run-1", value)) as ledger:
        probe(ledger, mine)
        probe(ledger, other)
        assert asyncio.run(ledger.hold(a_hold(request, Decimal(1)))) is None
        assert stands(ledger, mine) == (0, 1)
        settle(ledger, an_outcome(request, cost=Decimal(2)))
        assert (stands(ledger, mine), stands(ledger, other)) == ((2, 0), (0, 0))


def test_the_budgets_of_others_cost_a_call_no_time(path: Path) -> None:
    """With a thousand callers that have a budget each a call takes about as long as with one."""
    windows = [a_cap(9, str(one), match={"tag:team": str(one)}) for one in range(1000)]
    request = replace(a_request(), tags={"team": "1"})

    def took(ledger: Ledger) -> float:
        """Processor seconds of the fastest call of many."""
        best = float("inf")
        for _ in range(20):
            begun, one = time.process_time(), replace(request, call_id=a_request().call_id)
            assert asyncio.run(ledger.hold(a_hold(one, Decimal(0)), [windows[1]])) is None
            settle(ledger, an_outcome(one, cost=Decimal(0)))
            best = min(best, time.process_time() - begun)
        return best

    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        alone = took(ledger)
        assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal(0)), windows)) is None
        assert took(ledger) < 2 * alone


def test_the_window_of_a_run_goes_after_30_days(path: Path) -> None:
    """It has no end of its own; a run that goes on makes it again."""
    run = a_cap(9, key="run:1", start=0, end=1 << 62, match={"run": "run-1"})
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        for days, found in ((0, ["run:1"]), (29, ["run:1", "29"]), (31, ["31"])):
            at = NOW + days * 86400
            start = a_cap(1).start + days * DAY
            other = a_cap(9, key=str(days), start=start, end=start + DAY)
            caps = [other] if days else [run]
            assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal(1), at=at), caps)) is None
            assert sorted(windows(path)) == sorted(found), days
        assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal(1), at=at), [run])) is None
        assert stands(ledger, run) == (0, 4)


def test_a_call_that_went_elsewhere_counts_there(path: Path) -> None:
    """When another profile is asked in its place, its hold and its row are that one's."""
    cap = a_cap(9, match={"profile": "claude"})
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        probe(ledger, cap)
        request = a_request()
        other: Target = replace(request.target, profile="claude")
        asyncio.run(ledger.hold(a_hold(request, Decimal(1)), []))
        assert stands(ledger, cap) == (0, 0)
        elsewhere = replace(request, target=other)
        asyncio.run(ledger.hold(a_hold(elsewhere, Decimal(2)), [cap]))
        assert stands(ledger, cap) == (0, 2)
        settle(ledger, an_outcome(elsewhere, an_answer(elsewhere), cost=Decimal(1)))
        assert stands(ledger, cap) == (1, 0)


def test_a_timeout_settles_with_what_its_hold_says_of_one_attempt(path: Path) -> None:
    """Two attempts in doubt, at the amount of one each: what was held for both."""
    cap, request = a_cap(9), a_request()
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(request, Decimal(1)), [cap]))
        asyncio.run(ledger.hold(a_hold(request, Decimal(1), times=2), [cap]))
        outcome = replace(an_outcome(request, CallTimeout("late"), cost=Decimal(0)), uncertain=2)
        settle(ledger, outcome)
        assert asyncio.run(ledger.usage(cap)) == BudgetUsage(Decimal(2), Decimal(0))


def test_of_a_stream_that_was_cut_the_rest_stays_in_doubt(path: Path) -> None:
    """Case 50: what was seen of it is settled, and the rest of its hold counts, too, until somebody
    knows better."""
    cap, request = a_cap(9), a_request()
    cut = Interrupted(ServerFailed("x"))
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(request, Decimal(3)), [cap]))
        seen = an_outcome(request, cut, cost=Decimal(1), usage=Usage(9, 9, estimated=True))
        settle(ledger, replace(seen, uncertain=1))
        (row,) = ledger.calls()
        assert (row.status, row.cost_pico, row.uncertain_pico) == ("interrupted", PICO, 2 * PICO)
        assert stands(ledger, cap) == (3, 0)
        (released,) = ledger.release(Decimal("0.5"))
        assert released.cost == 2
        assert stands(ledger, cap) == (Decimal("1.5"), 0)
        assert not ledger.release(Decimal("0.5"))
        unheld = an_outcome(a_request(), cut, cost=Decimal(1), usage=Usage(9, 9, estimated=True))
        settle(ledger, replace(unheld, uncertain=1, worst=Decimal(3)))
        assert ledger.calls()[1].uncertain_pico == 2 * PICO


# --- Calls of unknown end


@pytest.mark.parametrize(
    ("chosen", "released"),
    [
        ({"ids": ("b", "a", "b")}, ["b", "a"]),
        ({"run_id": "run-2"}, ["c"]),
        ({"run_id": "run-3"}, []),
        ({}, ["a", "b", "c"]),
    ],
)
def test_a_person_may_say_what_became_of_calls(
    tmp_path: Path, chosen: dict[str, Any], released: list[str]
) -> None:
    """Only those whose end is unknown change; what they cost then is what was billed."""
    path = a_ledger(
        tmp_path / "l.db",
        lost(call_id="a", cost_pico=PICO, uncertain=1, uncertain_pico=PICO),
        lost(call_id="b", cost_pico=None),
        lost(call_id="c", run_id="run-2"),
        a_call(call_id="d"),
        a_call(call_id="e", run_id="run-3"),
    )
    with closing(open_ledger(path, "", "")) as ledger:
        found = ledger.release(Decimal("0.25"), **chosen)
        rows = {row.call_id: row for row in ledger.calls()}
    assert [call.call_id for call in found] == released
    for call_id, row in rows.items():
        if call_id in released:
            assert (row.status, row.cost_pico, row.uncertain_pico) == ("error", PICO // 4, 0)
        else:
            assert row.status == ("unknown" if call_id in "abc" else "ok")
    known = {call.call_id: call.cost for call in found}
    assert known == {call_id: {"a": 2, "b": None, "c": 1}[call_id] for call_id in released}


def test_what_is_known_cannot_be_released(tmp_path: Path) -> None:
    """Nor what is not there; then nothing is, not even the others that were named."""
    path = a_ledger(tmp_path / "l.db", lost(call_id="a"), a_call(call_id="b"))
    with closing(open_ledger(path, "", "")) as ledger:
        chosen: dict[str, Any]
        for chosen, words in (
            ({"ids": ("a", "b")}, "nothing is in doubt of call b"),
            ({"ids": ("a", "z")}, "no call 'z'"),
            ({"run_id": "z"}, "no call of a run 'z'"),
        ):
            with pytest.raises(InputError, match=words):
                ledger.release(Decimal(0), **chosen)
        assert [row.status for row in ledger.calls()] == ["unknown", "ok"]
        ledger.release(Decimal(0))
        row = ledger.calls()[0]  # what cost nothing used no tokens, as far as anybody can tell
        assert (row.input_tokens, row.output_tokens, row.cost_pico) == (0, 0, 0)
