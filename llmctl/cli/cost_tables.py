"""Cost report and budget check for a person: tables and gauges, drawn by rich."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import tzinfo

from rich.bar import Bar
from rich.console import RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmctl.cli.cost_formats import COLUMNS, MAX_NAMED, total_of
from llmctl.cli.output import drawn, money, plural
from llmctl.redact import printable
from llmctl.reports.periods import local
from llmctl.reports.report import BudgetCheck, BudgetState, Group, Report, State

_BAR = 16  # columns of a bar or gauge
_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}


def draw(report: Report, width: int | None = None) -> str:
    """The report, `width` columns wide; None: as wide as stdout."""
    query, month = report.query, report.month
    span = " → ".join(
        f"{local(at, query.zone):%Y-%m-%d %H:%M}" for at in (query.span.start, query.span.end - 1)
    )
    head = Text.assemble(("LLM cost", "bold"), "  ", (f"{span} {query.zone}", "dim"))
    blocks: list[list[RenderableType]] = [[head, Text()]]
    if report.total.calls:
        blocks[0].append(_totals(report))
        blocks += [[table] for table in _groups(report)]
    else:
        blocks[0].append(Text("no calls in this span"))
    today, last = (local(at, query.zone) for at in (query.now, month.span.end - 1))
    spent = Text.assemble(
        (money(month.figures.cost, month.figures.unpriced), "bold"),
        f" → {money(month.projected)} by {last:%b} {last.day} ",
        (f"(day {today.day} of {last.day})", "dim"),
    )
    table = _budget_table()
    table.add_row("month to date", _gauge(today.day / last.day, "cyan"), spent)
    for state in report.budgets:
        table.add_row(*_budget(state, query.zone))
    blocks += [[table], [*_remarks(report)]]
    return "\n".join(drawn(*block, width=width) for block in blocks if block)


def draw_check(checked: BudgetCheck, name: State, above: Collection[Group], zone: tzinfo) -> str:
    """State of a budget, what its figure is made of, and its groups; those `above` are marked."""
    state, figures = checked.state, checked.state.figures
    table = _budget_table()
    table.add_row(Text(f"{name:<8}", _COLOURS[name]), *_budget(state, zone))
    parts = [f"{money(figures.cost, figures.unpriced)} charged"]
    if figures.doubtful:
        parts.append(
            f"{money(figures.doubt, figures.doubtful_unpriced)} may have been billed "
            f"({plural(figures.doubtful, 'attempt')} without an answer)"
        )
    if state.in_flight:
        held = money(state.usage.held, state.held_unpriced)
        parts.append(f"{held} at the most for {plural(state.in_flight, 'call')} under way")
    lines = [Text(" + ".join(parts), "dim")] if len(parts) > 1 else []
    for group in checked.groups:
        amount = money(group.figures.conservative, group.figures.unknown)
        mark = " exceeded" if group in above else ""
        lines.append(Text.assemble(f"{amount}  {_name(group)}", (mark, "red")))
    if checked.unpriced:
        what = ", ".join(f"{u.profile}/{u.model} ({u.calls:,})" for u in checked.unpriced)
        lines.append(Text(f"price unknown, $?: {printable(what)}"))
    return drawn(table, *(Padding(line, (0, 0, 0, 2)) for line in lines))


def _totals(report: Report) -> Text:
    total = report.total
    cells = {column.title: column.show(column.value(total, total)) for column in COLUMNS}
    slow = ", ".join(f"{name} {cell}" for name, cell in cells.items() if name.startswith("p"))
    words = (
        Text(cells["cost"], "bold green"),
        Text(plural(total.calls, "call")),
        Text(f"{cells['in']} tokens in + {cells['out']} out"),
        Text(f"{cells['errors']} errors", "red" if total.errors else ""),
        Text(f"{cells['saved']} saved by the cache ({plural(total.kept, 'call')})"),
        Text(f"latency {slow}"),
    )
    return Text(" · ").join(words)


def _groups(report: Report) -> tuple[Table, Table]:
    """Cost and share of each group with a bar, and a table of its other figures."""
    title = ", ".join(name.removeprefix("tag:") for name in report.query.by)
    titles = [column.title for column in COLUMNS]
    costs, figures = _table(title, *titles[:2], ""), _table(title, *titles[2:])
    for group in report.groups:
        name = Text(_name(group), "bold", no_wrap=True, overflow="ellipsis")
        cells = [column.show(column.value(group.figures, report.total)) for column in COLUMNS]
        share = group.figures.share_of(report.total) or 0.0
        costs.add_row(name, *cells[:2], Bar(1, 0, share, width=_BAR, color="cyan"))
        figures.add_row(name, *cells[2:])
    return costs, figures


def _table(title: str, *right: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(title)  # it alone may wrap, and so rich cuts it first; its texts do not
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(group: Group) -> str:
    """The group's values of the dimensions, safe for a terminal."""
    words = ("(none)" if value is None else printable(value) or "-" for value in group.key)
    return " ".join(" / ".join(words).split())


def _budget_table() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
    return table


def _budget(state: BudgetState, zone: tzinfo) -> Sequence[RenderableType]:
    """Name, gauge, usage and limit of a budget, and its end or state."""
    colour, share = _COLOURS[state.state], 1.0 if state.share is None else float(state.share)
    note = {"within": "", "warning": "above its mark", "exceeded": "EXCEEDED"}[state.state]
    if not note and state.span:
        end = local(state.span.end - 1, zone)
        note, colour_of_note = f"until {end:%b} {end.day}", "dim"
    else:
        colour_of_note = colour
    used = Text.assemble(
        (money(state.used, state.unknown), f"bold {colour}"),
        f" of {money(state.budget.limit)} ({share:.0%}) ",
        (note, colour_of_note),
    )
    return Text(printable(state.budget.name)), _gauge(share, colour), used


def _gauge(share: float, colour: str) -> ProgressBar:
    return ProgressBar(
        1, min(share, 1.0), _BAR, style="dim", complete_style=colour, finished_style=colour
    )


def _remarks(report: Report) -> Iterator[RenderableType]:
    total, calls = report.total, report.unknown
    if total.doubtful:
        amount = money(total.doubt, total.doubtful_unpriced)
        yield Text.assemble(
            (f"may have been billed: {amount}", "yellow"),
            " at the most, besides the figures above "
            f"({plural(total.doubtful, 'attempt')} without an answer)",
        )
    if calls:
        yield Text.assemble(
            (f"end unknown: {plural(len(calls), 'call')},", "yellow"),
            f" {money(*total_of(calls))} at the most; once you know: `llmctl cost release`",
        )
    for call in calls[:MAX_NAMED]:
        at = f"{local(call.started_ms, report.query.zone):%Y-%m-%d %H:%M:%S}"
        line = f"  {call.call_id:<28}  {at}  {money(call.cost):>8}  {call.profile}/{call.model}"
        yield Text(printable(line), no_wrap=True, overflow="ellipsis")
    if len(calls) > MAX_NAMED:
        yield Text(f"  and {len(calls) - MAX_NAMED:,} more")
    if report.unpriced:
        named = ", ".join(
            f"{u.profile}/{u.model} ({plural(u.calls, 'call')})" for u in report.unpriced
        )
        yield Text.assemble(
            ("price unknown, $?:", "yellow"),
            f" {printable(named)}; set `price:` in the profile, or try "
            "`llmctl cost prices --update`",
        )
