"""What reports read: sums of hours agree with the calls, latencies come complete."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import closing
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.errors import CallTimeout
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_queries import HOUR, SUMS, LedgerPeek, Reading
from llmctl.storage.ledger_rows import from_pico, to_pico
from tests.conformance.calls import NOW, a_hold, a_request, an_outcome
from tests.conformance.ledger_budgets import settle
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

START = 1_795_000_000_000 // HOUR * HOUR
ALL = (0, 1 << 61)


def read(path: Path, *edges: int, tags: bool = False) -> list[dict[str, Any]]:
    """The cells between the edges, as one mapping each."""

    def work(reading: Reading) -> list[dict[str, Any]]:
        return [
            {"span": c.span, "model": c.model, "tags": c.tags, **c.sums}
            for c in reading.cells(edges, tags=tags)
        ]

    found: list[dict[str, Any]] = _report(path, work)
    return found


def _report(path: Path, work: Any) -> Any:
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(work)


def test_what_each_kind_of_call_adds(tmp_path: Path) -> None:
    """Answers, kept answers, failures, lost calls and unknown prices each count where they
    belong, and nowhere else."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(cached_tokens=7, cache_write_tokens=5, reasoning_tokens=3),
        a_hit(),
        a_hit(saved_pico=None),
        a_failure(),
        a_call(status="cancelled", cache=None, latency_ms=None, cost_pico=5),
        a_call(status="interrupted", cache=None, cost_pico=6),
        a_call(cost_pico=None),
        lost(cost_pico=7),
        lost(cost_pico=None),
        a_call(uncertain=2, uncertain_pico=20),
        a_call(uncertain=1, uncertain_pico=None),
    )
    (cell,) = read(path, *ALL)
    assert {name: cell[name] for name in SUMS} == {
        "calls": 11,
        "errors": 4,  # failed, interrupted, lost twice
        "kept": 2,
        "input_tokens": 700,  # of calls made and ended
        "output_tokens": 70,
        "cached_tokens": 7,
        "cache_write_tokens": 5,
        "reasoning_tokens": 3,
        "cost_pico": 3 * 10**12 + 11,
        "unpriced": 1,
        "saved_pico": 10**12,
        "unsaved": 1,
        "doubtful": 5,
        "doubtful_pico": 27,
        "doubtful_unpriced": 2,
        "estimated": 0,
        "retries": 0,
        "rate_limits": 0,
        "refused": 0,
    }


moments = st.integers(START - 3 * HOUR, START + 3 * HOUR)
calls = st.builds(
    lambda make, moment, model, tags, pico: make(
        started_ms=moment, model=model, tags=tags, cost_pico=pico
    ),
    st.sampled_from([a_call, a_failure, lost]),
    moments | st.sampled_from([START, START - 1, START + HOUR]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["{}", '{"team":"x"}']),
    st.none() | st.integers(0, 10**15),
)


@given(st.lists(calls, max_size=25), st.lists(moments, min_size=2, max_size=5, unique=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hours_agree_with_the_calls(made: list[dict[str, Any]], edges: list[int]) -> None:
    """However spans cut through the hours, their sums are those of the calls within."""
    edges.sort()
    with tempfile.TemporaryDirectory() as folder:
        path = a_ledger(Path(folder) / "l.db", *made)
        found: Counter[tuple[int, str, str]] = Counter()
        costs: Counter[tuple[int, str, str]] = Counter()
        for cell in read(path, *edges, tags=True):
            key = cell["span"], cell["model"], cell["tags"]
            found[key] += cell["calls"]
            costs[key] += cell["cost_pico"] + cell["doubtful_pico"]
    wanted: Counter[tuple[int, str, str]] = Counter()
    amounts: Counter[tuple[int, str, str]] = Counter()
    for span, (start, end) in enumerate(pairwise(edges)):
        for call in made:
            if start <= call["started_ms"] < end:
                wanted[span, call["model"], call["tags"]] += 1
                amounts[span, call["model"], call["tags"]] += call["cost_pico"] or 0
    assert found == wanted
    assert costs == amounts


def test_a_call_that_becomes_known_is_counted_once(tmp_path: Path) -> None:
    """When it is learned how a lost call ended, its old sums go and the new ones come, also
    where it turns out to be another model's and another time's."""
    path = tmp_path / "l.db"
    ledger = open_ledger(path, "run", "ann")
    request = a_request()
    asyncio.run(ledger.hold(a_hold(request)))
    settle(ledger, an_outcome(request, CallTimeout("late"), cost=None))
    (cell,) = read(path, *ALL)
    assert (cell["doubtful"], cell["doubtful_pico"], cell["cost_pico"]) == (1, 12_300_000_000, 0)
    outcome = replace(an_outcome(request), started=NOW + 7200)
    settle(ledger, outcome)
    ledger.close()
    (cell,) = read(path, *ALL)
    assert cell["model"] == "gpt-5-mini-2026-05-01"
    assert (cell["calls"], cell["doubtful"], cell["cost_pico"]) == (1, 0, 210_000_000)


def test_latencies_are_those_of_answers(tmp_path: Path) -> None:
    """Every call that the provider answered, by kind and span; no other."""
    calls = [a_call(latency_ms=n, model=f"m{n % 3}", user=f"u{n % 2}") for n in range(50)]
    others = [a_hit(), a_failure(), lost(), a_call(cache="bypass", latency_ms=77)]
    early = a_call(latency_ms=5, started_ms=5)
    path = a_ledger(tmp_path / "l.db", *calls, *others, early)

    def work(reading: Reading) -> list[tuple[int, str, str]]:
        found = reading.latencies((0, 1000, 1 << 61), tags=True)
        return sorted((each.span, each.model, each.milliseconds) for each in found)

    found = _report(path, work)
    assert found[0] == (0, "gpt-5-mini", "5")
    text = ",".join(milliseconds for span, _, milliseconds in found if span == 1)
    assert sorted(map(int, text.split(","))) == sorted([*range(50), 77])


def test_a_report_sees_one_moment(tmp_path: Path) -> None:
    """What is written while a report is made is not in it."""
    path = a_ledger(tmp_path / "l.db", a_call())

    def work(reading: Reading) -> tuple[int, int]:
        before = sum(cell.sums["calls"] for cell in reading.cells(ALL, tags=False))
        a_ledger(path, a_call())
        return before, sum(cell.sums["calls"] for cell in reading.cells(ALL, tags=False))

    assert _report(path, work) == (1, 1)
    assert read(path, *ALL)[0]["calls"] == 2


def test_the_sum_of_a_fortune_is_exact(tmp_path: Path) -> None:
    """Costs that do not fit 64 bits together are added up to the last picodollar."""
    most = (1 << 63) - 1
    calls = [a_call(cost_pico=most, started_ms=START + n * HOUR) for n in range(5)]
    path = a_ledger(tmp_path / "l.db", *calls)
    assert read(path, START, START + 6 * HOUR)[0]["cost_pico"] == 5 * most


def test_runs_are_found(tmp_path: Path) -> None:
    """A run by its id, and the latest one."""
    path = a_ledger(tmp_path / "l.db", a_call(), a_call(run_id="run-2"), a_call(run_id="run-2"))

    def work(reading: Reading) -> Any:
        runs = [next(iter(reading.run_cells(r, tags=False))).sums for r in ("run-1", "run-2")]
        return [run["calls"] for run in runs], reading.last_run(), reading.has_run("x")

    assert _report(path, work) == ([1, 2], "run-2", False)


def test_recent_answers_of_a_model(tmp_path: Path) -> None:
    """The last answers under the model's own and its dated names; of this profile, and of calls
    that were made."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(output_tokens=1),
        a_call(output_tokens=2, model="gpt-5-mini-2026-05-01", user="bob"),
        a_call(output_tokens=3, model="gpt-5-minimal"),
        a_call(output_tokens=4, profile="slow"),
        a_hit(output_tokens=5),
    )
    with LedgerPeek(path) as peek:
        assert sorted(peek.recent("fast", "gpt-5-mini")) == [(1, 100), (2, 100)]
        assert peek.recent("nobody", "gpt-5-mini") == []


def test_a_peek_changes_nothing(tmp_path: Path) -> None:
    """Files that are missing are not made, damaged ones are as if missing, and no -wal stays."""
    with LedgerPeek(tmp_path / "none.db") as none:
        assert none.recent("fast", "m") == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.db").write_bytes(b"this is no database" * 100)
    with LedgerPeek(tmp_path / "bad.db") as bad:
        assert bad.recent("fast", "m") == []
    path = a_ledger(tmp_path / "l.db", a_call())
    before = path.read_bytes()
    with LedgerPeek(path) as peek:
        assert peek.recent("fast", "gpt-5-mini")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.db", "l.db"]


@given(
    price=st.decimals(0, 1000, places=6, allow_nan=False),
    tokens=st.integers(0, 2_000_000),
)
def test_no_published_price_is_rounded(price: Decimal, tokens: int) -> None:
    """Tokens at a price per million with up to six decimals come back to the last digit."""
    cost = price * tokens / 1_000_000
    assert from_pico(to_pico(cost)) == cost


def test_what_is_finer_than_a_picodollar_is_rounded_to_even() -> None:
    """Half a picodollar goes to the even neighbour, and unknown stays unknown."""
    assert to_pico(Decimal("0.0000000000025")) == 2
    assert to_pico(Decimal("0.0000000000035")) == 4
    assert to_pico(None) is None
    assert to_pico(Decimal(10) ** 12) == (1 << 63) - 1, "an absurd price does not break the ledger"
    assert from_pico(None) is None
