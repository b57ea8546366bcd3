"""The report as one HTML page: nothing in it is fetched from anywhere, and no script runs.

`read` takes the figures out of the ledger at one moment, `html` makes the page of them; it is pure.
The page's policy (`policy`) lets its own style apply and nothing else load.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from msgspec import Struct

import llmctl
from llmctl.config.settings import Budget
from llmctl.redact import printable
from llmctl.reports import charts
from llmctl.reports.amounts import money, percent, plural
from llmctl.reports.charts import Slot
from llmctl.reports.periods import Span, iso, local, period_at
from llmctl.reports.report import (
    BudgetState,
    Figures,
    Group,
    Query,
    Report,
    make,
    percentiles,
)
from llmctl.storage.ledger_queries import Reading
from llmctl.storage.ledger_rows import CallRow, dollars, from_pico, read_tags

if TYPE_CHECKING:
    from jinja2 import Template

SIGN = '<meta name="generator" content="llmctl'
"""What tells a page of ours from other files, in its first kilobyte."""

_SINGLE = 20  # calls that are listed one by one, of either kind
_SERIES = 5  # models with a colour of their own
_ROWS = 50  # rows of a table of groups; the others are one row
_MODELS = 100
_TAGS = 8  # names of tags with a table, and tags of a single call
_LONGEST_NAME = 96  # characters
_DAYS, _WEEKS = 92, 7 * 104  # days of a span up to which there is a bar a day, a week
_OTHER = "other"


class PageData(Struct, frozen=True):
    """What the page shows.

    Attributes:
        report: by day and model.
        today: the calls of the day that it is now.
        profiles, users: figures without latencies, dearest first.
        tags: the same by value for each tag, the dearest tags first; None: calls without it.
        more_tags: tags beyond the first `_TAGS`.
        slowest, dearest: single calls.

    """

    report: Report
    today: Figures
    profiles: tuple[Group, ...] = ()
    users: tuple[Group, ...] = ()
    tags: Mapping[str, tuple[Group, ...]] = {}
    more_tags: int = 0
    slowest: Sequence[CallRow] = ()
    dearest: Sequence[CallRow] = ()


class Row(Struct, frozen=True):
    """A line of a table of groups. `name` is None where calls lack the tag; `rest`: the groups
    that have no line of their own, so many that `name` says it."""

    name: str | None
    figures: Figures
    rest: bool = False


class Time(Struct, frozen=True):
    """A day, week or month of the span: its name, a short one for an axis, and its figures."""

    name: str
    label: str
    figures: Figures
    by_model: Mapping[str, Figures]


class Saving(Struct, frozen=True):
    """What was saved by what, in dollars; `unknown` calls have saved an unknown amount more."""

    name: str
    amount: Decimal | None
    unknown: int
    note: str


def read(
    ledger: Reading, span: Span, zone: tzinfo, now: int, budgets: Sequence[Budget]
) -> PageData:
    """The figures of a span; `now` in milliseconds since the epoch."""
    report = make(ledger, Query(span, ("day", "model"), zone, now), budgets)
    today, day = Figures(), period_at("day", now, zone)
    for cell in ledger.cells((day.start, day.end), ()):
        today.add(cell.sums)
    profiles: dict[str | None, Figures] = {}
    users: dict[str | None, Figures] = {}
    by_tags: dict[str, Figures] = {}
    for cell in ledger.cells((span.start, span.end), ("profile", "user", "tags")):
        for groups, name in ((profiles, cell.profile), (users, cell.user), (by_tags, cell.tags)):
            groups.setdefault(name, Figures()).add(cell.sums)
    names, costs = {name for text in by_tags for name in read_tags(text)}, Counter[str]()
    for text, figures in by_tags.items():
        for name in read_tags(text):
            costs[name] += figures.cost_pico
    first = sorted(names, key=lambda name: (-costs[name], name))[:_TAGS]
    return PageData(
        report,
        today,
        _ordered(profiles),
        _ordered(users),
        {name: _ordered(_by_value(name, by_tags)) for name in first},
        len(names) - len(first),
        ledger.single_calls(span.start, span.end, order="slowest", limit=_SINGLE),
        ledger.single_calls(span.start, span.end, order="dearest", limit=_SINGLE),
    )


def policy() -> str:
    """The content security policy of the page: its own style, by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def html(data: PageData) -> str:
    """The page."""
    report, total, zone = data.report, data.report.total, data.report.query.zone
    times, unit = _times(report)
    models, savings = _by(report.groups, 1), [*_savings(total)]
    return _template().render(
        data=data,
        report=report,
        total=total,
        month=report.month,
        zone=zone,
        unit=unit,
        times=times,
        legend=_legend(models),
        charts=_charts(times, unit, total, models) if total.calls else {},
        yesterday=_yesterday(report),
        savings=savings,
        saved_by_all=sum((saving.amount or Decimal(0) for saving in savings), Decimal(0)),
        p95=percentiles(total.latencies, [95])[0],
        models=_rows(models, _MODELS),
        tables=[
            ("profiles", "profile", "Profile", _rows(data.profiles)),
            *(
                (f"tag-{n}", name, "Tag", _rows(found))
                for n, (name, found) in enumerate(data.tags.items())
            ),
            ("users", "user", "User", _rows(data.users)),
        ],
        gauges=[(state, _gauge(state)) for state in report.budgets],
        share=lambda figures: charts.part(figures.share_of(total)),
        month_share=_month_share(report),
        day=lambda at: _date(local(at, zone).date()),
        clock=lambda at: f"{local(at, zone):%H:%M}",
        moment=lambda at: f"{_date(local(at, zone).date())} {local(at, zone):%H:%M:%S}",
        iso=lambda at: iso(at, zone),
        quantile=lambda counted, share: percentiles(counted, [share])[0],
    )


@lru_cache(maxsize=1)
def style() -> str:
    """The style of our pages, in CSS."""
    return files("llmctl.reports").joinpath("page.css").read_text(encoding="utf-8")


def template(file: str, **filters: Callable[..., Any]) -> Template:
    """A page of this room as a template; it knows what every page has in its head."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"money": money, "plural": plural, **filters}
    environment.globals |= {
        "sign": Markup(SIGN),  # noqa: S704 - a constant of ours
        "policy": policy(),
        "style": Markup(style()),  # noqa: S704 - a file of ours
        "version": llmctl.__version__,
    }
    page = files("llmctl.reports").joinpath(file).read_text(encoding="utf-8")
    return environment.from_string(page)


@lru_cache(maxsize=1)
def _template() -> Template:
    return template(
        "page.html",
        percent=lambda share: "-" if share is None else percent(share),
        count="{:,}".format,
        seconds=_seconds,
        tokens=_tokens,
        name=_name,
        usd=from_pico,
        tags=_tag_words,
    )


def _ordered(groups: Mapping[str | None, Figures]) -> tuple[Group, ...]:
    """Dearest first."""
    found = (Group((name,), figures) for name, figures in groups.items())
    return tuple(sorted(found, key=_rank))


def _rank(group: Group) -> tuple[object, ...]:
    name, figures = group.key[0], group.figures
    return (-figures.cost_pico, -figures.calls, name is None, name or "")


def _by(groups: Iterable[Group], place: int) -> tuple[Group, ...]:
    """The groups put together by one of their dimensions."""
    found: dict[str | None, Figures] = {}
    for group in groups:
        found.setdefault(group.key[place], Figures()).merge(group.figures)
    return _ordered(found)


def _by_value(name: str, by_tags: Mapping[str, Figures]) -> dict[str | None, Figures]:
    found: dict[str | None, Figures] = {}
    for text, figures in by_tags.items():
        found.setdefault(read_tags(text).get(name), Figures()).merge(figures)
    return found


def _rows(groups: Sequence[Group], most: int = _ROWS) -> list[Row]:
    """A row each for the first groups, and one for all others."""
    cut = len(groups) if len(groups) <= most + 1 else most
    rows = [Row(group.key[0], group.figures) for group in groups[:cut]]
    if rest := groups[cut:]:
        figures = Figures()
        for group in rest:
            figures.merge(group.figures)
        rows.append(Row(f"{len(rest):,} more", figures, rest=True))
    return rows


def _times(report: Report) -> tuple[list[Time], str]:
    """The days of the span, or its weeks or months where it is long, and what they are."""
    days = [day for day, _ in report.days]
    unit = "day" if len(days) <= _DAYS else "week" if len(days) <= _WEEKS else "month"
    found: dict[date, tuple[Figures, dict[str, Figures]]] = {}
    for day in days:
        found.setdefault(_first(day, unit), (Figures(), {}))
    for group in report.groups:
        at, model = group.key
        figures, by_model = found[_first(date.fromisoformat(at or ""), unit)]
        figures.merge(group.figures)
        by_model.setdefault(model or "", Figures()).merge(group.figures)
    return [Time(*_named(first, unit), *rest) for first, rest in found.items()], unit


def _first(day: date, unit: str) -> date:
    """The first day of the week or month that the day belongs to."""
    if unit == "month":
        return day.replace(day=1)
    return day - timedelta(day.weekday()) if unit == "week" else day


def _named(first: date, unit: str) -> tuple[str, str]:
    if unit == "month":
        return f"{first:%B %Y}", f"{first:%b %y}"
    name = f"{first:%a} {_date(first)}" if unit == "day" else f"week from {_date(first)}"
    return name, f"{first.day} {first:%b}"


def _date(day: date) -> str:
    return f"{day.day} {day:%b %Y}"


def _legend(models: Sequence[Group]) -> list[str]:
    """Names of the series: the dearest models, and the others together."""
    cut = len(models) if len(models) <= _SERIES + 1 else _SERIES
    named = [_name(group.key[0]) for group in models[:cut]]
    return [*named, _OTHER] if models[cut:] else named


def _charts(
    times: Sequence[Time], unit: str, total: Figures, models: Sequence[Group]
) -> dict[str, Markup]:
    """The charts by name. Where nothing has cost anything the first shows calls."""
    cut = len(models) if len(models) <= _SERIES + 1 else _SERIES
    named = [group.key[0] or "" for group in models[:cut]]
    priced = bool(total.cost_pico)

    def amount(figures: Figures) -> float:
        return float(dollars(figures.cost_pico)) if priced else float(figures.calls)

    def said(figures: Figures) -> str:
        cost = money(figures.cost, figures.unpriced)
        return cost if priced else plural(figures.calls, "call")

    def spent(time: Time) -> Slot:
        of = [time.by_model.get(name) for name in named]
        parts = [(name, figures) for name, figures in zip(named, of, strict=True) if figures]
        values = [amount(figures) if figures else None for figures in of]
        others = Figures()
        for name in time.by_model.keys() - set(named):
            others.merge(time.by_model[name])
        if models[cut:]:
            values.append(amount(others) if others.calls else None)
            parts += [(_OTHER, others)] if others.calls else []
        calls = plural(time.figures.calls, "call")
        summary = f"{time.name} · {said(time.figures)}" + (f" · {calls}" if priced else "")
        split = (f"\n{_name(name)}: {said(figures)}" for name, figures in parts)
        return Slot(time.label, tuple(values), summary, summary + "".join(split))

    def taken(time: Time) -> Slot:
        p50, p95 = percentiles(time.figures.latencies, (50, 95))
        words = f"{time.name} · p50 {_seconds(p50)} · p95 {_seconds(p95)}"
        values = tuple(None if ms is None else ms / 1000 for ms in (p50, p95))
        return Slot(time.label, values, words, words)

    def rate(what: str, share: Callable[[Figures], float | None]) -> Callable[[Time], Slot]:
        def slot(time: Time) -> Slot:
            value = share(time.figures)
            calls = plural(time.figures.calls, "call")
            words = f"{time.name} · {'-' if value is None else percent(value)} {what} · {calls}"
            return Slot(time.label, (value,), words, words)

        return slot

    top = max(times, key=lambda time: amount(time.figures))
    what = "Spend" if priced else "Calls"
    per_cent: Callable[[float], str] = lambda share: f"{100 * share:g}%"  # noqa: E731
    return {
        "spend": charts.bars(
            [spent(time) for time in times],
            f"{what} by {unit} and model; most {top.name} with {said(top.figures)}",
            _dollars_tick if priced else "{:,.0f}".format,
        ),
        "latency": charts.lines(
            [taken(time) for time in times], f"Median and 95% latency by {unit}", "{:g} s".format
        ),
        "errors": charts.bars(
            [rate("errors", lambda f: f.error_rate)(time) for time in times],
            f"Share of calls without an answer by {unit}",
            per_cent,
        ),
        "hits": charts.bars(
            [rate("from the cache", lambda f: f.hit_rate)(time) for time in times],
            f"Share of calls answered from the cache by {unit}",
            per_cent,
        ),
    }


def _yesterday(report: Report) -> Figures | None:
    """The day before today, where the span has it."""
    day = local(report.query.now, report.query.zone).date() - timedelta(1)
    whole = local(report.query.span.start, report.query.zone).date() < day
    return dict(report.days).get(day) if whole else None


def _savings(total: Figures) -> Iterator[Saving]:
    """What was saved, by what saved it; routing joins here."""
    yield Saving("Cache", total.saved, total.unsaved, f"{plural(total.kept, 'call')} answered")
    if total.batch_saved:
        yield Saving("Batches", total.batch_saved, 0, "against the price of single calls")
    if total.provider_saved:
        read = f"{total.cached_tokens:,} tokens read"
        yield Saving("Providers' prompt caches", total.provider_saved, 0, read)


def _gauge(state: BudgetState) -> Markup:
    share = 1.0 if state.share is None else float(state.share)
    title = f"{_name(state.budget.name)}: {share:.0%} of {money(state.budget.limit)} used"
    return charts.gauge(share, map(float, state.budget.warn_at), state.state, title)


def _month_share(report: Report) -> Markup:
    """How much of the month's projection is spent."""
    cost, projected = report.month.figures.cost, report.month.projected
    return charts.part(float(cost / projected)) if cost and projected else Markup()


def _name(text: str | None) -> str:
    """A name out of the ledger, on one line and of bounded length."""
    plain = " ".join(printable(text or "").split()) or "-"
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def _tag_words(text: str) -> list[str]:
    """The first tags of a call, and how many more it has."""
    words = [f"{name}={value}" for name, value in read_tags(text).items()]
    return words if len(words) <= _TAGS else [*words[:_TAGS], f"{len(words) - _TAGS} more"]


def _seconds(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds / 1000:,.{1 if milliseconds >= 10_000 else 2}f} s"


def _tokens(number: int) -> str:
    from rich.filesize import pick_unit_and_suffix

    unit, suffix = pick_unit_and_suffix(number, ["", "k", "M", "G", "T"], 1000)
    return f"{number / unit:.1f}{suffix}" if suffix else str(number)


def _dollars_tick(amount: float) -> str:
    """`$0`, `$0.05`, `$2.50`, `$400`, `$25k`."""
    if amount >= 10_000:
        return f"${amount / 1000:,g}k"
    return f"${amount:,.2f}" if amount % 1 and amount >= 0.01 else f"${amount:,.6g}"
