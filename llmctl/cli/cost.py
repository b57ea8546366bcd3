"""`llmctl cost`: what was spent, whether it is within budget, and by which prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from msgspec.structs import asdict, replace
from typer import Argument, Option

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import BUDGET_FLAG, command, command_group, parse_dollars, parsed
from llmctl.cli.output import age, money, plural, print_json, print_lines, write_json, write_stdout
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmctl.config.settings import Budget, Settings
    from llmctl.reports.report import BudgetCheck
    from llmctl.storage.ledger_queries import Reading, UnknownCall

T = TypeVar("T")
app = command_group("Report spending, check budgets, settle what is unknown.")

ByOption = Annotated[
    list[str] | None,
    Option(
        metavar="DIMENSIONS",
        help="Group by day, model, profile, provider, user or tag:NAME; several with commas.",
    ),
]
TimezoneOption = Annotated[
    str, Option(metavar="ZONE", help="Whose days count, such as Europe/Berlin.")
]


@command(app, "report", "config", "json")
def report(
    context: Context,
    ago: Annotated[
        str | None,
        Option("--since", metavar="7d|DATE", help="So long ago until now. Default: 30d."),
    ] = None,
    first: Annotated[
        str | None, Option("--from", metavar="D", help="From this date, or time, on.")
    ] = None,
    last: Annotated[
        str | None, Option("--to", metavar="D", help="Until the end of this date, or a time.")
    ] = None,
    by: ByOption = None,
    format: Annotated[
        Literal["table", "json", "csv", "markdown"], Option(help="See below.")
    ] = "table",
    timezone: TimezoneOption = "UTC",
) -> int:
    """Show what calls cost, from the ledger on this machine.

    Groups are models, unless --by says others. A kept answer costs nothing and counts as saved.
    Errors are calls without an answer, not those you gave up. Latencies are nearest-rank
    percentiles. The projection lets each day to come cost the average of the month so far.
    Costs that nobody knows are $?, null or empty, and never 0.

    \b
    --format json (or --json), one object; amounts are exact numbers in USD, null
    is unknown:
      from, to, timezone, by
      total      calls, errors, error_rate, refused_calls (by a budget), retries,
                 rate_limit_hits, estimated_calls, cached_calls, input_tokens,
                 output_tokens, cached_input_tokens, cache_write_tokens,
                 reasoning_tokens, cost_usd, share, mean_cost_usd (of a call that
                 was sent), saved_usd, unpriced_calls, uncertain_attempts,
                 may_have_been_billed_usd, latency_ms {p50, p95, p99}
      groups     [{key {DIMENSION: value or null}, and all fields of total}]
      days       [{day, calls, cost_usd}]
      month_to_date  {from, to, calls, cost_usd, may_have_been_billed_usd,
                 unpriced_calls, projected_usd}
      budgets    [{name, period, from, to, match, limit_usd, used_usd, used_share,
                 cost_usd, may_have_been_billed_usd, in_flight_calls,
                 unpriced_calls, state}], state is within, warning or exceeded
      error_types  {TYPE: calls}
      unpriced   [{profile, provider, model, calls}]
      unknown    {calls, usd, unpriced_calls, first [{call_id, run_id, time,
                 profile, provider, model, usd}]}: calls in doubt, usd beyond what
                 is known; the first 20 by name
    --format csv: a line a group: the dimensions, the fields of total in this
      order, latency_p50_ms, latency_p95_ms, latency_p99_ms. Unknown is empty;
      text beginning with = + - @ tab or CR gets an apostrophe in front.
    --format markdown: tables of groups and budgets, for a CI job's summary.

    \b
    Examples:
      llmctl cost report --since 7d --by day
      llmctl cost report --from 2026-11-01 --by profile,model --format csv
    """
    from llmctl.cli.cost_formats import as_csv, as_json, as_markdown
    from llmctl.cli.cost_tables import draw
    from llmctl.reports import report as reports
    from llmctl.reports.periods import between, since, zone_named

    zone, now = zone_named(timezone), round(context.clock.wall() * 1000)
    if first is None and last is None:
        span = since(ago or "30d", now, zone)
    elif ago is None:
        span = between(first, last, now, zone)
    else:
        raise UsageError("--since and --from/--to exclude each other; give one of them")
    query = reports.Query(span, reports.parse_by(by or ["model"]), zone, now)
    settings = load_settings(context)
    found = _read(settings, lambda ledger: reports.make(ledger, query, settings.budgets))
    formats = {"table": draw, "csv": as_csv, "markdown": as_markdown}
    if context.json:
        write_json(as_json(found))
    else:
        write_stdout(formats[format](found), coloured=format == "table")
    return 0


@command(app, "check", "config", "json")
def check(
    context: Context,
    budget: Annotated[
        str | None, Option(metavar="USD", help="Default: the configured budgets.")
    ] = None,
    period: Annotated[
        str | None,
        Option(metavar="day|week|month|run:ID", help="What --budget is for. Default: month."),
    ] = None,
    by: ByOption = None,
    warn_at: Annotated[
        str | None, Option(metavar="80%", help="Say `warning` from this share on; still exit 0.")
    ] = None,
    strict: Annotated[
        bool, Option("--strict", help="Exit 3 too when calls have an unknown price.")
    ] = False,
    timezone: TimezoneOption = "UTC",
) -> int:
    """Compare spending with a budget: exit 0 within it and 3 above it.

    The figure is conservative: what was charged, what attempts without an answer may have cost,
    and what calls still under way can come to. A budget that is spent to the cent is not
    exceeded. A week begins on Monday; run:last is the latest run.

    \b
    --json prints {"budgets": [...], "exit_code"}; a budget has the fields of
    `cost report` and groups [{key, and the figures of a group}], unpriced
    [{profile, provider, model, calls}].

    \b
    Examples:
      llmctl cost check --budget 200 --period month --warn-at 80%
      llmctl cost check --budget 5 --period day --by tag:team
    """
    from llmctl.cli.cost_formats import budget_json, groups_json
    from llmctl.cli.cost_tables import draw_check
    from llmctl.config.settings import parse_share
    from llmctl.pricing import HOW_TO_SET
    from llmctl.reports import report as reports
    from llmctl.reports.periods import period_at, zone_named

    zone, now = zone_named(timezone), round(context.clock.wall() * 1000)
    limit, dimensions = parse_dollars(BUDGET_FLAG, budget), reports.parse_by(by or ())
    share = parsed("--warn-at", "a share such as 80% or 0.8", warn_at, parse_share)
    settings = load_settings(context)
    budgets = _budgets(settings, limit, period, dimensions)
    if share is not None:
        budgets = [replace(one, warn_at=(share,)) for one in budgets]
    _, of_run, run_name = (period or "").partition("run:")

    def look(ledger: Reading) -> list[BudgetCheck]:
        run = ledger.last_run() if run_name == "last" else run_name
        if of_run and not (run and ledger.has_run(run)):
            raise UsageError(f"there is no call of a run {run_name!r} in the ledger")
        return [
            reports.check(
                ledger, one, (of_run and run) or period_at(one.period, now, zone), dimensions, zone
            )
            for one in budgets
        ]

    found, complaints = [], []
    for checked in _read(settings, look):
        state = checked.state
        groups = checked.groups if dimensions else ()
        name, most = state.budget.name, money(state.budget.limit)
        if state.state == "exceeded":
            complaints.append(f"budget {name} is exceeded: {money(state.used)} of {most}")
        elif strict and state.unknown:
            complaints.append(
                f"budget {name}: {plural(state.unknown, 'call')} of unknown price (--strict); set "
                f"`price:` in the profile, {HOW_TO_SET}"
            )
        if context.json:
            figures = groups_json(groups, dimensions, state.figures)
            unpriced = [asdict(one) for one in checked.unpriced]
            result = {"groups": figures, "unpriced": unpriced}
            found.append(budget_json(state, zone) | result)
        else:
            write_stdout(draw_check(checked, groups, zone), coloured=True)
    code = 3 if complaints else 0
    if context.json:
        print_json({"budgets": found, "exit_code": code})
    for complaint in complaints:
        context.info(complaint)
    return code


@command(app, "release", "config", "json")
def release(
    context: Context,
    ids: Annotated[list[str] | None, Argument(metavar="CALL_ID")] = None,
    run_id: Annotated[
        str | None,
        Option(
            "--run",
            metavar="ID",
            help="All such calls of one run; those under way, too, once its process is silent.",
        ),
    ] = None,
    everything: Annotated[bool, Option("--all", help="All such calls.")] = False,
    billed: Annotated[
        str,
        Option(
            metavar="USD",
            help="What the provider billed for each beyond what is known. Default: nothing.",
        ),
    ] = "0",
) -> int:
    """Say what calls cost whose end is unknown.

    A call that got no answer, and the rest of a stream that was cut, may have been billed: they
    count at their worst case until somebody knows better. `llmctl cost report` names them; look
    them up on the bill, then release them.

    \b
    --json: {"released": [{call_id, run_id, time, profile, provider, model, usd}],
    "usd", "billed_usd"}; usd is what it counted at before, billed_usd what each
    counts at now.

    \b
    Example:
      llmctl cost release --run 01JD4T1DWW3XQ2P6F9M5A0R8CH --billed 0.0012
    """
    from datetime import UTC

    from llmctl.batch.output import dollars
    from llmctl.cli.cost_formats import calls_json, total_of
    from llmctl.storage.ledger import open_ledger

    amount = parse_dollars("--billed", billed)
    assert amount is not None
    if [bool(ids), run_id is not None, everything].count(True) != 1:
        raise UsageError(
            "which calls are to be released? give their ids (`llmctl cost report` lists them), "
            "--run ID, or --all"
        )
    path = load_settings(context).folders.state / "ledger.db"
    released: Sequence[UnknownCall] = ()
    if path.exists():
        with closing(open_ledger(path, "", "")) as ledger:
            released = ledger.release(amount, ids=tuple(ids or ()), run_id=run_id)
    elif not everything:
        raise InputError("there is no ledger yet, and so no call to release")
    total, unpriced = total_of(released)
    calls = calls_json(released, UTC)
    if context.json:
        print_json({"released": calls, "usd": dollars(total), "billed_usd": dollars(amount)})
        return 0
    now, each = money(amount), " each" if amount and len(released) > 1 else ""
    for call, said in zip(released, calls, strict=True):
        name = f"{call.profile}/{call.model}"
        print_lines(f"{call.call_id}  {said['time']}  {name}  {money(call.cost)} → {now}")
    print_lines(
        f"released {plural(len(released), 'call')}: {money(total, unpriced)} at the most → "
        f"{now}{each}"
        if released
        else "nothing to release: nothing is in doubt of any such call"
    )
    return 0


@command(app, "prices", "config", "json")
def prices(
    context: Context,
    update: Annotated[bool, Option("--update", help="Fetch the published prices first.")] = False,
) -> int:
    """Show which published prices are in use, and how old they are.

    They come with genai-prices and work offline; a profile's own `price:` wins over them.
    --update fetches that project's present list into the state folder; a failed update changes
    nothing. LLMCTL_PRICES_URL names another source of the same format.

    \b
    --json: {"source", "library", "fetched", "age_s", "newest_price", "providers",
    "models"}; fetched and age_s are null for the prices that came with the
    library.
    """
    import asyncio
    from datetime import UTC

    from llmctl.pricing import catalogue
    from llmctl.reports.periods import iso
    from llmctl.storage import price_list

    state = context.folders.state
    used = catalogue(state, context.warn)
    if update:
        source = context.environ.get("LLMCTL_PRICES_URL") or price_list.default_source()
        before = used.models
        used = asyncio.run(price_list.update(state, source, used, context.clock))
        context.info(f"prices updated: {used.models:,} models, {used.models - before:+,}")
    at, newest, providers = used.origin.fetched, used.newest.isoformat(), len(used.data.providers)
    fetched = None if at is None else iso(round(at) * 1000, UTC)
    old = None if at is None else max(0, round(context.clock.wall() - at))
    if context.json:
        facts = {
            "source": used.origin.source,
            "library": used.origin.library,
            "fetched": fetched,
            "age_s": old,
            "newest_price": newest,
            "providers": providers,
            "models": used.models,
        }
        print_json(facts, compact=True)
        return 0
    never = "never; `llmctl cost prices --update` fetches the present ones"
    print_lines(
        f"source    {used.origin.source}",
        f"models    {used.models:,} of {providers:,} providers",
        f"newest    a price that holds from {newest} on",
        f"fetched   {never if old is None else f'{fetched}, {age(old)} ago'}",
    )
    return 0


def _budgets(
    settings: Settings, limit: Decimal | None, period: str | None, by: Sequence[str]
) -> Sequence[Budget]:
    """The budgets to check: that of the flags, or the configured ones. Raises `UsageError`."""
    from llmctl.config.settings import PERIODS, Budget

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


def _read(settings: Settings, work: Callable[[Reading], T]) -> T:
    """What `work` makes of the ledger; where there is none yet, of an empty one."""
    from llmctl.storage.ledger import empty_reading, open_ledger

    path = settings.folders.state / "ledger.db"
    if not path.exists():
        with empty_reading() as reading:
            return work(reading)
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(work)
