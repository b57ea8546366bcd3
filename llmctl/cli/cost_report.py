"""Use cases `cost report` and `cost check`: ledger → figures → stdout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from decimal import Decimal
from typing import TypeVar

from msgspec.structs import asdict, replace

from llmctl.cli.context import Context, load_settings
from llmctl.cli.cost_formats import as_csv, as_json, as_markdown, budget_json, groups_json
from llmctl.cli.output import money, print_json, write_stdout
from llmctl.config.settings import PERIODS, Budget, Settings
from llmctl.errors import UsageError
from llmctl.reports.periods import between, period_at, since, zone_named
from llmctl.reports.report import BudgetCheck, Group, Query, check, make, parse_by
from llmctl.storage.ledger import empty_reading, open_ledger
from llmctl.storage.ledger_queries import Reading

T = TypeVar("T")


def run_report(
    context: Context,
    *,
    ago: str | None,
    first: str | None,
    last: str | None,
    by: Sequence[str],
    format: str,
    timezone: str,
) -> int:
    """Print the report in a format: table, json, csv or markdown."""
    zone, now = zone_named(timezone), round(context.clock.wall() * 1000)
    if first is None and last is None:
        span = since(ago or "30d", now, zone)
    elif ago is None:
        span = between(first, last, now, zone)
    else:
        raise UsageError("--since and --from/--to exclude each other; give one of them")
    query = Query(span, parse_by(by), zone, now)
    settings = load_settings(context)
    report = _read(settings, lambda ledger: make(ledger, query, settings.budgets))
    if format == "table":
        from llmctl.cli.cost_tables import draw

        write_stdout(draw(report))
    else:
        write_stdout({"json": as_json, "csv": as_csv, "markdown": as_markdown}[format](report))
    return 0


def run_check(
    context: Context,
    *,
    budget: Decimal | None,
    period: str | None,
    by: Sequence[str],
    each: bool,
    warn_at: Decimal | None,
    strict: bool,
    timezone: str,
) -> int:
    """Print the state of each budget (`budget` None: the configured ones); 3: one is exceeded."""
    from llmctl.cli.cost_tables import draw_check

    zone, now, dimensions = zone_named(timezone), round(context.clock.wall() * 1000), parse_by(by)
    if each and not dimensions:
        raise UsageError("--each needs --by: which groups are to be held to the budget?")
    settings = load_settings(context)
    budgets = _budgets(settings, budget, period, dimensions)
    if warn_at is not None:
        budgets = [replace(one, warn_at=(warn_at,)) for one in budgets]
    _, of_run, run_name = (period or "").partition("run:")

    def look(ledger: Reading) -> list[BudgetCheck]:
        run = _run_id(ledger, run_name) if of_run else None
        return [
            check(ledger, one, run or period_at(one.period, now, zone), dimensions, zone)
            for one in budgets
        ]

    found, complaints = [], []
    for checked in _read(settings, look):
        state = checked.state
        groups = checked.groups if dimensions else ()
        above = [g for g in groups if each and g.figures.conservative > state.budget.limit]
        name = ("exceeded" if above else "within") if each else state.state
        complaints.append(_complaint(checked, above, each=each, strict=strict))
        if context.json:
            figures = groups_json(groups, dimensions, state.figures)
            unpriced = [asdict(one) for one in checked.unpriced]
            result = {"state": name, "groups": figures, "unpriced": unpriced}
            found.append(budget_json(state, zone) | result)
        else:
            shown = replace(checked, groups=groups)
            write_stdout(draw_check(shown, name, above, zone))
    code = 3 if any(complaints) else 0
    if context.json:
        print_json({"budgets": found, "exit_code": code})
    for complaint in filter(None, complaints):
        context.info(complaint)
    return code


def _budgets(
    settings: Settings, limit: Decimal | None, period: str | None, by: Sequence[str]
) -> Sequence[Budget]:
    """The budgets to check: that of the flags, or the configured ones. Raises `UsageError`."""
    if limit is not None:
        period = period or "month"
        if period.startswith("run:"):
            if "day" in by:
                raise UsageError("--by day does not go with a run: leave it out")
            return [Budget(period, limit, "month")]
        if period not in PERIODS:
            raise UsageError(f"--period wants day, week, month or run:ID, not {period!r}")
        return [Budget(f"this {period}", limit, period)]
    if period is not None:
        raise UsageError("--period goes with --budget; configured budgets have their own")
    if not settings.budgets:
        raise UsageError(
            "there is no budget to check: give --budget USD, or write `budgets:` into the "
            "configuration (- {name: team, limit_usd: 100, period: month})"
        )
    return settings.budgets


def _run_id(ledger: Reading, name: str) -> str:
    """The id of a run, or of the latest for `last`. Raises `UsageError`."""
    found = ledger.last_run() if name == "last" else name if ledger.has_run(name) else None
    if found is None:
        raise UsageError(f"there is no call of a run {name!r} in the ledger")
    return found


def _complaint(checked: BudgetCheck, above: Collection[Group], *, each: bool, strict: bool) -> str:
    """Why the exit code is 3; empty when the budget is kept to."""
    state = checked.state
    name, limit = state.budget.name, money(state.budget.limit)
    if above:
        return f"budget {name}: {len(above):,} groups are above {limit}"
    if state.state == "exceeded" and not each:
        return f"budget {name} is exceeded: {money(state.used)} of {limit}"
    if strict and state.unknown:
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
