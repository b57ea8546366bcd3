"""Figures of alerts, read from the ledger as it is at one moment.

Spans end now. Rules share what is read: a check of all built-in rules reads the calls of the last
hour once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC
from decimal import Decimal

from llmctl.alerts.rules import Measured, crossed
from llmctl.config.settings import AlertRule, Budget, Figure, Period
from llmctl.reports.periods import Span, period_at
from llmctl.reports.report import Figures, budget_window, percentiles
from llmctl.storage.ledger_queries import HOUR, Cell, Reading

_DAY = 24 * HOUR
_USUAL_DAYS = 7
_PERCENTILES: Mapping[Figure, int] = {"p50": 50, "p95": 95, "p99": 99}
_NAMED = 3  # kinds of errors, and models, that a sentence names


def measure(
    ledger: Reading,
    rules: Iterable[AlertRule],
    budgets: Collection[Budget],
    uncached: Collection[str],
    now: float,
) -> dict[str, Measured]:
    """What each rule's figure is at the moment (seconds since the epoch), by the rule's name.
    `uncached`: profiles that keep no answers, and have no hit rate."""
    found = _Look(ledger, [*rules], budgets, uncached, round(now * 1000) + 1)
    return {rule.name: found.measured(rule) for rule in found.rules}


class _Look:
    """One look at the ledger; `now` in milliseconds."""

    def __init__(
        self,
        ledger: Reading,
        rules: Sequence[AlertRule],
        budgets: Collection[Budget],
        uncached: Collection[str],
        now: int,
    ) -> None:
        self._ledger, self.rules, self._now = ledger, rules, now
        self._budgets, self._uncached = budgets, uncached
        summed = [r for r in rules if r.figure in _SUMMED]
        timed = [r for r in rules if r.figure in _PERCENTILES]
        # The longest span first: edges ascend, and a span is all that begins at its edge or later.
        edges = self._edges(summed)
        self._cells: list[tuple[int, Cell]] = [
            (edges[cell.span], cell) for cell in ledger.cells(edges, ("profile", "model"))
        ]
        edges = self._edges(timed)
        self._latencies = [
            (edges[found.span], found) for found in ledger.latencies(edges, ("profile",))
        ]

    def _edges(self, rules: Sequence[AlertRule]) -> list[int]:
        return [*sorted({self._start(rule) for rule in rules}), self._now]

    def _start(self, rule: AlertRule) -> int:
        return self._now - round(rule.over * 1000)

    def measured(self, rule: AlertRule) -> Measured:
        """The rule's figure."""
        if rule.figure in _PERCENTILES:
            return self._latency(rule)
        if rule.figure in _SUMMED:
            return self._sum(rule)
        other: dict[str, Callable[[AlertRule], Measured]] = {
            "auth_errors": self._auth_errors,
            "hit_rate": self._hit_rate,
            "circuits": self._circuits,
            "budget": self._budget,
            "daily_spend": self._daily_spend,
        }
        return other[rule.figure](rule)

    def _of(self, rule: AlertRule) -> list[Cell]:
        """The cells that the rule counts."""
        return [
            cell
            for start, cell in self._cells
            if start >= self._start(rule) and rule.profile in (None, cell.profile)
        ]

    def _sum(self, rule: AlertRule) -> Measured:
        cells, figures = self._of(rule), Figures()
        for cell in cells:
            figures.add(cell.sums)
        sent = figures.calls - figures.refused
        if rule.figure == "error_rate":
            found = Measured(figures.error_rate, sent)
            return self._explained(rule, found, figures) if crossed(rule, found) else found
        if rule.figure == "traffic":
            usual = self._usual(rule)
            value = sent / usual if usual else None
            return Measured(value, sent, f"{sent:,} calls instead of {usual or 0:,.0f}")
        values: dict[str, float] = {
            "calls": sent,
            "errors": figures.errors,
            "rate_limits": figures.rate_limits,
            "retries": figures.retries,
            "cost": float(figures.conservative),
        }
        found = Measured(values[rule.figure], sent)
        named = rule.figure == "errors" and crossed(rule, found)
        return self._explained(rule, found, figures) if named else found

    def _explained(self, rule: AlertRule, found: Measured, figures: Figures) -> Measured:
        """With what failed, and where most of it did."""
        types = self._ledger.error_types(self._start(rule), self._now, rule.profile)
        what = [f"{n:,} {kind}" for kind, n in [*types.items()][:_NAMED]]
        models = Counter[str]()
        for cell in self._of(rule):
            models[f"{cell.profile}/{cell.model}"] += cell.sums["errors"]
        where = [f"{n:,} at {name}" for name, n in models.most_common(_NAMED) if n]
        detail = f"{figures.errors:,} of {found.calls:,} calls failed"
        more = f"{', '.join(what)}; {', '.join(where)}"
        return Measured(found.value, found.calls, f"{detail}: {more}")

    def _latency(self, rule: AlertRule) -> Measured:
        counts = Counter[str]()
        for start, found in self._latencies:
            if start >= self._start(rule) and rule.profile in (None, found.profile):
                counts.update(found.times)
        (value,) = percentiles(counts, [_PERCENTILES[rule.figure]])
        calls = counts.total()
        return Measured(None if value is None else value / 1000, calls, f"{calls:,} answers")

    def _auth_errors(self, rule: AlertRule) -> Measured:
        types = self._ledger.error_types(self._start(rule), self._now, rule.profile)
        return Measured(float(types.get("auth", 0)))

    def _hit_rate(self, rule: AlertRule) -> Measured:
        hits = asked = 0
        for profile, (kept, calls) in self._ledger.cache_hits(self._start(rule), self._now).items():
            if profile not in self._uncached and rule.profile in (None, profile):
                hits, asked = hits + kept, asked + calls
        detail = f"{hits:,} of {asked:,} calls were answered by the cache"
        return Measured(hits / asked if asked else None, asked, detail)

    def _usual(self, rule: AlertRule) -> float | None:
        """How many calls the span usually has: the mean of the same time of day on those of the
        last seven days that had any then; None where none had. By whole hours, of which it counts
        as much as the span covers: the ledger has them added up."""
        length, found = round(rule.over * 1000), list[float]()
        for day in range(1, _USUAL_DAYS + 1):
            end = self._now - day * _DAY
            start = end - length
            edges = [*range(start // HOUR * HOUR, end + HOUR, HOUR)]
            calls = 0.0
            for cell in self._ledger.cells(edges, ("profile", "model")):
                if rule.profile in (None, cell.profile):
                    first = edges[cell.span]
                    covered = min(end, first + HOUR) - max(start, first)
                    calls += (cell.sums["calls"] - cell.sums["refused"]) * max(0, covered) / HOUR
            if calls:
                found.append(calls)
        return sum(found) / len(found) if found else None

    def _circuits(self, rule: AlertRule) -> Measured:
        """Circuits that are not closed now, in whichever processes, by `provider/profile`."""
        lanes = sorted({lane for lane, _ in self._ledger.circuits(self._now)})
        mine = [one for one in lanes if rule.profile in (None, one.partition("/")[2])]
        return Measured(len(mine), 0, ", ".join(mine))

    def _budget(self, rule: AlertRule) -> Measured:
        """What is used of a budget in its period, calls under way at their worst case included."""
        return self._most_used(
            self._chosen(rule), lambda one: period_at(one.period, self._now, UTC), lambda _: 1
        )

    def _daily_spend(self, rule: AlertRule) -> Measured:
        """What is used today of a budget of a day, or without one of a day's part of a longer
        one."""
        chosen, today = self._chosen(rule), period_at("day", self._now, UTC)
        daily = [budget for budget in chosen if budget.period == "day"]
        return self._most_used(daily or chosen, lambda _: today, self._days)

    def _chosen(self, rule: AlertRule) -> list[Budget]:
        """The rule's budget, or all; but those of nothing."""
        return [one for one in self._budgets if one.limit and rule.budget in {None, one.name}]

    def _days(self, period: Period) -> int:
        span = period_at(period, self._now, UTC)
        return round((span.end - span.start) / _DAY)

    def _most_used(
        self,
        budgets: Sequence[Budget],
        span: Callable[[Budget], Span],
        parts: Callable[[Period], int],
    ) -> Measured:
        """The highest share that is used in a span of one of so many equal parts of a budget."""
        most = Measured(None)
        for budget in budgets:
            usage = self._ledger.usage(budget_window(budget, span(budget)))
            used, limit = usage.spent + usage.held, budget.limit / parts(budget.period)
            share = float(used / limit)
            if most.value is None or share > most.value:
                most = Measured(share, 0, f"budget {budget.name}: {_usd(used)} of {_usd(limit)}")
        return most


_SUMMED: frozenset[Figure] = frozenset(
    {"error_rate", "calls", "errors", "rate_limits", "retries", "cost", "traffic"}
)
"""Figures that are made of a span's sums."""


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}"
