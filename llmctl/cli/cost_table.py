"""A cost report for a person: figures, bars, a chart by day, gauges. Pure: report in, text out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, tzinfo
from decimal import Decimal

from llmctl.cli.chart import Pen, cells, fitted, scale, wrapped
from llmctl.cli.cost_formats import PERCENTILES
from llmctl.cli.cost_unknown import total_of, unknown_lines
from llmctl.cli.render import dollars, safe
from llmctl.reports.budgets import BudgetState
from llmctl.reports.figures import Figures, percentiles
from llmctl.reports.periods import local
from llmctl.reports.report import Group, Report

WIDEST = 140
"""Columns beyond which lines get harder to follow, not better."""

_ONE_LINE = 112
_BELOW = ("calls", "in", "out", "saved", "errors", *(f"p{share}" for share in PERCENTILES))
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CHART_LINES = 6
_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}


def draw(report: Report, pen: Pen, width: int, most_groups: int | None = None) -> str:
    """The report, `width` columns wide. Of more groups than `most_groups` the rest is summed."""
    width = max(40, min(width, WIDEST))
    parts = [
        _heading(report, pen, width),
        _groups(report, pen, width, most_groups) if report.total.calls else (),
        _chart(report, pen, width) if report.total.calls else (),
        _month(report, pen, width),
        _remarks(report, pen, width),
    ]
    blocks = ["\n".join(line.rstrip() for line in part) for part in parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


def money(amount: Decimal | None, unknown: int = 0) -> str:
    """Dollars for a person; `+?` when more calls belong to it whose price is not known."""
    if amount is not None and amount >= 10_000:
        amount = amount.quantize(Decimal(1))
        return f"${amount:,}" + ("+?" if unknown else "")
    return dollars(amount) + ("+?" if unknown and amount is not None else "")


def count(number: int) -> str:
    """`950`, `12.3k`, `4.5M`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(number)


def seconds(milliseconds: int | None) -> str:
    """`0.91s`, `12.3s`, `3m05s`; a dash for none."""
    if milliseconds is None:
        return "-"
    if milliseconds < 9_995:
        return f"{milliseconds / 1000:.2f}s"
    if milliseconds < 99_950:
        return f"{milliseconds / 1000:.1f}s"
    minutes, rest = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}m{rest:02}s"


def percent(share: float | None) -> str:
    """`1.2%`; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def day_name(day: date) -> str:
    """`Nov 21`."""
    return f"{day:%b} {day.day}"


def _heading(report: Report, pen: Pen, width: int) -> Iterator[str]:
    query, total = report.query, report.total
    start, end = (local(at, query.zone) for at in (query.span.start, query.span.end - 1))
    where = f"{start:%Y-%m-%d %H:%M} → {end:%Y-%m-%d %H:%M} {query.zone}"
    if not pen.unicode:
        where = where.replace("→", "to")
    title = "LLM cost"
    yield pen(title, "bold") + " " * max(2, width - len(title) - len(where)) + pen(where, "dim")
    yield ""
    if not total.calls:
        yield "no calls in this span"
        return
    words = [
        pen(money(total.cost, total.unpriced), "bold", "green"),
        f"{total.calls:,} calls",
        f"{count(total.input_tokens)} tokens in + {count(total.output_tokens)} out",
        pen(f"{percent(total.error_rate)} errors", *(("red",) if total.errors else ())),
        f"{money(total.saved, total.unsaved)} saved by the cache ({total.kept:,} calls)",
        "latency " + _latency(total),
    ]
    yield from _packed(words, width)


def _packed(words: Sequence[str], width: int) -> Iterator[str]:
    """The words with dots between them, in lines of at most `width`."""
    line: list[str] = []
    for word in words:
        if line and cells(_ESCAPE.sub("", " · ".join([*line, word]))) > width:
            yield " · ".join(line)
            line = []
        line.append(word)
    yield " · ".join(line)


def _latency(figures: Figures) -> str:
    each = zip(PERCENTILES, percentiles(figures.latencies, PERCENTILES), strict=True)
    return ", ".join(f"p{share} {seconds(value)}" for share, value in each)


def _groups(report: Report, pen: Pen, width: int, most: int | None) -> Iterator[str]:
    groups = _shortened(report.groups, most, len(report.query.by))
    names = [_name(group) for group in groups]
    title = ", ".join(name.removeprefix("tag:") for name in report.query.by)
    draw_one = _wide if width >= _ONE_LINE else _narrow
    yield from draw_one(report, groups, names, title, pen, width)


def _narrow(
    report: Report, groups: Sequence[Group], names: Sequence[str], title: str, pen: Pen, width: int
) -> Iterator[str]:
    """Two lines a group: its name, cost and share as a bar; below them its other figures."""
    rows = [_columns(group.figures) for group in groups]
    cost_width = max(4, *(len(row[0]) for row in rows))
    bar = max(8, width // 3 - 4)
    name_width = width - cost_width - bar - 11
    each = (width - 4) // len(_BELOW)
    yield pen(f"{fitted(title, name_width)}  {'cost':>{cost_width}}  share", "dim")
    yield pen("    " + "".join(f"{head:>{each}}" for head in _BELOW), "dim")
    for group, name, (cost, *below) in zip(groups, names, rows, strict=True):
        share = group.figures.share_of(report.total)
        drawn = f"{pen(pen.bar(share or 0.0, bar), 'cyan')} {percent(share):>6}"
        yield f"{pen(fitted(name, name_width), 'bold')}  {cost:>{cost_width}}  {drawn}"
        styles = ["red" if h == "errors" and group.figures.errors else "dim" for h in _BELOW]
        figures = (pen(f"{v:>{each}}", s) for v, s in zip(below, styles, strict=True))
        yield "    " + "".join(figures)


def _wide(
    report: Report, groups: Sequence[Group], names: Sequence[str], title: str, pen: Pen, width: int
) -> Iterator[str]:
    """One line a group, in columns."""
    heads = ("cost", *_BELOW)
    rows = [_columns(group.figures) for group in groups]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    left = width - sum(widths) - 2 * len(widths) - 9
    name_width = min(max(map(cells, (title, *names))), left * 3 // 5)
    bar = min(left - name_width, 40)

    def line(name: str, share: str, values: Sequence[str]) -> str:
        first = f"{values[0]:>{widths[0]}}"
        rest = "  ".join(f"{v:>{w}}" for v, w in zip(values[1:], widths[1:], strict=True))
        return f"{name}  {first}  {share}  {rest}"

    yield pen(line(fitted(title, name_width), "share".ljust(bar + 7), heads), "dim")
    for group, name, values in zip(groups, names, rows, strict=True):
        share = group.figures.share_of(report.total)
        drawn = f"{pen(pen.bar(share or 0.0, bar), 'cyan')} {percent(share):>6}"
        yield line(pen(fitted(name, name_width), "bold"), drawn, values)


def _columns(figures: Figures) -> tuple[str, ...]:
    return (
        money(figures.cost, figures.unpriced),
        f"{figures.calls:,}",
        count(figures.input_tokens),
        count(figures.output_tokens),
        money(figures.saved, figures.unsaved),
        percent(figures.error_rate),
        *(seconds(value) for value in percentiles(figures.latencies, PERCENTILES)),
    )


def _name(group: Group) -> str:
    return " / ".join("(none)" if value is None else safe(value) or "-" for value in group.key)


def _shortened(groups: Sequence[Group], most: int | None, depth: int) -> Sequence[Group]:
    if most is None or len(groups) <= most:
        return groups
    rest = Figures()
    for group in groups[most - 1 :]:
        figures = group.figures
        rest.add({n: getattr(figures, n) for n in figures.__slots__ if n != "latencies"})
        rest.latencies.update(figures.latencies)
    name = f"{len(groups) - most + 1:,} others"
    return [*groups[: most - 1], Group((name, *("…",) * (depth - 1)), rest)]


def _chart(report: Report, pen: Pen, width: int) -> Iterator[str]:
    """Cost by day, or calls where nothing costs anything."""
    each = -(-len(report.days) // max(1, width - 12))
    chunks = [report.days[n : n + each] for n in range(0, len(report.days), each)]
    if len(chunks) < 2:
        return
    costs = [sum((f.cost or Decimal(0) for _, f in chunk), Decimal(0)) for chunk in chunks]
    paid = any(costs)
    values = costs if paid else [Decimal(sum(f.calls for _, f in chunk)) for chunk in chunks]
    most = max(values)
    if not most:
        return
    top, ticks = scale(most, _CHART_LINES)
    written = [
        "" if tick is None else (money(tick) if paid else count(int(tick))) for tick in ticks
    ]
    span = "day" if each == 1 else f"{each} days"
    yield pen(f"{'cost' if paid else 'calls'} by {span}", "dim")
    yield from pen.columns(
        [float(value / top) for value in values],
        (day_name(chunks[0][0][0]), day_name(chunks[-1][-1][0])),
        width=width,
        ticks=written,
    )


def _month(report: Report, pen: Pen, width: int) -> Iterator[str]:
    month, zone = report.month, report.query.zone
    today, end = local(report.query.now, zone), local(month.span.end - 1, zone)
    gone = (report.query.now - month.span.start) / (month.span.end - month.span.start)
    names = ["month to date", *(safe(state.budget.name) for state in report.budgets)]
    name_width = min(max(map(cells, names)), width // 3)
    gauge = max(8, width // 4)
    arrow = "→" if pen.unicode else "->"
    spent = money(month.figures.cost, month.figures.unpriced)
    yield (
        f"{fitted('month to date', name_width)}  {pen.gauge(gone, gauge, 'cyan')}  "
        f"{pen(spent, 'bold')} {arrow} {money(month.projected)} by {day_name(end.date())} "
        + pen(f"(day {today.day} of {end.day})", "dim")
    )
    for state in report.budgets:
        yield budget_line(state, pen, name_width, gauge, zone)


def budget_line(state: BudgetState, pen: Pen, name_width: int, gauge: int, zone: tzinfo) -> str:
    """One line: name, gauge, what of the limit is used, and until when."""
    colour = _COLOURS[state.state]
    share = 1.0 if state.share is None else float(state.share)
    marks = [float(at) for at in state.budget.warn_at]
    used = money(state.used, state.unknown)
    last = f"until {day_name(local(state.span.end - 1, zone).date())}" if state.span else ""
    note = {"within": "", "warning": "above its mark", "exceeded": "EXCEEDED"}[state.state]
    return (
        f"{fitted(safe(state.budget.name), name_width)}  {pen.gauge(share, gauge, colour, marks)}  "
        f"{pen(used, 'bold', colour)} of {money(state.budget.limit)} ({share:.0%}) "
        + pen(note or last, *((colour,) if note else ("dim",)))
    )


def _remarks(report: Report, pen: Pen, width: int) -> Iterator[str]:
    total = report.total
    if total.doubtful:
        attempts = "attempt" if total.doubtful == 1 else "attempts"
        amount = money(total.doubt, total.doubtful_unpriced)
        yield from _warning(
            f"may have been billed: {amount}",
            f" at the most, besides the figures above ({total.doubtful:,} {attempts} without an "
            "answer)",
            pen,
            width,
        )
    yield from _unknown(report, pen, width)
    if report.unpriced:
        named = ", ".join(
            f"{safe(u.profile)}/{safe(u.model)} ({u.calls:,} calls)" for u in report.unpriced
        )
        yield from _warning(
            "price unknown, $?:",
            f" {named}; set `price:` in the profile, or try `llmctl cost prices --update`",
            pen,
            width,
        )


def _unknown(report: Report, pen: Pen, width: int) -> Iterator[str]:
    """The calls whose end nobody knows."""
    calls = report.unknown
    if not calls:
        return
    several = f"{len(calls):,} calls" if len(calls) > 1 else "1 call"
    yield from _warning(
        f"end unknown: {several},",
        f" {money(*total_of(calls))} at the most; once you know: `llmctl cost release`",
        pen,
        width,
    )
    yield from unknown_lines(calls, width, report.query.zone)


def _warning(what: str, more: str, pen: Pen, width: int) -> Iterator[str]:
    first, *rest = wrapped(what + more, width)
    yield first.replace(what, pen(what, "yellow"), 1)
    yield from rest
