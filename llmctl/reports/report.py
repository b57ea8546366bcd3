"""Cost report: sums over the ledger by group, day, month and budget.

Money is whole picodollars inside, `Decimal` dollars outside; times are milliseconds since the
epoch. Everything here is pure: the ledger is handed in, already open, at one moment.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, tzinfo
from decimal import Decimal
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from llmctl.config.settings import Budget
from llmctl.errors import UsageError
from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.reports.periods import Span, days, period_at
from llmctl.storage.ledger_queries import SUMS, Cell, Reading, UnknownCall, kind_names
from llmctl.storage.ledger_rows import Labels, from_pico, matches, read_tags

DIMENSIONS = ("day", "model", "profile", "provider", "user")
"""What a report can be grouped by, besides `tag:NAME`."""

State = Literal["within", "warning", "exceeded"]
Key = tuple[str | None, ...]

_PRICED = {"profile", "provider", "model"}  # what a price is for
_DAY = 24 * 3600 * 1000  # milliseconds
_MAX_EMPTY_DAYS = 92  # in a longer span the days before the first call are left out


@dataclass(slots=True)
class Figures:
    """Sums over some calls.

    Attributes:
        kept: calls answered without asking the provider (from the cache, or shared).
        unpriced: calls whose cost is unknown; unsaved: the same of kept answers.
        doubtful: attempts without an answer that may have been billed, at most `doubtful_pico`
            (`doubtful_unpriced` of them at an unknown price).
        estimated: calls whose tokens the provider did not report, or not all.
        retries, rate_limits: attempts beyond the first, and those that met a rate limit (429).
        refused: calls that were not let through here, and not sent; they are no errors.
        batch_saved_pico: what providers' batches cost less than single calls.
        routed_saved_pico: what routes cost less than the strong model alone; may be below 0.
        provider_saved_pico: what providers' prompt caches saved; below 0: cost more.
        latencies, first_tokens: number of calls by latency, and of streamed ones by the time until
            their first token; whole milliseconds, as text.

    """

    calls: int = 0
    errors: int = 0
    kept: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_pico: int = 0
    unpriced: int = 0
    saved_pico: int = 0
    unsaved: int = 0
    doubtful: int = 0
    doubtful_pico: int = 0
    doubtful_unpriced: int = 0
    estimated: int = 0
    retries: int = 0
    rate_limits: int = 0
    refused: int = 0
    batch_saved_pico: int = 0
    routed_saved_pico: int = 0
    provider_saved_pico: int = 0
    latencies: Counter[str] = field(default_factory=Counter)
    first_tokens: Counter[str] = field(default_factory=Counter)

    def add(self, sums: Mapping[str, int]) -> None:
        """Add the sums of further calls."""
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)

    def merge(self, other: Figures) -> None:
        """Add other figures, latencies included."""
        self.add({name: getattr(other, name) for name in SUMS})
        self.latencies.update(other.latencies)
        self.first_tokens.update(other.first_tokens)

    @property
    def cost(self) -> Decimal | None:
        """Known cost in dollars; None when no call's cost is known."""
        return _known(self.cost_pico, self.unpriced)

    @property
    def saved(self) -> Decimal | None:
        """What kept answers would have cost, in dollars; None when that is unknown of all."""
        return _known(self.saved_pico, self.unsaved)

    @property
    def batch_saved(self) -> Decimal:
        """What providers' batches cost less than single calls, in dollars, where that is known."""
        return from_pico(self.batch_saved_pico) or Decimal(0)

    @property
    def routed_saved(self) -> Decimal:
        """What routes cost less than the strong model alone, in dollars, where that is known; below
        0 where they cost more."""
        return from_pico(self.routed_saved_pico) or Decimal(0)

    @property
    def provider_saved(self) -> Decimal:
        """What providers' prompt caches saved in dollars, where that is known; below 0 where
        writing them cost more than reading saved."""
        return from_pico(self.provider_saved_pico) or Decimal(0)

    @property
    def hit_rate(self) -> float | None:
        """Share of the calls that were not refused which a kept answer served; None without any."""
        asked = self.calls - self.refused
        return self.kept / asked if asked else None

    @property
    def doubt(self) -> Decimal | None:
        """What may have been billed besides `cost`, at most; None when that is unknown of all."""
        return _known(self.doubtful_pico, self.doubtful_unpriced)

    @property
    def conservative(self) -> Decimal:
        """Dollars that were, or may have been, charged, as far as prices are known."""
        return from_pico(self.cost_pico + self.doubtful_pico) or Decimal(0)

    @property
    def unknown(self) -> int:
        """Calls and attempts that may have cost something at an unknown price."""
        return self.unpriced + self.doubtful_unpriced

    @property
    def error_rate(self) -> float | None:
        """Share of the calls that were sent which got no answer (cancelled ones are no errors);
        None without any."""
        sent = self.calls - self.refused
        return self.errors / sent if sent else None

    @property
    def mean_cost(self) -> Decimal | None:
        """Dollars that a call which asked its provider cost on average, to the picodollar; None
        without any, or where that is not known of all."""
        asked, cost = self.calls - self.kept - self.refused, self.cost
        if not asked or cost is None or self.unpriced:
            return None
        return round(cost / asked, 12)

    @property
    def rate_limit_rate(self) -> float | None:
        """Share of the requests to providers that met a rate limit (429); None without any."""
        requests = self.calls - self.kept - self.refused + self.retries
        return self.rate_limits / requests if requests else None

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def share_of(self, whole: Figures) -> float | None:
        """Cost as a share of `whole`'s; None when either is nothing or unknown."""
        if not whole.cost_pico or self.cost is None:
            return None
        return self.cost_pico / whole.cost_pico


class BudgetState(Struct, frozen=True):
    """Usage of a budget in `span` (None: of a run).

    Attributes:
        usage: dollars spent, and held for the calls in flight at their worst case.
        figures: sums of the ended calls.
        held_unpriced: calls in flight at an unknown price.
        everywhere: the usage by all machines, where a coordinator has it: that is what counts.

    """

    budget: Budget
    span: Span | None
    usage: BudgetUsage
    figures: Figures
    in_flight: int = 0
    held_unpriced: int = 0
    everywhere: BudgetUsage | None = None

    @property
    def window(self) -> BudgetWindow | None:
        """The window that this is the usage of; None of a run."""
        return None if self.span is None else budget_window(self.budget, self.span)

    @property
    def used(self) -> Decimal:
        """Dollars spent and held: the conservative figure."""
        usage = self.everywhere or self.usage
        return usage.spent + usage.held

    @property
    def share(self) -> Decimal | None:
        """`used` as a share of the limit; None for a limit of 0."""
        return self.used / self.budget.limit if self.budget.limit else None

    @property
    def unknown(self) -> int:
        """Calls that `used` leaves out because their price is unknown."""
        return self.figures.unknown + self.held_unpriced

    @property
    def warned_at(self) -> Decimal | None:
        """Highest share of `warn_at` that is reached."""
        share = Decimal(1) if self.share is None else self.share
        reached = [at for at in self.budget.warn_at if share >= at]
        return reached[-1] if reached else None

    @property
    def state(self) -> State:
        """Exceeded means above the limit: a budget spent to the cent is within."""
        if self.used > self.budget.limit:
            return "exceeded"
        return "warning" if self.warned_at is not None else "within"


class Query(Struct, frozen=True):
    """Span, dimensions and time zone of a report; `now` is the present moment."""

    span: Span
    by: tuple[str, ...]
    zone: tzinfo
    now: int


class Group(Struct, frozen=True):
    """Figures of the calls with the same dimensions; None in `key`: the call lacks that tag."""

    key: Key
    figures: Figures


class Month(Struct, frozen=True):
    """The month so far, and its projected cost in dollars at its end."""

    span: Span
    figures: Figures
    projected: Decimal | None


class Unpriced(Struct, frozen=True):
    """Calls at an unknown price."""

    profile: str
    provider: str
    model: str
    calls: int


class Report(Struct, frozen=True):
    """Cost report. Groups by cost, dearest first (with `day`: in order of time). `before` is the
    tokens of a span as long before this one, None where the ledger does not reach back so far."""

    query: Query
    total: Figures
    groups: tuple[Group, ...]
    days: tuple[tuple[date, Figures], ...]
    month: Month
    budgets: tuple[BudgetState, ...]
    unpriced: tuple[Unpriced, ...]
    unknown: tuple[UnknownCall, ...] = ()
    error_types: Mapping[str, int] = {}
    masked: Mapping[str, int] = {}
    before: int | None = None

    @property
    def token_trend(self) -> float | None:
        """By what share more tokens were used than in the span before; None where that began before
        the ledger, or used none."""
        return self.total.tokens / self.before - 1 if self.before else None


class BudgetCheck(Struct, frozen=True):
    """State of one budget, with the figures of its groups and the calls without a price."""

    state: BudgetState
    groups: tuple[Group, ...]
    unpriced: tuple[Unpriced, ...]


class _Sums:
    """Figures under way: in all, by group and by the days of a calendar."""

    def __init__(self, by: tuple[str, ...], calendar: list[tuple[date, int]]) -> None:
        self.by = by
        self.calendar = calendar
        self.total = Figures()
        self.groups: dict[Key, Figures] = {}
        self.days = {day: Figures() for day, _ in calendar}
        self._unpriced: Counter[tuple[str, str, str]] = Counter()

    def add(self, cell: Cell, start: int) -> None:
        day, group = self.group(cell, start)
        for figures in (self.total, group, self.days[day]):
            figures.add(cell.sums)
        if unknown := cell.sums["unpriced"] + cell.sums["doubtful_unpriced"]:
            self._unpriced[cell.profile, cell.provider, cell.model] += unknown

    def group(self, kind: Labels, at: int) -> tuple[date, Figures]:
        """The day and the group of calls whose span begins at `at`."""
        n = bisect_right(self.calendar, at, key=lambda day: day[1])
        day = self.calendar[max(0, n - 1)][0]
        values = {f"tag:{name}": value for name, value in read_tags(kind.tags).items()}
        values["day"] = day.isoformat()
        key = tuple(
            values.get(name) if name in values or name.startswith("tag:") else getattr(kind, name)
            for name in self.by
        )
        return day, self.groups.setdefault(key, Figures())

    def ordered(self) -> tuple[Group, ...]:
        """The groups in the order of a report."""

        def rank(group: Group) -> tuple[object, ...]:
            key, figures = group.key, group.figures
            when = tuple(v or "" for v, name in zip(key, self.by, strict=True) if name == "day")
            names = tuple((value is None, value or "") for value in key)
            return (when, -figures.cost_pico, -figures.calls, names)

        return tuple(sorted((Group(*item) for item in self.groups.items()), key=rank))

    def unpriced(self) -> tuple[Unpriced, ...]:
        """The calls at an unknown price."""
        return tuple(Unpriced(*key, calls) for key, calls in sorted(self._unpriced.items()))


def parse_by(words: Iterable[str]) -> tuple[str, ...]:
    """Dimensions of `--by`: `model`, `day,tag:team`, …, each once. Raises `UsageError`."""
    found: dict[str, None] = {}
    for word in (part.strip() for text in words for part in text.split(",")):
        if word not in DIMENSIONS and not (word.startswith("tag:") and len(word) > 4):
            raise UsageError(
                f"--by cannot group by {word!r}: give {', '.join(DIMENSIONS)} or tag:NAME, "
                "several separated by commas"
            )
        found[word] = None
    return tuple(found)


def make(ledger: Reading, query: Query, budgets: Sequence[Budget]) -> Report:
    """The report that answers the query."""
    span, zone = query.span, query.zone
    by = kind_names(query.by) - {"asked_model"}  # groups have the one that answered
    first = ledger.first()
    sums = _Sums(query.by, _calendar(query, first))
    before, tokens = Span(2 * span.start - span.end, span.start), 0
    if first is None or first > before.start:
        before = Span(span.start, span.start)
    month, month_figures = period_at("month", query.now, zone), Figures()
    days_in = {start for _, start in sums.calendar if start in span}
    edges = sorted({before.start, span.start, span.end, month.start, month.end} | days_in)
    for cell in ledger.cells(edges, by | _PRICED):
        start = edges[cell.span]
        if start in span:
            sums.add(cell, start)
        if start in month:
            month_figures.add(cell.sums)
        if start in before:
            tokens += cell.sums["input_tokens"] + cell.sums["output_tokens"]
    edges = sorted({span.start, span.end} | (days_in if "day" in query.by else set()))
    for found in ledger.latencies(edges, by):
        _, group = sums.group(found, edges[found.span])
        group.latencies.update(found.times)
    for found in ledger.first_tokens(edges, by):
        _, group = sums.group(found, edges[found.span])
        group.first_tokens.update(found.times)
    for group in sums.groups.values():
        sums.total.latencies.update(group.latencies)
        sums.total.first_tokens.update(group.first_tokens)
    projected = project(month_figures.cost, month, query.now)
    return Report(
        query=query,
        total=sums.total,
        groups=sums.ordered(),
        days=tuple(sums.days.items()),
        month=Month(month, month_figures, projected),
        budgets=tuple(
            check(ledger, budget, period_at(budget.period, query.now, zone), (), zone).state
            for budget in budgets
        ),
        unpriced=sums.unpriced(),
        unknown=tuple(ledger.unknown(span.start, span.end)) if sums.total.doubtful else (),
        error_types=ledger.error_types(span.start, span.end) if sums.total.errors else {},
        masked=ledger.masked(span.start, span.end),
        before=tokens if before.start < span.start else None,
    )


def check(
    ledger: Reading, budget: Budget, span: Span | str, by: tuple[str, ...], zone: tzinfo
) -> BudgetCheck:
    """State of a budget in a span, or in the run of that id (which has no days), with groups."""
    names = kind_names((*budget.match, *by)) | _PRICED
    if isinstance(span, str):
        calendar, edges = [(date.min, 0)], [0]
        cells = ledger.run_cells(span, names)
    else:
        calendar = days(span, zone) if "day" in by else [(date.min, span.start)]
        edges = [start for _, start in calendar]
        cells = ledger.cells([*edges, span.end], names)
    sums = _Sums(by, calendar)
    for cell in cells:
        if matches(budget.match, cell):
            sums.add(cell, edges[cell.span])
    held = [
        hold
        for hold in ledger.open_holds()
        if (hold.run_id == span if isinstance(span, str) else hold.at_ms in span)
        and matches(budget.match, hold)
    ]
    state = BudgetState(
        budget,
        None if isinstance(span, str) else span,
        ledger.usage(budget_window(budget, span)),
        sums.total,
        in_flight=len(held),
        held_unpriced=sum(hold.cost_pico is None for hold in held),
    )
    return BudgetCheck(state, sums.ordered(), sums.unpriced())


def budget_window(budget: Budget, span: Span | str) -> BudgetWindow:
    """The window of a budget in a span, or in the run of that id.

    Its key names it in all processes alike, whatever the limit: that may be raised meanwhile.
    """
    if isinstance(span, str):
        match = {**budget.match, "run": span}
        start, end = 0, 1 << 62
    else:
        match, start, end = dict(budget.match), span.start, span.end
    key = json.dumps([budget.name, sorted(match.items()), start, end])
    return BudgetWindow(key, budget.name, budget.limit, start, end, match, budget.warn_at)


def windows_at(budgets: Iterable[Budget], now: float) -> list[BudgetWindow]:
    """The windows of the budgets at a moment (seconds since the epoch), of UTC."""
    at = round(now * 1000)
    return [budget_window(one, period_at(one.period, at, UTC)) for one in budgets]


def project(cost: Decimal | None, month: Span, now: int) -> Decimal | None:
    """Cost at the month's end in dollars, if days to come cost the average of those so far.

    The first day counts as whole. None when the cost is unknown.
    """
    if cost is None:
        return None
    length = month.end - month.start
    gone = min(max(now - month.start, min(_DAY, length)), length)
    return round(cost * length / gone, 6)


def percentiles(latencies: Counter[str], shares: Iterable[int]) -> list[int | None]:
    """Nearest-rank percentiles in milliseconds (`shares` in per cent); None without calls."""
    counts = sorted((int(text), count) for text, count in latencies.items())
    passed = list(accumulate(count for _, count in counts))
    if not counts:
        return [None for _ in shares]
    # The smallest value that `share` per cent of all, rounded up, do not exceed.
    ranks = [-(-passed[-1] * share // 100) for share in shares]
    return [counts[bisect_left(passed, rank)][0] for rank in ranks]


def _calendar(query: Query, first: int | None) -> list[tuple[date, int]]:
    """Days of the span; those before the first call are left out of a long one."""
    span = query.span
    if span.end - span.start > _MAX_EMPTY_DAYS * _DAY:
        start = query.now if first is None else max(span.start, first)
        span = Span(min(start, span.end - 1), span.end)
    return days(span, query.zone)


def _known(pico: int, unknown: int) -> Decimal | None:
    """Dollars; None when there are unknown amounts and no others."""
    return None if unknown and not pico else from_pico(pico)
