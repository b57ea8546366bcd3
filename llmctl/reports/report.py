"""A report over the ledger: groups, days, the month so far and the budgets. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, tzinfo
from decimal import Decimal
from typing import Protocol

from msgspec import Struct

from llmctl.config.settings import Budget
from llmctl.reports.budgets import BudgetState, matches
from llmctl.reports.figures import Figures
from llmctl.reports.groups import value_of
from llmctl.reports.periods import Span, days, period_at
from llmctl.storage.ledger_queries import Cell, Latencies, UnknownCall
from llmctl.storage.ledger_rows import HeldCall

_DAY = 24 * 3600 * 1000
_MICRO = Decimal("0.000001")
_EMPTY_DAYS = 92
"""Days without a call before the first one that a report still lists: three months."""


class Ledger(Protocol):
    """Where a report reads: all of it at one moment."""

    def first(self) -> int | None:
        """When the first call was started, in milliseconds since the epoch."""
        ...

    def cells(self, edges: Sequence[int], *, tags: bool) -> Iterable[Cell]:
        """As `storage.ledger_queries.cells`."""
        ...

    def run_cells(self, run_id: str, *, tags: bool) -> Iterable[Cell]:
        """As `storage.ledger_queries.run_cells`."""
        ...

    def latencies(self, edges: Sequence[int], *, tags: bool) -> Iterable[Latencies]:
        """As `storage.ledger_queries.latencies`."""
        ...

    def last_run(self) -> str | None:
        """The id of the run that made the latest call."""
        ...

    def has_run(self, run_id: str) -> bool:
        """Whether a run has made a call."""
        ...

    def open_holds(self) -> Sequence[HeldCall]:
        """The calls under way."""
        ...

    def unknown(self, start: int, end: int) -> Sequence[UnknownCall]:
        """As `storage.ledger_queries.unknown_calls`."""
        ...


class Query(Struct, frozen=True):
    """What is asked: the span, the dimensions to group by, and the clocks to go by. `now` is
    milliseconds since the epoch."""

    span: Span
    by: tuple[str, ...]
    zone: tzinfo
    now: int


class Group(Struct, frozen=True):
    """Calls that have the same values of the dimensions; None: a tag that they have not."""

    key: tuple[str | None, ...]
    figures: Figures


class Month(Struct, frozen=True):
    """The month so far, and what it comes to if it goes on as it went."""

    span: Span
    figures: Figures
    projected: Decimal | None


class Unpriced(Struct, frozen=True):
    """Calls whose cost is not known."""

    profile: str
    provider: str
    model: str
    calls: int


class Report(Struct, frozen=True):
    """The answer. Groups are ordered by cost, the dearest first; by day in order of time.
    `unknown` are the calls of the span whose end nobody knows, oldest first."""

    query: Query
    total: Figures
    groups: tuple[Group, ...]
    days: tuple[tuple[date, Figures], ...]
    month: Month
    budgets: tuple[BudgetState, ...]
    unpriced: tuple[Unpriced, ...]
    unknown: tuple[UnknownCall, ...] = ()


@dataclass(slots=True)
class _Sums:
    total: Figures = field(default_factory=Figures)
    groups: dict[tuple[str | None, ...], Figures] = field(default_factory=dict)
    days: dict[date, Figures] = field(default_factory=dict)
    unpriced: dict[tuple[str, str, str], int] = field(default_factory=dict)


def make(ledger: Ledger, query: Query, budgets: Sequence[Budget]) -> Report:
    """The report that answers the query."""
    span, zone = query.span, query.zone
    first = ledger.first()
    calendar = _calendar(query, first)
    month = Month(period_at("month", query.now, zone), Figures(), None)
    states = tuple(BudgetState(b, period_at(b.period, query.now, zone), Figures()) for b in budgets)
    asked = (*query.by, *(name for budget in budgets for name in budget.match))
    tags = any(name.startswith("tag:") for name in asked)

    edges = {span.start, span.end, month.span.start, month.span.end}
    edges |= {start for _, start in calendar if start in span}
    edges |= {edge for state in states if state.span for edge in (state.span.start, state.span.end)}
    ordered = sorted(edges)
    day_at = _finder(calendar)
    sums = _Sums(days={day: Figures() for day, _ in calendar})
    for cell in ledger.cells(ordered, tags=tags):
        start = ordered[cell.span]
        if start in span:
            _add(sums, cell, query.by, day_at(start))
        if start in month.span:
            month.figures.add(cell.sums)
        for state in states:
            if state.span and start in state.span and matches(state.budget, cell):
                state.figures.add(cell.sums)
    _add_latencies(ledger, query, sums, calendar)

    projected = project(month.figures.cost, month.span, query.now)
    return Report(
        query=query,
        total=sums.total,
        groups=_ordered(sums.groups, query.by),
        days=tuple(sums.days.items()),
        month=Month(month.span, month.figures, projected),
        budgets=states,
        unpriced=_named(sums),
        unknown=tuple(ledger.unknown(span.start, span.end)) if sums.total.doubtful else (),
    )


def project(cost: Decimal | None, month: Span, now: int) -> Decimal | None:
    """The month's cost at its end, if each day to come costs what the days so far did on
    average; the first day counts as whole. In dollars, to the microdollar."""
    if cost is None:
        return None
    length = month.end - month.start
    gone = min(max(now - month.start, min(_DAY, length)), length)
    return (cost * length / gone).quantize(_MICRO)


def _calendar(query: Query, first: int | None) -> list[tuple[date, int]]:
    """The days of the span; those before the first call are left out of a long one."""
    span = query.span
    if span.end - span.start > _EMPTY_DAYS * _DAY:
        start = query.now if first is None else max(span.start, first)
        span = Span(min(start, span.end - 1), span.end)
    return days(span, query.zone)


def _finder(calendar: list[tuple[date, int]]) -> Callable[[int], date]:
    starts = [start for _, start in calendar]
    return lambda moment: calendar[max(0, bisect_right(starts, moment) - 1)][0]


def _add(sums: _Sums, cell: Cell, by: tuple[str, ...], day: date) -> None:
    key = tuple(day.isoformat() if name == "day" else value_of(cell, name) for name in by)
    for figures in (sums.total, sums.groups.setdefault(key, Figures()), sums.days[day]):
        figures.add(cell.sums)
    unknown = cell.sums["unpriced"] + cell.sums["doubtful_unpriced"]
    if unknown:
        what = (cell.profile, cell.provider, cell.model)
        sums.unpriced[what] = sums.unpriced.get(what, 0) + unknown


def _add_latencies(
    ledger: Ledger, query: Query, sums: _Sums, calendar: list[tuple[date, int]]
) -> None:
    daily = "day" in query.by
    span = query.span
    edges = sorted({span.start, span.end, *(s for _, s in calendar if daily and s in span)})
    day_at = _finder(calendar)
    tags = any(name.startswith("tag:") for name in query.by)
    for found in ledger.latencies(edges, tags=tags):
        day = day_at(edges[found.span]).isoformat() if daily else ""
        key = tuple(day if name == "day" else value_of(found, name) for name in query.by)
        group = sums.groups.setdefault(key, Figures())
        group.latencies.update(found.milliseconds.split(","))
    for group in sums.groups.values():
        sums.total.latencies.update(group.latencies)


def _ordered(
    groups: dict[tuple[str | None, ...], Figures], by: tuple[str, ...]
) -> tuple[Group, ...]:
    def rank(item: tuple[tuple[str | None, ...], Figures]) -> tuple[object, ...]:
        key, figures = item
        days = tuple(value or "" for value, name in zip(key, by, strict=True) if name == "day")
        names = tuple((value is None, value or "") for value in key)
        return (days, -figures.cost_pico, -figures.calls, names)

    return tuple(Group(key, figures) for key, figures in sorted(groups.items(), key=rank))


def check(
    ledger: Ledger, budget: Budget, span: Span | str, by: tuple[str, ...], zone: tzinfo
) -> tuple[BudgetState, tuple[Group, ...], tuple[Unpriced, ...]]:
    """What stands against a budget in a span, or in the run of that id: in all, and by group.
    A run cannot be grouped by day."""
    tags = any(name.startswith("tag:") for name in (*budget.match, *by))
    sums = _Sums()
    if isinstance(span, str):
        calendar = [(date.min, 0)]
        edges = [0]
        cells = ledger.run_cells(span, tags=tags)
    else:
        calendar = days(span, zone) if "day" in by else [(date.min, span.start)]
        edges = [start for _, start in calendar]
        cells = ledger.cells([*edges, span.end], tags=tags)
    sums.days = {day: Figures() for day, _ in calendar}
    day_at = _finder(calendar)
    for cell in cells:
        if matches(budget, cell):
            _add(sums, cell, by, day_at(edges[cell.span]))
    held = [hold for hold in ledger.open_holds() if matches(budget, hold) and _under(hold, span)]
    state = BudgetState(
        budget,
        None if isinstance(span, str) else span,
        sums.total,
        held=sum(hold.amount_pico or 0 for hold in held),
        in_flight=len(held),
        held_unpriced=sum(hold.cost_pico is None for hold in held),
    )
    return state, _ordered(sums.groups, by), _named(sums)


def _under(hold: HeldCall, span: Span | str) -> bool:
    return hold.run_id == span if isinstance(span, str) else hold.at_ms in span


def _named(sums: _Sums) -> tuple[Unpriced, ...]:
    return tuple(Unpriced(*key, calls) for key, calls in sorted(sums.unpriced.items()))
