"""Figures of alerts: what each is, taken of the calls of its span and of no others."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.alerts.figures import measure
from llmctl.alerts.rules import Measured
from llmctl.config.alerts import BUILT_IN
from llmctl.config.settings import AlertRule, Budget
from llmctl.protocols import ProcessStatus
from llmctl.storage.ledger import empty_reading, open_ledger
from tests.ledgers import a_call, a_failure, a_hit, a_ledger

NOW = 1_795_003_500  # 18 November 2026, 12:05 UTC
MINUTE, HOUR, DAY = 60, 3600, 86400


def ago(seconds: float) -> int:
    """A moment so long ago, in milliseconds since the epoch."""
    return round((NOW - seconds) * 1000)


def look(path: Path, rule: AlertRule, *budgets: Budget, uncached: tuple[str, ...] = ()) -> Measured:
    """The rule's figure."""
    with closing(open_ledger(path, "", "")) as ledger:
        work = ledger.report(lambda reading: measure(reading, [rule], budgets, uncached, NOW))
        return work[rule.name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger will be."""
    return tmp_path / "ledger.db"


def rule(figure: Any, over: float = 5 * MINUTE, **more: Any) -> AlertRule:
    """A rule that fires for whatever its figure is."""
    return AlertRule("mine", figure, above=0.0, over=over, min_calls=1, **more)


def test_an_empty_ledger_fires_nothing() -> None:
    """Where no call was ever made, every figure is nothing, or none."""
    with empty_reading() as reading:
        found = measure(reading, BUILT_IN.values(), (), (), NOW)
    assert found.keys() == BUILT_IN.keys()
    assert not any(one.value for one in found.values())


def test_errors_and_what_they_are(path: Path) -> None:
    """The share of the sent calls of the span that failed; what was refused here, or given up by
    the user, is no error. The sentence says what failed, and where."""
    a_ledger(
        path,
        *(a_call(started_ms=ago(60)) for _ in range(5)),
        a_call(started_ms=ago(60), status="cancelled"),
        *(a_failure(started_ms=ago(30), error_type="server") for _ in range(3)),
        a_failure(started_ms=ago(299), error_type="timeout", profile="slow", model="big"),
        a_failure(started_ms=ago(301), error_type="auth"),
        a_failure(started_ms=ago(30), error_type="budget", attempts=0),
    )
    found = look(path, rule("error_rate"))
    assert (found.value, found.calls) == (0.4, 10)
    assert found.detail == (
        "4 of 10 calls failed: 3 server, 1 timeout; 3 at fast/gpt-5-mini, 1 at slow/big"
    )
    assert look(path, rule("errors")).value == 4
    assert look(path, rule("errors", profile="slow")).value == 1
    assert look(path, rule("error_rate", profile="slow")).value == 1.0
    assert look(path, rule("calls")).value == 10
    assert look(path, rule("auth_errors")).value == 0
    assert look(path, rule("auth_errors", over=10 * MINUTE)).value == 1
    assert look(path, rule("auth_errors", over=10 * MINUTE, profile="slow")).value == 0
    assert look(path, rule("auth_errors", over=10 * MINUTE, profile="fast")).value == 1


@pytest.mark.parametrize("over", [90 * MINUTE, 26 * HOUR])
def test_spans_of_whole_hours(path: Path, over: float) -> None:
    """A span that has whole hours, which the ledger has added up, counts every call once."""
    steps = range(0, round(27 * HOUR), 7 * MINUTE)
    a_ledger(path, *(a_call(started_ms=ago(step)) for step in steps))
    assert look(path, rule("calls", over=over)).value == len([s for s in steps if s <= over])


def test_latencies_in_seconds(path: Path) -> None:
    """Nearest-rank percentiles of what the provider answered in the span."""
    a_ledger(
        path,
        *(a_call(started_ms=ago(10), latency_ms=ms) for ms in range(100, 2100, 100)),
        a_call(started_ms=ago(400), latency_ms=90_000),
        a_hit(started_ms=ago(10)),
        a_failure(started_ms=ago(10), error_type="timeout"),
    )
    assert look(path, rule("p95")) == Measured(1.9, 20, "20 answers")
    assert look(path, rule("p50")).value == 1.0
    assert look(path, rule("p99", over=10 * MINUTE)).value == 90.0
    assert look(path, rule("p95", profile="slow")) == Measured(None, 0, "0 answers")


def test_limits_retries_and_cost(path: Path) -> None:
    """Hits of the rate limit, attempts beyond the first, dollars that were or may have been
    charged."""
    a_ledger(
        path,
        a_call(started_ms=ago(60), attempts=3, rate_limits=2),
        a_call(started_ms=ago(60), attempts=1),
        a_call(started_ms=ago(2 * HOUR), attempts=9, rate_limits=9),
        a_call(
            started_ms=ago(60), status="unknown", cost_pico=5 * 10**11, cache=None, attempts=None
        ),
    )
    assert look(path, rule("rate_limits", over=HOUR)).value == 2
    assert look(path, rule("retries")).value == 2
    assert look(path, rule("cost")).value == 2.5


def test_the_hit_rate_is_of_those_who_asked(path: Path) -> None:
    """Calls past the cache, and profiles that keep no answers, are no misses."""
    a_ledger(
        path,
        *(a_hit(started_ms=ago(60)) for _ in range(3)),
        a_call(started_ms=ago(60)),
        a_call(started_ms=ago(60), cache="bypass"),
        *(a_call(started_ms=ago(60), profile="nocache") for _ in range(9)),
    )
    found = look(path, rule("hit_rate"), uncached=("nocache",))
    assert found == Measured(0.75, 4, "3 of 4 calls were answered by the cache")
    assert look(path, rule("hit_rate", profile="nocache"), uncached=("nocache",)).value is None


def test_traffic_against_the_same_time_of_other_days(path: Path) -> None:
    """The usual is the mean of those of the last seven days that had calls at that time; the rest
    of a day, and what is older, says nothing."""

    def calls(count: int, before: float) -> list[dict[str, Any]]:
        return [a_call(started_ms=ago(before)) for _ in range(count)]

    a_ledger(path, *calls(60, 30 * MINUTE), *calls(90, DAY + 12 * HOUR))
    assert look(path, rule("traffic", over=HOUR)).value is None
    # 55 of the 60 minutes of that hour are within the span.
    a_ledger(path, *calls(10, DAY + 30 * MINUTE), *calls(30, 3 * DAY + 30 * MINUTE))
    a_ledger(path, *calls(500, 8 * DAY + 30 * MINUTE))
    found = look(path, rule("traffic", over=HOUR))
    assert found.value == pytest.approx(60 / (20 * 55 / 60), rel=1e-4)
    assert found.detail == "60 calls instead of 18"
    assert look(path, rule("traffic", over=HOUR, profile="other")).value is None


def test_circuits_that_are_not_closed(path: Path) -> None:
    """By profile: rows wait for a provider that is down, so that no call tells of it."""
    now = round(time.time() * 1000)
    with closing(open_ledger(path, "", "")) as ledger:
        asyncio.run(
            ledger.beat(ProcessStatus(7, {"openai/fast": "open", "groq/other": "half-open"}))
        )
        rules = [rule("circuits"), replace(rule("circuits", profile="fast"), name="fast")]
        found = ledger.report(lambda reading: measure(reading, rules, (), (), now))
        assert found["mine"] == Measured(2, 0, "groq/other, openai/fast")
        assert found["fast"] == Measured(1, 0, "openai/fast")
        asyncio.run(ledger.beat(ProcessStatus(0, {})))
        found = ledger.report(lambda reading: measure(reading, rules, (), (), now))
        assert found["mine"].value == 0


def test_budgets_and_days(path: Path) -> None:
    """A budget's share is of its period; the day's spend is held against budgets of a day, or where
    there are none a day of longer ones. The one that is used most counts, unless the rule names
    one."""
    month = Budget("month", Decimal(300), "month")  # of 30 days: $10 a day
    day = Budget("day", Decimal(20), "day", match={"profile": "fast"})
    a_ledger(
        path,
        *(a_call(started_ms=ago(60)) for _ in range(12)),
        *(a_call(started_ms=ago(3 * DAY)) for _ in range(18)),
        *(a_call(started_ms=ago(60), profile="other") for _ in range(3)),
    )
    found = look(path, rule("daily_spend"), month)
    assert found == Measured(1.5, 0, "budget month: $15.00 of $10.00")
    assert look(path, rule("daily_spend"), month, day).value == 0.6
    assert look(path, rule("daily_spend", budget="month"), month, day).value == 1.5
    assert look(path, rule("budget"), month, day).value == 0.6
    found = look(path, rule("budget", budget="month"), month, day)
    assert found == Measured(0.11, 0, "budget month: $33.00 of $300.00")
    nothing = Budget("none", Decimal(0), "day")
    assert look(path, rule("budget"), nothing).value is None
