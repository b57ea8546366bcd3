"""Prometheus metrics over ledgers whose figures can be told by hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmctl.protocols import ProcessStatus
from llmctl.reports import metrics
from llmctl.reports.metrics import LedgerCollector, Snapshot, history, snapshot, text
from llmctl.reports.report import Figures
from llmctl.reports.targets import targeted
from llmctl.storage.ledger import open_ledger, read_ledger
from llmctl.storage.ledger_queries import HOUR
from tests.conformance.calls import a_hold, a_request, an_outcome
from tests.conformance.ledger_budgets import settle
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost
from tests.prometheus import check, samples
from tests.storage.damage import sql
from tests.support import done

NOW = 1_795_000_000_000
DOLLAR = 10**12
HOSTILE = 'gpt"5\\\n{evil="1"} 9\n# TYPE llmctl_calls gauge\n' + "\u2028é\x00\x1b[31m"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Calls of every outcome, an hour and more ago."""
    return a_ledger(
        tmp_path / "ledger.db",
        a_call(started_ms=NOW - 1000, latency_ms=2000, attempts=3, rate_limits=1),
        a_call(started_ms=NOW - 2000, latency_ms=1000, first_token_ms=300, cached_tokens=20),
        a_call(started_ms=NOW - 2 * HOUR, latency_ms=9000, model="gpt-5", cost_pico=None),
        a_call(started_ms=NOW - 3, job="batch", saved_pico=DOLLAR // 2, latency_ms=None),
        a_hit(started_ms=NOW - 3),
        a_failure(started_ms=NOW - 4, error_type="timeout"),
        a_failure(started_ms=NOW - 4, error_type="timeout", profile="slow"),
        a_failure(started_ms=NOW - 5, error_type="budget", attempts=0),
        lost(started_ms=NOW - 9, cost_pico=DOLLAR // 4),
        lost(started_ms=NOW - 9, cost_pico=DOLLAR // 4, error_type="timeout"),
    )


def page(path: Path, now: int = NOW) -> bytes:
    """The page of a ledger, over an hour."""
    return text(read_ledger(path, lambda reading: snapshot(reading, now, 3600.0)))


def counters(page: bytes) -> dict[frozenset[str], float]:
    """The samples that must not fall."""
    found = samples(page).items()
    return {names: n for names, n in found if any(name.endswith("_total") for name in names)}


def named(found: Mapping[frozenset[str], float], *names: str) -> float:
    """The one sample of these names."""
    return found[frozenset(("llmctl_" + names[0], *names[1:]))]


MINI = ("fast", "openai", "gpt-5-mini")


def test_promtool_finds_no_fault(path: Path, tmp_path: Path) -> None:
    """Of a rich ledger, and of one that does not exist yet."""
    check(page(path))
    check(page(tmp_path / "none.db"))


def test_calls_by_how_they_ended(path: Path) -> None:
    """What was refused here is apart; what ended nobody knows how is in no outcome yet, and no
    error by type."""
    found = samples(page(path))
    for outcome, count in {"answered": 3, "cached": 1, "failed": 1, "refused": 1}.items():
        assert named(found, "calls_total", *MINI, outcome) == count
    assert named(found, "unknown_calls", *MINI) == 2
    assert named(found, "calls_total", "slow", "openai", "gpt-5-mini", "failed") == 1
    assert named(found, "errors_total", "timeout") == 2
    assert named(found, "errors_total", "unknown") == 0
    assert frozenset(("llmctl_errors_total", "budget")) not in found


def test_tokens_and_money(path: Path) -> None:
    """By model, with what was saved by the cache and by batches, and what is in doubt."""
    found = samples(page(path))
    assert named(found, "tokens_total", *MINI, "input") == 500
    assert named(found, "tokens_total", *MINI, "cached_input") == 20
    assert named(found, "cost_usd_total", *MINI) == 3
    assert named(found, "doubtful_cost_usd", *MINI) == 0.5
    assert named(found, "saved_usd_total", *MINI, "cache") == 1
    assert named(found, "saved_usd_total", *MINI, "batch") == 0.5
    assert named(found, "retries_total", *MINI) == 2
    assert named(found, "rate_limit_hits_total", *MINI) == 1
    assert named(found, "unpriced_calls_total", "fast", "openai", "gpt-5") == 1


def test_percentiles_of_the_window(path: Path) -> None:
    """Of the calls that began in it, in seconds; of older ones there are none."""
    found = samples(page(path))
    assert named(found, "latency_seconds", *MINI, "0.5") == 1
    assert named(found, "latency_seconds", *MINI, "0.95") == 2
    assert named(found, "first_token_seconds", *MINI, "0.99") == 0.3
    assert not [names for names in found if {"llmctl_latency_seconds", "gpt-5"} <= names]


def test_what_goes_on(path: Path) -> None:
    """Calls under way and circuits, also where there are none of a profile."""
    with closing(open_ledger(path, "run", "ann")) as ledger:
        done(ledger.hold, a_hold(a_request()))
        done(ledger.beat, ProcessStatus(7, {"openai/fast": "open"}))
        found = samples(page(path, now=2_000_000_000_000))
    assert named(found, "calls_in_flight", "fast", "openai") == 1
    assert named(found, "calls_in_flight", "slow", "openai") == 0
    assert named(found, "queue_depth") == 7
    assert named(found, "circuits", "fast", "openai", "open") == 1
    assert named(found, "circuits", "fast", "openai", "half-open") == 0
    assert named(found, "circuits", "slow", "openai", "open") == 0


def test_counters_never_fall(tmp_path: Path) -> None:
    """Prometheus takes a counter that falls for one that began again: not when a call that was
    thought lost has an answer after all, nor when a person says what lost ones cost."""
    path = a_ledger(tmp_path / "ledger.db", lost(started_ms=NOW))
    asked = a_request()
    pages = [page(path)]
    with closing(open_ledger(path, "run-1", "ann")) as alive:
        done(alive.hold, a_hold(asked, Decimal(2)))
        sql(path, "UPDATE holds SET birth = 'long ago'")
        pages.append(page(path))  # it is lost now, too
        settle(alive, an_outcome(asked, cost=Decimal(1)))
        pages.append(page(path))
        alive.release(Decimal("0.25"))
        pages.append(page(path))
    found = [counters(each) for each in pages]
    for before, after in pairwise(found):
        assert {
            name: after.get(name, 0) for name in before if after.get(name, 0) < before[name]
        } == {}
    assert sum(n for names, n in found[-1].items() if "answered" in names) == 1
    assert named(found[-1], "cost_usd_total", *MINI) == 0.25


def test_hostile_names_stay_labels(tmp_path: Path) -> None:
    """Names of models that break lines, quotes and braces arrive as they are, and make no metric;
    `promtool` finds no fault."""
    calls = a_call(started_ms=NOW, model=HOSTILE), a_failure(started_ms=NOW, error_type=HOSTILE)
    path = a_ledger(tmp_path / "l.db", *calls)
    made = page(path)
    check(made)
    families = {family.name: family for family in text_string_to_metric_families(made.decode())}
    assert {sample.labels["model"] for sample in families["llmctl_calls"].samples} >= {HOSTILE}
    assert families["llmctl_calls"].type == "counter"
    assert [sample.labels["type"] for sample in families["llmctl_errors"].samples] == [HOSTILE]


def test_made_up_names_make_no_series_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models beyond the first so many are one, `other`; the first keep their series."""
    monkeypatch.setattr(metrics, "MOST_MODELS", 2)
    path = tmp_path / "l.db"
    a_ledger(path, a_call(started_ms=NOW - HOUR, model="z"), a_call(started_ms=NOW, model="b"))
    a_ledger(path, *(a_call(started_ms=NOW + HOUR, model=f"a{n}") for n in range(9)))
    found = samples(page(path, NOW + HOUR))
    answered = {
        model: named(found, "calls_total", "fast", "openai", model, "answered")
        for model in ("z", "b", "other")
    }
    assert answered == {"z": 1, "b": 1, "other": 9}
    assert named(found, "latency_seconds", "fast", "openai", "other", "0.5") == 0.1


def test_the_past_may_be_read_before(path: Path) -> None:
    """Sums of hours before some moment, and those since, are the same page; a model that came in
    between waits for its turn."""
    for hours in (-1, 0, 1):
        end = NOW // HOUR + hours

        def parts(reading: Any, end: int = end) -> bytes:
            return text(snapshot(reading, NOW, 3600.0, history(reading, end=end)))

        assert samples(read_ledger(path, parts)) == samples(page(path))
    past = read_ledger(path, lambda reading: history(reading, end=NOW // HOUR + 1))
    a_ledger(path, a_call(started_ms=NOW, model="new"))
    made = text(read_ledger(path, lambda reading: snapshot(reading, NOW, 3600.0, past)))
    assert b'"new"' not in made


def test_the_ledger_is_read_once_a_second() -> None:
    """A second scrape within a second is answered from the first one's figures."""
    asked: list[int] = []

    def read() -> Snapshot | None:
        asked.append(1)
        return None

    collector = LedgerCollector(read)
    for _ in range(5):
        assert list(collector.collect()) == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, {"error_rate": True, "cache_hit_rate": True, "rate_limit_hit_rate": True}),
        ({"errors": 1}, {"error_rate": False}),  # one in a thousand is not below it
        ({"kept": 400}, {"cache_hit_rate": False}),
        ({"rate_limits": 3, "retries": 1}, {"rate_limit_hit_rate": True}),  # 3 of 301 requests
        ({"rate_limits": 3, "kept": 700}, {"rate_limit_hit_rate": False}),
        ({"refused": 1000}, {"error_rate": None, "cache_hit_rate": None}),
    ],
)  # fmt: skip
def test_healthy_targets(changes: dict[str, int], met: dict[str, bool | None]) -> None:
    """Each is met strictly on its side; calls that were refused here count nowhere, and what there
    is nothing to count of is neither met nor missed."""
    figures = Figures(calls=1000, kept=700)
    for name, value in changes.items():
        setattr(figures, name, value)
    found = {one.name: one.met for one in targeted(figures)}
    assert {name: found.get(name) for name in met} == met


@pytest.mark.parametrize(("slowest", "met"), [(2999, True), (3000, False)])
def test_the_target_of_latency(slowest: int, met: bool) -> None:  # noqa: FBT001
    """p95 below three seconds."""
    figures = Figures(calls=1)
    figures.latencies.update([str(slowest)])
    assert {one.name: one.met for one in targeted(figures)}["latency_p95_ms"] is met
