"""Figures of a span beside their healthy targets; pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

from msgspec import Struct

from llmctl.reports.report import Figures, Report, percentiles
from llmctl.storage.ledger_queries import Activity

PERCENTILES = (50, 95, 99)
Unit = Literal["ms", "share", "change", "usd", "count"]


class Target(Struct, frozen=True):
    """Where a figure is healthy: on this side of the limit, which is in the figure's unit."""

    side: Literal["below", "above"]
    limit: float


TARGETS = {
    "latency_p95_ms": Target("below", 3000),
    "error_rate": Target("below", 0.001),
    "cache_hit_rate": Target("above", 0.4),
    "rate_limit_hit_rate": Target("below", 0.01),
}
"""The healthy targets, by figure: rates are shares of all calls that were not refused here, that of
rate-limit hits of the requests to providers."""


class Figure(Struct, frozen=True):
    """A figure by name; its value is None where there is nothing to count it of."""

    name: str
    unit: Unit
    value: float | Decimal | None

    @property
    def target(self) -> Target | None:
        """Where it is healthy; None where nobody can say that of all."""
        return TARGETS.get(self.name)

    @property
    def met(self) -> bool | None:
        """Whether it is healthy; None where that cannot be said."""
        if self.target is None or self.value is None:
            return None
        if self.target.side == "below":
            return self.value < self.target.limit
        return self.value > self.target.limit


def targeted(total: Figures) -> list[Figure]:
    """The figures that have a target and a value."""
    found = [
        Figure("latency_p95_ms", "ms", percentiles(total.latencies, [95])[0]),
        Figure("error_rate", "share", total.error_rate),
        Figure("cache_hit_rate", "share", total.hit_rate),
        Figure("rate_limit_hit_rate", "share", total.rate_limit_rate),
    ]
    return [figure for figure in found if figure.value is not None]


def figures(report: Report, activity: Activity) -> Iterator[Figure]:
    """Everything that is watched: sums of the report's span, and what goes on now."""
    total = report.total
    yield Figure("calls", "count", total.calls)
    yield Figure("refused_calls", "count", total.refused)
    yield Figure("error_rate", "share", total.error_rate)
    yield Figure("cache_hit_rate", "share", total.hit_rate)
    yield Figure("rate_limit_hit_rate", "share", total.rate_limit_rate)
    yield Figure("retries", "count", total.retries)
    for what, times in (("latency", total.latencies), ("first_token", total.first_tokens)):
        for share, value in zip(PERCENTILES, percentiles(times, PERCENTILES), strict=True):
            yield Figure(f"{what}_p{share}_ms", "ms", value)
    yield Figure("input_tokens", "count", total.input_tokens)
    yield Figure("output_tokens", "count", total.output_tokens)
    yield Figure("token_trend", "change", report.token_trend)
    yield Figure("cost_usd", "usd", total.cost)
    yield Figure("mean_cost_usd", "usd", total.mean_cost)
    yield Figure("may_have_been_billed_usd", "usd", total.doubt)
    yield Figure("calls_in_flight", "count", sum(activity.in_flight.values()))
    yield Figure("rows_in_batches", "count", sum(activity.in_batches.values()))
    yield Figure("queue_depth", "count", activity.waiting)
    yield Figure("circuits_not_closed", "count", sum(activity.circuits.values()))
