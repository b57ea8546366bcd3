"""Cost report and budget check for a person: tables and gauges, drawn by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo

from rich.bar import Bar
from rich.console import RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmctl.cli.cost_formats import (
    COLUMNS,
    MAX_NAMED,
    dimensions,
    group_rows,
    remarks,
    summary,
)
from llmctl.cli.output import drawn, money, plural
from llmctl.pricing import HOW_TO_SET
from llmctl.redact import printable
from llmctl.reports.periods import local
from llmctl.reports.report import BudgetCheck, BudgetState, Group, Report
from llmctl.reports.targets import PERCENTILES

_BAR = 16  # columns of a bar or gauge
_SUMS, _TIMES = 4, -(len(PERCENTILES) + 1)  # of `COLUMNS`: where the second table begins, the third
_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}


def draw(report: Report) -> str:
    """The report, as wide as stdout."""
    return "\n".join(drawn(*block) for block in blocks(report))


def blocks(report: Report) -> list[list[RenderableType]]:
    """The parts of the report: head, tables of groups, budgets, remarks; none is empty."""
    found: list[list[RenderableType]] = [[Text("LLM cost", "bold"), Text(), Text(summary(report))]]
    if report.total.calls:
        found += [[table] for table in _groups(report)]
    else:
        found.append([Text("no calls in this span")])
    if report.budgets:
        table = _budget_table()
        for state in report.budgets:
            table.add_row(*_budget(state, report.query.zone))
        found.append([table])
    found.append([*_remarks(report)])
    return [block for block in found if block]


def draw_check(checked: BudgetCheck, groups: Sequence[Group], zone: tzinfo) -> str:
    """State of a budget, what its figure is made of, and groups of its calls."""
    state, figures = checked.state, checked.state.figures
    table = _budget_table()
    table.add_row(Text(f"{state.state:<8}", _COLOURS[state.state]), *_budget(state, zone))
    parts = [f"{money(figures.cost, figures.unpriced)} charged"]
    if figures.doubtful:
        parts.append(
            f"{money(figures.doubt, figures.doubtful_unpriced)} may have been billed "
            f"({plural(figures.doubtful, 'attempt')} without an answer)"
        )
    if state.in_flight:
        held = money(state.usage.held, state.held_unpriced)
        parts.append(f"{held} at the most for {plural(state.in_flight, 'call')} under way")
    said = " + ".join(parts)
    if state.everywhere is not None:
        said = f"on all machines, by the coordinator; on this one {said}"
    lines = [Text(said, "dim")] if state.everywhere is not None or len(parts) > 1 else []
    for group in groups:
        amount = money(group.figures.conservative, group.figures.unknown)
        lines.append(Text(f"{amount}  {' / '.join(_safe(value or '-') for value in group.key)}"))
    if checked.unpriced:
        what = ", ".join(f"{u.profile}/{u.model} ({u.calls:,})" for u in checked.unpriced)
        lines.append(Text(f"price unknown, $?: {printable(what)}"))
    return drawn(table, *(Padding(line, (0, 0, 0, 2)) for line in lines))


def _safe(name: str) -> str:
    return " ".join(printable(name).split())


def _groups(report: Report) -> tuple[Table, ...]:
    """Cost, share and calls of each group with a bar; a table of its other sums; one of times."""
    titles = [column.title for column in COLUMNS]
    tables = [
        _table(report, *titles[:_SUMS], ""),
        _table(report, *titles[_SUMS:_TIMES]),
        _table(report, *titles[_TIMES:]),
    ]
    for key, sums in group_rows(report, _safe, "total"):
        names = [Text(name, "bold", overflow="fold") for name in key]
        cells = [column.show(column.value(sums, report.total)) for column in COLUMNS]
        bar = Bar(1, 0, sums.share_of(report.total) or 0.0, width=_BAR, color="cyan")
        tables[0].add_row(*names, *cells[:_SUMS], bar)
        tables[1].add_row(*names, *cells[_SUMS:_TIMES])
        tables[2].add_row(*names, *cells[_TIMES:])
    return tuple(tables)


def _table(report: Report, *figures: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in dimensions(report):
        table.add_column(printable(name))  # these alone may wrap
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _budget_table() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=30)
    return table


def _budget(state: BudgetState, zone: tzinfo) -> Sequence[RenderableType]:
    """Name, gauge, usage and limit of a budget, and its end or state."""
    colour, share = _COLOURS[state.state], 1.0 if state.share is None else float(state.share)
    note = {"within": "", "warning": "above its mark", "exceeded": "EXCEEDED"}[state.state]
    if not note and state.span:
        note = f"until {local(state.span.end - 1, zone):%b %d}"
    used = Text.assemble(
        (money(state.used, state.unknown), f"bold {colour}"),
        f" of {money(state.budget.limit)} ({share:.0%}) {note}",
    )
    gauge = ProgressBar(
        1, min(share, 1.0), _BAR, style="dim", complete_style=colour, finished_style=colour
    )
    return Text(printable(state.budget.name)), gauge, used


def _remarks(report: Report) -> Iterator[Text]:
    calls = report.unknown
    for remark in remarks(report, printable):
        yield Text(remark, "yellow")
    for call in calls[:MAX_NAMED]:
        at = f"{local(call.started_ms, report.query.zone):%Y-%m-%d %H:%M:%S}"
        line = f"  {call.call_id:<28}  {at}  {money(call.cost):>8}  {call.profile}/{call.model}"
        yield Text(printable(line), overflow="fold")
    if len(calls) > MAX_NAMED:
        yield Text(f"  and {len(calls) - MAX_NAMED:,} more")
    if calls:
        yield Text("Once you know how a call ended: `llmctl cost release`.")
    if report.unpriced:
        yield Text(
            f"Try `llmctl cost prices --update`, or set `price:` in the profile, {HOW_TO_SET}."
        )
