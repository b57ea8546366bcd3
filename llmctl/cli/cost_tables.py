"""Cost report for a person: tables, bars and gauges, drawn by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, tzinfo
from decimal import Decimal

from rich.bar import Bar
from rich.console import RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmctl.cli.cost_formats import COLUMNS, Column
from llmctl.cli.cost_release import MAX_NAMED, total_of
from llmctl.cli.output import drawn, money, percent, plural
from llmctl.redact import printable
from llmctl.reports.periods import local
from llmctl.reports.report import BudgetState, Figures, Group, Report
from llmctl.storage.ledger_queries import UnknownCall

_MAX_BARS = 14
_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}


def draw(report: Report, width: int, max_groups: int | None = None) -> str:
    """The report, `width` columns wide; of more groups than `max_groups` the rest is summed."""
    blocks: list[list[RenderableType]] = [[*_heading(report)]]
    if report.total.calls:
        blocks += [[*_groups(report, width, max_groups)], [*_by_day(report, width)]]
    blocks += [[_month(report, width)], [*_remarks(report)]]
    texts = (drawn(*block, width=width) for block in blocks)
    return "\n".join(text for text in texts if text)


def tokens(number: int) -> str:
    """`950`, `12.3k`, `4.5M`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(number)


def latency(milliseconds: int | None) -> str:
    """`0.91s`, `12.3s`, `3m05s`; a dash for none."""
    if milliseconds is None:
        return "-"
    if milliseconds < 9_995:
        return f"{milliseconds / 1000:.2f}s"
    if milliseconds < 99_950:
        return f"{milliseconds / 1000:.1f}s"
    minutes, rest = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}m{rest:02}s"


def group_name(group: Group) -> str:
    """The group's values of the dimensions, safe for a terminal."""
    words = ("(none)" if value is None else printable(value) or "-" for value in group.key)
    return " ".join(" / ".join(words).split())


def budget_table() -> Table:
    """An empty table of budgets; see `budget_row`."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
    return table


def budget_row(state: BudgetState, width: int, zone: tzinfo) -> tuple[RenderableType, ...]:
    """Name, gauge, usage and limit of a budget, and its end or state."""
    colour = _COLOURS[state.state]
    share = 1.0 if state.share is None else float(state.share)
    end = f"until {_day(local(state.span.end - 1, zone).date())}" if state.span else ""
    note = {"within": "", "warning": "above its mark", "exceeded": "EXCEEDED"}[state.state]
    used = Text.assemble(
        (money(state.used, state.unknown), f"bold {colour}"),
        f" of {money(state.budget.limit)} ({share:.0%}) ",
        (note or end, colour if note else "dim"),
    )
    return Text(printable(state.budget.name)), _gauge(share, width, colour), used


def _gauge(share: float, width: int, colour: str) -> ProgressBar:
    bar = max(8, width // 5)
    return ProgressBar(
        total=1, completed=min(share, 1.0), width=bar, complete_style=colour,
        finished_style=colour, style="dim",
    )  # fmt: skip


def _day(day: date) -> str:
    return f"{day:%b} {day.day}"


def _heading(report: Report) -> Iterator[Text]:
    query, total = report.query, report.total
    start, end = (local(at, query.zone) for at in (query.span.start, query.span.end - 1))
    span = f"{start:%Y-%m-%d %H:%M} → {end:%Y-%m-%d %H:%M} {query.zone}"
    yield Text.assemble(("LLM cost", "bold"), "  ", (span, "dim"))
    yield Text()
    if not total.calls:
        yield Text("no calls in this span")
        return
    slow = [column for column in COLUMNS if column.kind == "latency"]
    words = (
        Text(money(total.cost, total.unpriced), "bold green"),
        Text(f"{total.calls:,} calls"),
        Text(f"{tokens(total.input_tokens)} tokens in + {tokens(total.output_tokens)} out"),
        Text(f"{percent(total.error_rate)} errors", "red" if total.errors else ""),
        Text(f"{money(total.saved, total.unsaved)} saved by the cache ({total.kept:,} calls)"),
        Text("latency " + ", ".join(f"{c.title} {latency(c.value(total, total))}" for c in slow)),
    )
    yield Text(" · ").join(words)


def _groups(report: Report, width: int, most: int | None) -> Iterator[Table]:
    """Cost and share of each group, and below them its other figures."""
    title = ", ".join(name.removeprefix("tag:") for name in report.query.by)
    costs = _table(title, *(column.title for column in COLUMNS[:2]), "")
    figures = _table(title, *(column.title for column in COLUMNS[2:]))
    for group in _shortened(report.groups, most, len(report.query.by)):
        name = Text(group_name(group), "bold")
        cells = [_cell(column, group.figures, report.total) for column in COLUMNS]
        share = group.figures.share_of(report.total) or 0.0
        costs.add_row(name, *cells[:2], Bar(1, 0, share, width=max(8, width // 5), color="cyan"))
        figures.add_row(name, *cells[2:])
    yield costs
    yield Table.grid()
    yield figures


def _table(title: str, *right: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(title, no_wrap=True, overflow="ellipsis")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cell(column: Column, figures: Figures, whole: Figures) -> Text:
    value = column.value(figures, whole)
    if column.kind == "money":
        return Text(money(*value))
    if column.kind == "share":
        return Text(percent(value), "red" if column.title == "errors" and value else "")
    shown = {"count": "{:,}".format, "tokens": tokens, "latency": latency}[column.kind]
    return Text(shown(value))


def _shortened(groups: Sequence[Group], most: int | None, depth: int) -> Sequence[Group]:
    if most is None or len(groups) <= most:
        return groups
    rest = Figures()
    for group in groups[most - 1 :]:
        rest.merge(group.figures)
    name = f"{len(groups) - most + 1:,} others"
    return [*groups[: most - 1], Group((name, *("…",) * (depth - 1)), rest)]


def _by_day(report: Report, width: int) -> Iterator[Table]:
    """A bar a day, or for several days: cost, or calls where nothing costs anything."""
    size = -(-len(report.days) // _MAX_BARS)
    chunks = [report.days[n : n + size] for n in range(0, len(report.days), size)]
    costs = [sum((f.cost or Decimal(0) for _, f in chunk), Decimal(0)) for chunk in chunks]
    paid = any(costs)
    values = costs if paid else [Decimal(sum(f.calls for _, f in chunk)) for chunk in chunks]
    most = max(values)
    if len(chunks) < 2 or not most:
        return
    table = _table("day" if size == 1 else f"{size} days from", "cost" if paid else "calls", "")
    for chunk, value in zip(chunks, values, strict=True):
        bar = Bar(float(most), 0, float(value), width=max(8, width // 2), color="cyan")
        table.add_row(_day(chunk[0][0]), money(value) if paid else f"{value:,}", bar)
    yield table


def _month(report: Report, width: int) -> Table:
    """The month to date with its projection, and the budgets."""
    month, now, zone = report.month, report.query.now, report.query.zone
    today, last = local(now, zone), local(month.span.end - 1, zone)
    gone = (now - month.span.start) / (month.span.end - month.span.start)
    spent = Text.assemble(
        (money(month.figures.cost, month.figures.unpriced), "bold"),
        f" → {money(month.projected)} by {_day(last.date())} ",
        (f"(day {today.day} of {last.day})", "dim"),
    )
    table = budget_table()
    table.add_row("month to date", _gauge(gone, width, "cyan"), spent)
    for state in report.budgets:
        table.add_row(*budget_row(state, width, zone))
    return table


def _remarks(report: Report) -> Iterator[RenderableType]:
    total = report.total
    if total.doubtful:
        amount = money(total.doubt, total.doubtful_unpriced)
        yield Text.assemble(
            (f"may have been billed: {amount}", "yellow"),
            " at the most, besides the figures above "
            f"({plural(total.doubtful, 'attempt')} without an answer)",
        )
    if report.unknown:
        yield Text.assemble(
            (f"end unknown: {plural(len(report.unknown), 'call')},", "yellow"),
            f" {money(*total_of(report.unknown))} at the most; "
            "once you know: `llmctl cost release`",
        )
        yield Padding(_unknown_calls(report.unknown, report.query.zone), (0, 0, 0, 2))
        if len(report.unknown) > MAX_NAMED:
            yield Text(f"  and {len(report.unknown) - MAX_NAMED:,} more")
    if report.unpriced:
        named = ", ".join(f"{u.profile}/{u.model} ({u.calls:,} calls)" for u in report.unpriced)
        yield Text.assemble(
            ("price unknown, $?:", "yellow"),
            f" {printable(named)}; set `price:` in the profile, or try "
            "`llmctl cost prices --update`",
        )


def _unknown_calls(calls: Sequence[UnknownCall], zone: tzinfo) -> Table:
    """The first of the calls: id, time, profile and model, dollars."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=28)  # whole: it is to be copied
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, justify="right", min_width=8)
    for call in calls[:MAX_NAMED]:
        at = f"{local(call.started_ms, zone):%Y-%m-%d %H:%M:%S}"
        name = Text(printable(f"{call.profile}/{call.model}"))
        table.add_row(Text(printable(call.call_id)), at, name, money(call.cost))
    return table
