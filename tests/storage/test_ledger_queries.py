"""What reports read: sums of hours agree with the calls, latencies come complete."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Collection
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
from llmctl.storage.ledger_queries import (
    HOUR,
    KIND,
    SUMS,
    Latencies,
    LedgerPeek,
    Reading,
    kind_names,
)
from llmctl.storage.ledger_rows import from_pico, to_pico
from tests.conformance.calls import NOW, a_hold, a_request, an_outcome
from tests.conformance.ledger_budgets import settle
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

START = 1_795_000_000_000 // HOUR * HOUR
ALL = (0, 1 << 61)


def read(path: Path, *edges: int, by: Collection[str] = KIND[:-1]) -> list[dict[str, Any]]:
    """The cells between the edges, as one mapping each."""

    def work(reading: Reading) -> list[dict[str, Any]]:
        return [
            {"span": c.span, "model": c.model, "tags": c.tags, **c.sums}
            for c in reading.cells(edges, by)
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
        "batch_saved_pico": 0,
        "routed_saved_pico": 0,
        "provider_saved_pico": 0,
    }


def test_what_batches_save_is_not_what_the_cache_saved(tmp_path: Path) -> None:
    """Each is a sum of its own."""
    path = a_ledger(tmp_path / "l.db", a_hit(saved_pico=3), a_call(saved_pico=5, job="batch"))
    (cell,) = read(path, *ALL)
    assert (cell["saved_pico"], cell["batch_saved_pico"]) == (3, 5)


def test_what_routes_saved_may_be_below_nothing(tmp_path: Path) -> None:
    """A loss in one call counts against what others saved, in the hours as in single calls."""
    calls = [a_call(routed_saved_pico=pico) for pico in (5, -(10**13), None)]
    path = a_ledger(tmp_path / "l.db", *calls)
    (cell,) = read(path, *ALL)
    assert cell["routed_saved_pico"] == 5 - 10**13


def test_what_prompt_caches_saved_may_be_a_loss(tmp_path: Path) -> None:
    """Losses are taken off, and what is not known counts nothing."""
    saved = (5, -7, None)
    path = a_ledger(tmp_path / "l.db", *(a_call(provider_saved_pico=pico) for pico in saved))
    (cell,) = read(path, *ALL)
    assert cell["provider_saved_pico"] == -2


def test_what_was_masked_is_counted_by_kind(tmp_path: Path) -> None:
    """Over the calls of the span, the most frequent first."""
    said = '{"email":2,"iban":1}'
    path = a_ledger(
        tmp_path / "l.db",
        a_call(started_ms=START - 1, masked=said),
        *(a_call(started_ms=START + at, masked=said) for at in range(3)),
        a_call(started_ms=START, masked='{"iban":9}'),
        a_call(started_ms=START),
    )
    found = _report(path, lambda reading: reading.masked(START, START + HOUR))
    assert list(found.items()) == [("iban", 12), ("email", 6)]


def test_first_tokens_are_those_of_streamed_answers(tmp_path: Path) -> None:
    """As latencies: of what the provider answered, by kind and span."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(first_token_ms=30),
        a_call(first_token_ms=20, model="other"),
        a_call(),
        a_hit(first_token_ms=1),
        a_failure(first_token_ms=2),
        a_call(started_ms=START - 1, first_token_ms=3),
    )
    found = _report(path, lambda r: [*r.first_tokens((START, START + HOUR), ["model"])])
    assert [(one.model, one.times) for one in found] == [
        ("gpt-5-mini", {"30": 1}), ("other", {"20": 1})
    ]  # fmt: skip


def singles(path: Path, **asked: Any) -> list[str]:
    """The models of the single calls of all times."""
    found = _report(path, lambda reading: reading.single_calls(*ALL, **asked))
    return [call.model for call in found]


def test_single_calls_in_their_order(tmp_path: Path) -> None:
    """The newest first, else the slowest answers or the dearest calls; of failed calls the
    slowest are those that took longest. Other spans' calls are not among them."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(model="a", started_ms=START, latency_ms=7, cost_pico=1),
        a_call(model="b", started_ms=START + 1, latency_ms=9, cost_pico=None, uncertain_pico=3),
        a_failure(model="c", started_ms=START + 2, elapsed_ms=70),
        lost(model="d", started_ms=START + 2, cost_pico=2, elapsed_ms=None),
        a_failure(model="e", started_ms=START + 3, elapsed_ms=80),
    )
    assert singles(path) == ["e", "d", "c", "b", "a"]
    assert singles(path, limit=2) == ["e", "d"]
    assert singles(path, order="slowest") == ["b", "a"]
    assert singles(path, order="dearest", limit=3) == ["b", "d", "a"]
    assert singles(path, failed=True) == ["e", "d", "c"]
    assert singles(path, failed=True, order="slowest") == ["e", "c", "d"]
    of_a_span = _report(path, lambda reading: reading.single_calls(START, START + 1))
    assert [call.model for call in of_a_span] == ["a"]
    assert of_a_span[0].latency_ms == 7


def test_single_calls_of_a_kind(tmp_path: Path) -> None:
    """By profile, provider, model and its dated versions, user and tags, together; tags that are
    no JSON are none."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(model="gpt-5-2026-01-01", user="ann", tags='{"team":"x","a.b":"\'\\""}'),
        a_call(model="gpt-5", user="bob"),
        a_call(model="gpt-5-mini", user="ann", tags="no JSON", profile="slow", provider="groq"),
    )
    assert len(singles(path, match={"model": "gpt-5"})) == 2
    assert singles(path, match={"model": "gpt-5", "user": "bob"}) == ["gpt-5"]
    assert singles(path, match={"profile": "slow", "provider": "groq"}) == ["gpt-5-mini"]
    assert singles(path, match={"tag:team": "x", "tag:a.b": "'\""}) == ["gpt-5-2026-01-01"]
    assert singles(path, match={"tag:team": "y"}) == []
    assert singles(path, match={"model": "none"}) == []


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
        for cell in read(path, *edges, by=["model", "tags"]):
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

    def work(reading: Reading) -> list[Latencies]:
        return [*reading.latencies((0, 1000, 1 << 61), KIND)]

    first, *later = sorted(_report(path, work), key=lambda each: each.span)
    assert (first.span, first.model, first.times) == (0, "gpt-5-mini", {"5": 1})
    times = sum((each.times for each in later), Counter[str]())
    assert sorted(map(int, times.elements())) == sorted([*range(50), 77])


@given(
    st.lists(
        st.builds(
            lambda made, moment, latency, **kind: made(
                started_ms=moment, latency_ms=latency, asked_model=kind["model"], **kind
            ),
            st.sampled_from([a_call, a_call, a_hit]),
            moments,
            st.integers(1, 9),
            profile=st.sampled_from(["fast", "slow"]),
            model=st.sampled_from(["a", "b"]),
            user=st.sampled_from(["ann", "7", ""]),
            tags=st.sampled_from(["{}", '{"team":"x"}']),
        ),
        max_size=25,
    ),
    st.sets(st.sampled_from(KIND)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_calls_are_told_apart_by_what_was_asked_for(
    made: list[dict[str, Any]], by: set[str]
) -> None:
    """Sums and latencies are those of the calls that are alike in it, and name nothing else."""
    edges = START - 3 * HOUR, START + HOUR // 2, START + 3 * HOUR + 1
    sums, wanted, times, answers = (Counter[tuple[Any, ...]]() for _ in range(4))
    with tempfile.TemporaryDirectory() as folder:
        path = a_ledger(Path(folder) / "l.db", *made)
        cells = _report(path, lambda r: [*r.cells(edges, by)])
        found = _report(path, lambda r: [*r.latencies(edges, by)])
    for cell in cells:
        sums[cell.span, *(getattr(cell, name) for name in KIND)] += cell.sums["calls"]
    for one in found:
        for value, number in one.times.items():
            times[one.span, *(getattr(one, name) for name in KIND), value] += number
    for call in made:
        span = int(call["started_ms"] >= edges[1])
        kind = [call[name] if name in by else "" for name in KIND]
        wanted[span, *kind] += 1
        kind[KIND.index("asked_model")] = ""
        answers[span, *kind, str(call["latency_ms"])] += call["cache"] != "hit"
    assert sums == wanted
    assert times == +answers


def test_latencies_by_user_and_by_tags(tmp_path: Path) -> None:
    """Also of a user who has called with several tags."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(latency_ms=1, user="ann", tags='{"team":"x"}'),
        a_call(latency_ms=2, user="ann", tags='{"team":"y"}'),
        a_call(latency_ms=3, user="bob", tags='{"team":"y"}'),
    )

    def found(by: str) -> dict[str, set[str]]:
        times: dict[str, set[str]] = {}
        for one in _report(path, lambda r: [*r.latencies(ALL, [by])]):
            times.setdefault(getattr(one, by), set()).update(one.times)
        return times

    assert found("user") == {"ann": {"1", "2"}, "bob": {"3"}}
    assert found("tags") == {'{"team":"x"}': {"1"}, '{"team":"y"}': {"2", "3"}}


def test_names_that_tell_calls_apart() -> None:
    """Tags are one column; a model is matched by the name that was asked for, too."""
    assert kind_names(["day", "run", "tag:team", "tag:x", "user"]) == {"tags", "user"}
    assert kind_names(["model"]) == {"model", "asked_model"}


def test_a_report_sees_one_moment(tmp_path: Path) -> None:
    """What is written while a report is made is not in it."""
    path = a_ledger(tmp_path / "l.db", a_call())

    def work(reading: Reading) -> tuple[int, int]:
        before = sum(cell.sums["calls"] for cell in reading.cells(ALL, ()))
        a_ledger(path, a_call())
        return before, sum(cell.sums["calls"] for cell in reading.cells(ALL, ()))

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
        runs = [next(iter(reading.run_cells(r, ()))).sums for r in ("run-1", "run-2")]
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
