"""Use cases `cost report` and `cost check`: ledger → figures → stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import tzinfo
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from llmctl.cli.context import Context, load_settings
from llmctl.cli.cost_formats import as_csv, as_json, as_markdown, budget_json, groups_json
from llmctl.cli.output import columns, is_tty, money, plural, print_json, write_stdout
from llmctl.config.settings import PERIODS, Budget, Settings
from llmctl.errors import UsageError
from llmctl.redact import printable
from llmctl.reports.periods import between, period_at, since, zone_named
from llmctl.reports.report import BudgetCheck, BudgetState, Group, Query, State, check, make
from llmctl.storage.ledger import empty_reading, open_ledger
from llmctl.storage.ledger_queries import Reading

T = TypeVar("T")

_MAX_GROUPS = 30
"""Most groups that a terminal shows one by one; a pipe gets them all."""


class CheckOptions(Struct, frozen=True):
    """Options of `cost check`; `budget` None: the configured budgets."""

    budget: Decimal | None = None
    period: str | None = None
    by: tuple[str, ...] = ()
    each: bool = False
    warn_at: Decimal | None = None
    strict: bool = False
    timezone: str = "UTC"


def run_report(
    context: Context,
    *,
    ago: str | None,
    first: str | None,
    last: str | None,
    by: tuple[str, ...],
    format: str,
    timezone: str,
) -> int:
    """Print the report in a format: table, json, csv or markdown."""
    zone, now = zone_named(timezone), _now(context)
    if first is None and last is None:
        span = since(ago or "30d", now, zone)
    elif ago is None:
        span = between(first, last, now, zone)
    else:
        raise UsageError("--since and --from/--to exclude each other; give one of them")
    settings = load_settings(context)
    query = Query(span, by, zone, now)
    report = _read(settings, lambda ledger: make(ledger, query, settings.budgets))
    if format == "table":
        from llmctl.cli.cost_tables import draw

        text = draw(report, columns(), _MAX_GROUPS if is_tty(sys.stdout) else None)
    else:
        text = {"json": as_json, "csv": as_csv, "markdown": as_markdown}[format](report)
    write_stdout(text)
    return 0


class Verdict(Struct, frozen=True):
    """Result of a check. `above`: groups that exceed the budget by themselves (`--each`)."""

    state: BudgetState
    groups: tuple[Group, ...]
    unpriced: tuple[Any, ...]
    above: tuple[Group, ...]
    name: State


def run_check(options: CheckOptions, context: Context) -> int:
    """Print the state of each budget; 3 when one is exceeded."""
    zone, now = zone_named(options.timezone), _now(context)
    if options.each and not options.by:
        raise UsageError("--each needs --by: which groups are to be held to the budget?")
    settings = load_settings(context)
    budgets = _budgets(options, settings)
    _, of_run, run_name = (options.period or "").partition("run:")

    def look(ledger: Reading) -> list[Verdict]:
        run = _run_id(ledger, run_name) if of_run else None
        return [
            _verdict(
                check(ledger, budget, run or period_at(budget.period, now, zone), options.by, zone),
                each=options.each,
            )
            for budget in budgets
        ]

    verdicts = _read(settings, look)
    complaints = [_complaint(verdict, options) for verdict in verdicts]
    code = 3 if any(complaints) else 0
    if context.json:
        found = [
            {
                **budget_json(verdict.state, zone),
                "state": verdict.name,
                "groups": groups_json(
                    verdict.groups if options.by else (), options.by, verdict.state.figures
                ),
                "unpriced": [asdict(each) for each in verdict.unpriced],
            }
            for verdict in verdicts
        ]
        print_json({"budgets": found, "exit_code": code})
    else:
        _print_verdicts(verdicts, options.by, zone)
    for complaint in filter(None, complaints):
        context.info(complaint)
    return code


def _verdict(checked: BudgetCheck, *, each: bool) -> Verdict:
    state, name = checked.state, checked.state.state
    above: tuple[Group, ...] = ()
    if each:
        limit = state.budget.limit
        above = tuple(group for group in checked.groups if group.figures.conservative > limit)
        name = "exceeded" if above else "within"
    return Verdict(state, checked.groups, checked.unpriced, above, name)


def _budgets(options: CheckOptions, settings: Settings) -> Sequence[Budget]:
    """The budgets to check: that of the flags, or the configured ones. Raises `UsageError`."""
    warn = () if options.warn_at is None else (options.warn_at,)
    if options.budget is not None:
        period = options.period or "month"
        if period.startswith("run:"):
            if "day" in options.by:
                raise UsageError("--by day does not go with a run: leave it out")
            return [Budget(period, options.budget, "month", warn)]
        if period not in PERIODS:
            raise UsageError(f"--period wants day, week, month or run:ID, not {period!r}")
        return [Budget(f"this {period}", options.budget, period, warn)]
    if options.period is not None:
        raise UsageError("--period goes with --budget; configured budgets have their own")
    if not settings.budgets:
        raise UsageError(
            "there is no budget to check: give --budget USD, or write `budgets:` into the "
            "configuration (- {name: team, limit_usd: 100, period: month})"
        )
    return [replace(b, warn_at=warn) if warn else b for b in settings.budgets]


def _run_id(ledger: Reading, name: str) -> str:
    """The id of a run, or of the latest for `last`. Raises `UsageError`."""
    found = ledger.last_run() if name == "last" else name if ledger.has_run(name) else None
    if found is None:
        raise UsageError(f"there is no call of a run {name!r} in the ledger")
    return found


def _print_verdicts(verdicts: Sequence[Verdict], by: Sequence[str], zone: tzinfo) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from llmctl.cli.cost_tables import budget_row, budget_table, group_name
    from llmctl.cli.output import drawn

    width = columns()
    for verdict in verdicts:
        style = {"within": "green", "warning": "yellow", "exceeded": "red"}[verdict.name]
        table = budget_table()
        table.add_row(Text(f"{verdict.name:<8}", style), *budget_row(verdict.state, width, zone))
        details: list[Text] = []
        if made_of := _details(verdict.state):
            details.append(Text(made_of, "dim"))
        for group in verdict.groups if by else ():
            figures = group.figures
            line = f"{money(figures.conservative, figures.unknown)}  {group_name(group)}"
            mark = " exceeded" if group in verdict.above else ""
            details.append(Text.assemble(line, (mark, "red")))
        if verdict.unpriced:
            what = ", ".join(f"{u.profile}/{u.model} ({u.calls:,})" for u in verdict.unpriced)
            details.append(Text(f"price unknown, $?: {printable(what)}"))
        write_stdout(drawn(table, *(Padding(line, (0, 0, 0, 2)) for line in details), width=width))


def _details(state: BudgetState) -> str:
    """The parts of the figure; empty when all of it is charged."""
    figures = state.figures
    if not figures.doubtful and not state.in_flight:
        return ""
    words = [f"{money(figures.cost, figures.unpriced)} charged"]
    if figures.doubtful:
        words.append(
            f"{money(figures.doubt, figures.doubtful_unpriced)} may have been billed "
            f"({plural(figures.doubtful, 'attempt')} without an answer)"
        )
    if state.in_flight:
        held = money(state.usage.held, state.held_unpriced)
        words.append(f"{held} at the most for {state.in_flight:,} calls under way")
    return " + ".join(words)


def _complaint(verdict: Verdict, options: CheckOptions) -> str:
    """Why the exit code is 3; empty when the budget is kept to."""
    state = verdict.state
    name, limit = state.budget.name, money(state.budget.limit)
    if verdict.above:
        return f"budget {name}: {len(verdict.above):,} groups are above {limit}"
    if verdict.name == "exceeded":
        return f"budget {name} is exceeded: {money(state.used)} of {limit}"
    if options.strict and state.unknown:
        return (
            f"budget {name}: {state.unknown:,} calls have an unknown price (--strict); set "
            "`price:` in their profile"
        )
    return ""


def _read(settings: Settings, work: Callable[[Reading], T]) -> T:
    """What `work` makes of the ledger; where there is none yet, of an empty one."""
    path = settings.folders.state / "ledger.db"
    if not path.exists():
        with empty_reading() as reading:
            return work(reading)
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(work)


def _now(context: Context) -> int:
    """The present moment in milliseconds since the epoch."""
    return round(context.clock.wall() * 1000)
