"""Budget windows on disk: former versions, other processes, crashes, and what is left over."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.errors import CallTimeout, InputError
from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.storage.database import Database
from llmctl.storage.ledger import SqliteLedger, open_ledger
from llmctl.storage.ledger_tables import MIGRATIONS
from llmctl.storage.unknown import Chosen
from llmctl.types import Target
from tests.conformance.calls import DAY, NOW, a_cap, a_hold, a_request, an_answer, an_outcome
from tests.ledgers import a_call, a_ledger, lost
from tests.support import done

MS = int(NOW * 1000)
PICO = 10**12


def look(ledger: SqliteLedger, cap: BudgetWindow) -> BudgetUsage | None:
    """How the cap stands once it is used: a call that costs nothing has passed."""
    probe = a_request()
    assert asyncio.run(ledger.hold(a_hold(probe, Decimal(0)), [cap])) is None
    done(ledger.settle, an_outcome(probe, cost=Decimal(0)))
    return ledger.standing(cap)


def windows(path: Path) -> list[str]:
    """The names of those that are kept."""
    with closing(sqlite3.connect(path)) as db:
        return [key for (key,) in db.execute("SELECT key FROM budget_windows ORDER BY key")]


def test_a_ledger_of_the_former_version_is_added_up(tmp_path: Path) -> None:
    """Its holds stand for one attempt each, and what it spent counts when a budget is used."""
    path = tmp_path / "ledger.db"
    Database(path, MIGRATIONS[:2]).close()
    call = a_call(call_id="b", started_ms=MS, cost_pico=7, uncertain=1, uncertain_pico=30)
    with closing(sqlite3.connect(path)) as db, db:
        names = ", ".join(call)
        marks = ", ".join(f":{name}" for name in call)
        db.execute(f"INSERT INTO calls ({names}) VALUES ({marks})", call)
        db.execute(
            "INSERT INTO holds VALUES ('a', 'run-0', ?, 'fast', 'openai', 'gpt-5-mini', '{}', "
            "'ann', 1, 1, 500, 1, 'x', 'a world')",
            (MS,),
        )
        db.execute("UPDATE holds SET world = ?", (_elsewhere(),))
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        assert [held.times for held in ledger.open_holds()] == [1]
        standing = look(ledger, a_cap(9))
    assert standing == BudgetUsage(Decimal(37).scaleb(-12), Decimal(500).scaleb(-12))


def _elsewhere() -> str:
    """The world of a container on this machine, into which this process cannot see."""
    from llmctl.storage.process import world

    return world().split(" ")[0] + " pid:[1]"


def test_a_crash_moves_what_was_held_to_what_is_spent(tmp_path: Path) -> None:
    """All attempts that a dead process may have made count in full, once."""
    path, cap = tmp_path / "ledger.db", a_cap(9)
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request(), Decimal(2), times=2), [cap]))
        assert ledger.standing(cap) == BudgetUsage(Decimal(0), Decimal(4))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE holds SET birth = 'long ago'")
    with closing(open_ledger(path, "run-2", "ann")) as ledger:
        assert ledger.standing(cap) == BudgetUsage(Decimal(4), Decimal(0))
        assert [row.cost for row in ledger.calls()] == [4]


CALLS = st.fixed_dictionaries(
    {
        "profile": st.sampled_from(["fast", "slow"]),
        "model": st.sampled_from(["m", "m-2026-05-01", "m-mini", "m-12", "m-latest", "m-123b"]),
        "user": st.sampled_from(["ann", "bob"]),
        "run_id": st.sampled_from(["run-1", "run-2"]),
        "tags": st.sampled_from(["{}", '{"team":"a"}', '{"team":"b","x":"1"}', '{"x":"1"}']),
        "started_ms": st.sampled_from([MS, MS - DAY, MS + DAY, MS // DAY * DAY]),
        "status": st.sampled_from(["ok", "error", "unknown"]),
        "cost_pico": st.sampled_from([0, 1, 10**6 + 1, None]),
        "uncertain_pico": st.sampled_from([0, 3, None]),
        "uncertain": st.just(1),
    }
)
WANTED = {
    "profile": "fast", "model": "m", "user": "ann", "run": "run-1", "tag:team": "a", "tag:x": "1",
}  # fmt: skip
MATCHES = st.sets(st.sampled_from(sorted(WANTED)), max_size=3).map(
    lambda chosen: {name: WANTED[name] for name in chosen}
)


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    calls=st.lists(CALLS, min_size=1, max_size=12),
    match=MATCHES,
    billed=st.sampled_from([0, PICO]),
    whole=st.booleans(),
)
def test_windows_kept_by_triggers_agree_with_windows_made_last(
    calls: list[dict[str, Any]], match: dict[str, str], billed: int, *, whole: bool
) -> None:
    """Whatever is written, by whomever, and whatever becomes known later."""
    early = a_cap(10**6, "early", match=match)
    if not whole:  # a span that begins inside of an hour
        early = replace(early, start=early.start + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with closing(open_ledger(path, "run-0", "eve")) as ledger:
            look(ledger, early)
        a_ledger(path, *(a_call(call_id=f"call {n}", **call) for n, call in enumerate(calls)))
        with closing(open_ledger(path, "run-0", "eve")) as ledger:
            ledger.release(Chosen(run_id=calls[0]["run_id"]), Decimal(billed).scaleb(-12))
            late = replace(early, key="late")
            assert look(ledger, early) == look(ledger, late)


def test_a_window_that_is_over_goes_after_a_day(tmp_path: Path) -> None:
    """When a new one is made."""
    path = tmp_path / "ledger.db"
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        for days in range(4):
            at = NOW + days * 86400
            start = a_cap(1).start + days * DAY
            cap = a_cap(1, key=f"day {days}", start=start, end=start + DAY)
            assert asyncio.run(ledger.hold(a_hold(a_request(), at=at), [cap])) is None
    assert windows(path) == ["day 2", "day 3"]


def test_the_window_of_a_run_goes_with_its_process(tmp_path: Path) -> None:
    """While that lives it stays, whatever the clock says."""
    path = tmp_path / "ledger.db"
    run = a_cap(1, key="run:1", start=0, end=1 << 62, match={"run": "run-1"})
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        for at, cap in ((NOW, run), (NOW + 40 * 86400, a_cap(1))):
            assert asyncio.run(ledger.hold(a_hold(a_request(), at=at), [cap])) is None
    assert windows(path) == ["run:1", a_cap(1).key]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE budget_windows SET birth = 'long ago'")
    with closing(open_ledger(path, "run-2", "ann")) as ledger:
        assert asyncio.run(ledger.hold(a_hold(a_request()), [a_cap(1, key="new")])) is None
    assert windows(path) == ["new", a_cap(1).key]


def test_a_refused_hold_writes_nothing(tmp_path: Path) -> None:
    """Rows that wait ask again and again: that must not wear out the disk."""
    path, cap = tmp_path / "ledger.db", a_cap("0.01")
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        assert asyncio.run(ledger.hold(a_hold(a_request(), Decimal("0.01")), [cap])) is None
        assert asyncio.run(ledger.hold(a_hold(a_request()), [cap])) is not None
        wal = path.with_name("ledger.db-wal")
        before = wal.stat().st_size, wal.read_bytes()[-4096:]
        for _ in range(100):
            assert asyncio.run(ledger.hold(a_hold(a_request()), [cap])) is not None
        assert (wal.stat().st_size, wal.read_bytes()[-4096:]) == before


@pytest.mark.parametrize(
    ("chosen", "released"),
    [
        (Chosen(ids=("b", "a", "b")), ["b", "a"]),
        (Chosen(run_id="run-2"), ["c"]),
        (Chosen(run_id="run-3"), []),
        (Chosen(), ["a", "b", "c"]),
    ],
)
def test_a_person_may_say_what_became_of_calls(
    tmp_path: Path, chosen: Chosen, released: list[str]
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
        found = ledger.release(chosen, Decimal("0.25"))
        rows = {row.call_id: row for row in ledger.calls()}
    assert [call.call_id for call in found] == released
    for call_id, row in rows.items():
        if call_id in released:
            assert (row.status, row.cost, row.uncertain_pico) == ("error", Decimal("0.25"), 0)
        else:
            assert row.status == ("unknown" if call_id in "abc" else "ok")
    assert {call.call_id: call.cost for call in found if call.call_id != "c"} == {
        call_id: {"a": 2, "b": None}[call_id] for call_id in released if call_id != "c"
    }


def test_what_is_known_cannot_be_released(tmp_path: Path) -> None:
    """Nor what is not there; then nothing is, not even the others that were named."""
    path = a_ledger(tmp_path / "l.db", lost(call_id="a"), a_call(call_id="b"))
    with closing(open_ledger(path, "", "")) as ledger:
        for chosen, words in (
            (Chosen(ids=("a", "b")), "is known"),
            (Chosen(ids=("a", "z")), "no call 'z'"),
            (Chosen(run_id="z"), "no call of a run 'z'"),
        ):
            with pytest.raises(InputError, match=words):
                ledger.release(chosen, Decimal(0))
        assert [row.status for row in ledger.calls()] == ["unknown", "ok"]


def test_what_cost_nothing_used_no_tokens(tmp_path: Path) -> None:
    """The worst case was never sent, as far as anybody can tell."""
    path = a_ledger(tmp_path / "l.db", lost(call_id="a"))
    with closing(open_ledger(path, "", "")) as ledger:
        ledger.release(Chosen(), Decimal(0))
        (row,) = ledger.calls()
    assert (row.input_tokens, row.output_tokens, row.cost_pico) == (0, 0, 0)


def test_a_call_that_went_elsewhere_counts_there(tmp_path: Path) -> None:
    """When another profile is asked in its place, its hold and its row are that one's."""
    path = tmp_path / "ledger.db"
    cap = a_cap(9, match={"profile": "claude"})
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request(), Decimal(0)), [cap]))
        request = a_request()
        other: Target = replace(request.target, profile="claude")
        asyncio.run(ledger.hold(a_hold(request, Decimal(1)), []))
        assert ledger.standing(cap) == BudgetUsage(Decimal(0), Decimal(0))
        elsewhere = replace(request, target=other)
        asyncio.run(ledger.hold(a_hold(elsewhere, Decimal(2)), [cap]))
        assert ledger.standing(cap) == BudgetUsage(Decimal(0), Decimal(2))
        outcome = an_outcome(elsewhere, an_answer(elsewhere), cost=Decimal(1))
        done(ledger.settle, outcome)
        assert ledger.standing(cap) == BudgetUsage(Decimal(1), Decimal(0))


def test_a_timeout_settles_with_what_its_hold_says_of_one_attempt(tmp_path: Path) -> None:
    """Two attempts in doubt, at the amount of one each: what was held for both."""
    path, cap, request = tmp_path / "ledger.db", a_cap(9), a_request()
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(request, Decimal(1)), [cap]))
        asyncio.run(ledger.hold(a_hold(request, Decimal(1), times=2), [cap]))
        outcome = replace(an_outcome(request, CallTimeout("late"), cost=Decimal(0)), uncertain=2)
        done(ledger.settle, outcome)
        assert ledger.standing(cap) == BudgetUsage(Decimal(2), Decimal(0))
