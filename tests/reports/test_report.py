"""Reports and checks over a small ledger whose figures can be told by hand."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.config.settings import Budget
from llmctl.errors import UsageError
from llmctl.reports.periods import moment, period_at, since
from llmctl.reports.report import Query, Report, check, make, parse_by, percentiles, project
from llmctl.storage.ledger import open_ledger
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

NOW = moment(datetime(2026, 11, 21, 12, tzinfo=UTC))
DAY = 86_400_000
BERLIN = ZoneInfo("Europe/Berlin")
DOLLAR = 10**12


def ask(
    path: Path, by: str = "model", *, ago: str = "30d", zone: Any = UTC, budgets: Any = ()
) -> Report:
    """The report of a ledger."""
    query = Query(since(ago, NOW, zone), parse_by([by]), zone, NOW)
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(lambda reading: make(reading, query, budgets))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Calls of three days, two models and two teams."""
    red, blue = '{"team":"red"}', '{"team":"blue"}'
    return a_ledger(
        tmp_path / "l.db",
        a_call(started_ms=NOW - 1000, tags=red, latency_ms=10),
        a_call(started_ms=NOW - DAY, tags=blue, model="gpt-5", cost_pico=3 * DOLLAR),
        a_hit(started_ms=NOW - DAY, tags=blue),
        a_failure(started_ms=NOW - 2 * DAY),
        lost(started_ms=NOW - 2 * DAY, cost_pico=DOLLAR // 2),
        a_call(started_ms=NOW - 40 * DAY, cost_pico=100 * DOLLAR),
        a_call(started_ms=NOW + DAY, cost_pico=100 * DOLLAR),
    )


def costs(report: Report) -> dict[tuple[str | None, ...], Decimal | None]:
    """The cost by group."""
    return {group.key: group.figures.cost for group in report.groups}


def test_groups(path: Path) -> None:
    """By each dimension, the dearest first; a tag that a call has not is a group of its own."""
    assert costs(ask(path)) == {("gpt-5",): 3, ("gpt-5-mini",): 1}
    assert list(costs(ask(path))) == [("gpt-5",), ("gpt-5-mini",)]
    assert costs(ask(path, "tag:team")) == {("blue",): 3, ("red",): 1, (None,): 0}
    assert costs(ask(path, "day,model")) == {
        ("2026-11-19", "gpt-5-mini"): 0,
        ("2026-11-20", "gpt-5"): 3,
        ("2026-11-20", "gpt-5-mini"): 0,
        ("2026-11-21", "gpt-5-mini"): 1,
    }
    for by in ("profile", "provider", "user"):
        assert list(costs(ask(path, by)).values()) == [4]


def test_the_month_so_far(path: Path) -> None:
    """It counts from the first of the month, whatever span is asked for; a future call counts
    there and nowhere else."""
    month = ask(path, ago="1h").month
    assert month.figures.cost == 104
    assert month.projected == (Decimal(104) * 30 / Decimal("20.5")).quantize(Decimal("0.000001"))


def test_a_projection_of_the_first_hours() -> None:
    """The first day counts as whole; what is not known has no projection."""
    month = period_at("month", NOW, UTC)
    assert project(Decimal(1), month, month.start + 1000) == 30
    assert project(Decimal(1), month, month.start + 15 * DAY) == 2
    assert project(Decimal(1), month, month.end) == 1
    assert project(None, month, NOW) is None


def test_unknown_prices_are_counted_and_named(tmp_path: Path) -> None:
    """Of some calls: the rest is the cost. Of all: the cost is unknown, never 0."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(started_ms=NOW - 1, cost_pico=None, model="new", profile="p"),
        a_call(started_ms=NOW - 1, cost_pico=None, model="new", profile="p"),
        a_hit(started_ms=NOW - 1, saved_pico=None, model="new", profile="p"),
        a_call(started_ms=NOW - 1),
        lost(started_ms=NOW - 1, cost_pico=None, model="lost"),
    )
    report = ask(path)
    assert costs(report) == {("gpt-5-mini",): 1, ("new",): None, ("lost",): 0}
    assert [report.total.cost, report.total.saved, report.total.doubt] == [1, None, None]
    assert [(u.model, u.calls) for u in report.unpriced] == [("lost", 1), ("new", 2)]


@given(st.lists(st.integers(0, 10_000), min_size=1), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_nearest_rank(values: list[int], share: int) -> None:
    """The smallest value that at least that share of all does not exceed."""
    (found,) = percentiles(Counter(map(str, values)), [share])
    ranked = sorted(values)
    assert found == ranked[max(0, -(-len(values) * share // 100) - 1)]
    assert percentiles(Counter(), [50]) == [None]


BUDGETS = (
    Budget("all", Decimal(104), "month", (Decimal("0.8"),)),
    Budget("blue", Decimal(3), "week", match={"tag:team": "blue"}),
    Budget("mini", Decimal(1), "day", match={"model": "gpt-5-mini", "profile": "fast"}),
    Budget("nothing", Decimal(0), "day", match={"user": "bob"}),
)


def test_budgets_count_what_matches(path: Path) -> None:
    """Each in its own period: what was charged and what may have been, to the cent."""
    states = {state.budget.name: state for state in ask(path, budgets=BUDGETS).budgets}
    assert {name: (s.used, s.state) for name, s in states.items()} == {
        "all": (Decimal("104.5"), "exceeded"),
        "blue": (3, "within"),
        "mini": (1, "within"),
        "nothing": (0, "within"),
    }
    (state,) = ask(path, budgets=[Budget("w", Decimal(110), "month", (Decimal("0.8"),))]).budgets
    assert (state.state, state.warned_at) == ("warning", Decimal("0.8"))


def test_a_check_is_the_reports_budget(path: Path) -> None:
    """The same figure by both ways, with groups that add up to it."""
    with closing(open_ledger(path, "", "")) as ledger:
        for budget in BUDGETS:
            span = period_at(budget.period, NOW, UTC)
            look = partial(check, budget=budget, span=span, by=("day", "model"), zone=UTC)
            checked = ledger.report(look)
            state, groups = checked.state, checked.groups
            (wanted,) = ask(path, budgets=[budget]).budgets
            assert (state.used, state.state) == (wanted.used, wanted.state)
            assert sum(group.figures.conservative for group in groups) == state.used


@pytest.mark.parametrize("by", ["", "weekday", "tag:", "model,,day", "status"])
def test_unknown_dimensions(by: str) -> None:
    """They are named, with those there are."""
    with pytest.raises(UsageError, match="tag:NAME"):
        parse_by([by])
