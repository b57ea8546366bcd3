"""How `cost report` and `cost check` travel: options → ledger → figures → stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from llmctl.cli.chart import Pen, cells, wrapped
from llmctl.cli.context import Context
from llmctl.cli.cost import CheckOptions, Format, ReportOptions
from llmctl.cli.cost_formats import (
    as_csv,
    as_json,
    as_markdown,
    budget_json,
    groups_json,
    unpriced_json,
)
from llmctl.cli.cost_table import WIDEST, budget_line, draw, money
from llmctl.cli.render import colours, is_tty, safe, write_stdout
from llmctl.cli.trusting import load
from llmctl.config.budgets import share_of
from llmctl.config.overrides import Overrides
from llmctl.config.settings import PERIODS, Budget, Settings
from llmctl.errors import UsageError
from llmctl.reports.budgets import BudgetState
from llmctl.reports.periods import Span, between, period_at, since, zone_named
from llmctl.reports.report import Group, Ledger, Query, Unpriced, check, make
from llmctl.storage.ledger_queries import EmptyReading

T = TypeVar("T")

_MOST_GROUPS = 30
"""Groups that a terminal shows one by one; a pipe gets them all."""


def share_given(flag: str, text: str) -> Decimal:
    """A share such as `80%` or `0.8`. Raises `UsageError`."""
    share = share_of(text.strip())
    if share is None:
        raise UsageError(f"{flag} wants a share such as 80% or 0.8, not {text!r}")
    return share


def run_report(options: ReportOptions, context: Context) -> int:
    """Print the report."""
    zone = zone_named(options.timezone)
    now = _now(context)
    if options.since is not None and (options.first is not None or options.last is not None):
        raise UsageError("--since and --from/--to exclude each other; give one of them")
    if options.first is not None or options.last is not None:
        span = between(options.first, options.last, now, zone)
    else:
        span = since(options.since or "30d", now, zone)
    settings = load(context, Overrides())
    query = Query(span, options.by, zone, now)
    report = _read(settings, lambda ledger: make(ledger, query, settings.budgets))
    if options.format is Format.JSON:
        text = as_json(report)
    elif options.format is Format.CSV:
        text = as_csv(report)
    elif options.format is Format.MARKDOWN:
        text = as_markdown(report)
    else:
        text = draw(report, _pen(), _width(), _MOST_GROUPS if is_tty(sys.stdout) else None)
    write_stdout(text)
    return 0


def run_check(options: CheckOptions, context: Context) -> int:
    """Print where each budget stands; 3 when one is exceeded."""
    zone = zone_named(options.timezone)
    now = _now(context)
    if options.each and not options.by:
        raise UsageError("--each needs --by: which groups are to be held to the budget?")
    settings = load(context, Overrides())
    budgets = _budgets(options, settings)
    wanted = options.period or "month"

    def look(ledger: Ledger) -> list[_Checked]:
        found: list[_Checked] = []
        for budget in budgets:
            span: Span | str = period_at(budget.period, now, zone)
            if options.budget is not None and wanted.startswith("run:"):
                span = _run_id(ledger, wanted.removeprefix("run:"))
            found.append(check(ledger, budget, span, options.by, zone))
        return found

    checked = _read(settings, look)
    states = [_held_each(options, one) for one in checked]
    code = 3 if any(bad(state, options) for state in states) else 0
    if context.json:
        _print_json(states, options, zone, code)
    else:
        _print_lines(states, options, zone)
    _complain(states, options, context)
    return code


_Checked = tuple[BudgetState, tuple[Group, ...], tuple[Unpriced, ...]]
_Held = tuple[BudgetState, tuple[Group, ...], tuple[Unpriced, ...], tuple[Group, ...]]
"""And the groups that are above the budget by themselves."""


def bad(held: _Held, options: CheckOptions) -> bool:
    """Whether this budget makes the command exit 3."""
    state, _, _, above = held
    exceeded = bool(above) if options.each else state.state == "exceeded"
    return exceeded or (options.strict and state.unknown > 0)


def _held_each(options: CheckOptions, checked: _Checked) -> _Held:
    state, groups, unpriced = checked
    limit = state.budget.limit
    above = tuple(g for g in groups if options.each and g.figures.conservative > limit)
    return state, groups if options.by else (), unpriced, above


def _budgets(options: CheckOptions, settings: Settings) -> Sequence[Budget]:
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


def _run_id(ledger: Ledger, name: str) -> str:
    known = ledger.last_run() if name == "last" else name if ledger.has_run(name) else None
    if known is None:
        raise UsageError(f"there is no call of a run {name!r} in the ledger")
    return known


def _print_lines(states: Sequence[_Held], options: CheckOptions, zone: Any) -> None:
    pen, width = _pen(), _width()
    names = [cells(safe(state.budget.name)) for state, *_ in states]
    lines: list[str] = []
    for state, groups, unpriced, above in states:
        verdict = "exceeded" if options.each and above else state.state
        if options.each and not above:
            verdict = "within"
        style = {"within": "green", "warning": "yellow", "exceeded": "red"}[verdict]
        line = budget_line(state, pen, min(max(names), 30), max(8, width // 5), zone)
        lines.append(f"{pen(f'{verdict:<8}', style)}  {line}".rstrip())
        lines += [pen(f"  {line}", "dim") for line in _details(state, width - 2)]
        for group in groups:
            name = " / ".join(safe(value) if value is not None else "(none)" for value in group.key)
            mark = pen(" exceeded", "red") if group in above else ""
            figures = group.figures
            lines.append(f"  {money(figures.conservative, figures.unknown)}  {name}{mark}")
        if unpriced:
            what = ", ".join(f"{safe(u.profile)}/{safe(u.model)} ({u.calls:,})" for u in unpriced)
            named = wrapped(f"price unknown, $?: {what}", width - 2)
            lines += [f"  {line}" for line in named]
    write_stdout("\n".join(lines) + "\n")


def _details(state: BudgetState, width: int) -> list[str]:
    """What the figure is made of, where it is not all charged."""
    figures = state.figures
    if not figures.doubtful and not state.in_flight:
        return []
    words = [f"{money(figures.cost, figures.unpriced)} charged"]
    if figures.doubtful:
        words.append(
            f"{money(figures.doubt, figures.doubtful_unpriced)} may have been billed "
            f"({figures.doubtful:,} attempt{'s' * (figures.doubtful != 1)} without an answer)"
        )
    if state.in_flight:
        words.append(
            f"{money(state.used - figures.conservative, state.held_unpriced)} at the most for "
            f"{state.in_flight:,} calls under way"
        )
    return wrapped(" + ".join(words), width)


def _print_json(states: Sequence[_Held], options: CheckOptions, zone: Any, code: int) -> None:
    import orjson

    found: list[dict[str, Any]] = []
    for state, groups, unpriced, above in states:
        said = budget_json(state, zone)
        if options.each:
            said["state"] = "exceeded" if above else "within"
        said["groups"] = groups_json(groups, options.by, state.figures)
        said["unpriced"] = unpriced_json(unpriced)
        found.append(said)
    whole = {"budgets": found, "exit_code": code}
    write_stdout(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode() + "\n")


def _complain(states: Sequence[_Held], options: CheckOptions, context: Context) -> None:
    """Why the exit code is 3, on stderr."""
    for held in states:
        state, _, _, above = held
        if not bad(held, options):
            continue
        name, limit = safe(state.budget.name), money(state.budget.limit)
        if options.each and above:
            context.say(f"budget {name}: {len(above):,} groups are above {limit}")
        elif not options.each and state.state == "exceeded":
            context.say(f"budget {name} is exceeded: {money(state.used)} of {limit}")
        else:
            context.say(
                f"budget {name}: {state.unknown:,} calls have an unknown price (--strict); set "
                "`price:` in their profile"
            )


def _read(settings: Settings, work: Callable[[Ledger], T]) -> T:
    """What `work` makes of the ledger; where there is none yet, of nothing."""
    path: Path = settings.folders.state / "ledger.db"
    if not path.exists():
        return work(EmptyReading())
    from llmctl.storage.ledger import open_ledger

    ledger = open_ledger(path, "", "")
    try:
        return ledger.report(work)
    finally:
        ledger.close()


def _now(context: Context) -> int:
    return round(context.clock.wall() * 1000)


def _pen() -> Pen:
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower()
    # A pipe gets UTF-8 whatever the locale says; a terminal only where it can show it.
    return Pen(colours(sys.stdout), "utf" in encoding or not is_tty(sys.stdout))


def _width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
