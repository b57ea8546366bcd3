"""`llmctl cost`: what was spent, whether it is within budget, and by which prices."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Argument, Option

from llmctl.cli.context import Context
from llmctl.cli.options import BUDGET_FLAG, command, command_group, parse_dollars, parsed

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
    since: Annotated[
        str | None, Option(metavar="7d|DATE", help="So long ago until now. Default: 30d.")
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

    Groups are models, unless --by says others. A kept answer costs nothing and counts as saved;
    tokens are those of calls made. Errors are calls without an answer, not those you gave up.
    Latencies are nearest-rank percentiles of the attempts that answered. The projection lets each
    day to come cost the average of the month so far. Costs that nobody knows are $?, null or
    empty, and never 0; what attempts without an answer may have cost stands by itself.

    \b
    --format json (or --json), one object; amounts are exact numbers in USD, null is unknown:
      from, to, timezone, by
      total      calls, errors, error_rate, cached_calls, input_tokens, output_tokens,
                 cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_usd, share,
                 saved_usd, unpriced_calls, uncertain_attempts, may_have_been_billed_usd,
                 latency_ms {p50, p95, p99}
      groups     [{key {DIMENSION: value or null}, and all fields of total}]
      days       [{day, calls, cost_usd}]
      month_to_date  {from, to, calls, cost_usd, may_have_been_billed_usd, unpriced_calls,
                 projected_usd}
      budgets    [{name, period, from, to, match, limit_usd, used_usd, used_share, cost_usd,
                 may_have_been_billed_usd, in_flight_calls, unpriced_calls, state}],
                 state is within, warning or exceeded
      unpriced   [{profile, provider, model, calls}]
      unknown    {calls, usd, unpriced_calls, first [{call_id, run_id, time, profile, provider,
                 model, usd}]}: calls whose end is unknown, the first 20 of them by name
    --format csv: a line a group: the dimensions, the fields of total in this order,
      latency_p50_ms, latency_p95_ms, latency_p99_ms. Unknown is empty; text beginning
      with = + - @ tab or CR gets an apostrophe in front.
    --format markdown: tables of groups and budgets, for a CI job's summary.

    \b
    Examples:
      llmctl cost report --since 7d --by day
      llmctl cost report --from 2026-11-01 --to 2026-11-30 --by profile,model --format csv
      llmctl cost report --format markdown >> "$GITHUB_STEP_SUMMARY"
    """
    from llmctl.cli.cost_report import run_report
    from llmctl.reports.report import parse_by

    return run_report(
        context,
        ago=since,
        first=first,
        last=last,
        by=parse_by(by or ["model"]),
        format="json" if context.json else format,
        timezone=timezone,
    )


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
    each: Annotated[bool, Option("--each", help="Hold each group to the budget.")] = False,
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
    and what calls still under way can come to. Calls with an unknown price are counted and
    named. A budget that is spent to the cent is not exceeded. A week begins on Monday; run:last
    is the latest run.

    \b
    --json prints {"budgets": [...], "exit_code"}; a budget has the fields of `cost report`
    and groups [{key, and the figures of a group}], unpriced [{profile, provider, model, calls}].

    \b
    Examples:
      llmctl cost check
      llmctl cost check --budget 200 --period month --warn-at 80%
      llmctl cost check --budget 5 --period day --by tag:team --each
    """
    from llmctl.cli.cost_report import CheckOptions, run_check
    from llmctl.config.settings import parse_share
    from llmctl.reports.report import parse_by

    options = CheckOptions(
        budget=parse_dollars(BUDGET_FLAG, budget),
        period=period,
        by=parse_by(by or ()),
        each=each,
        warn_at=parsed("--warn-at", "a share such as 80% or 0.8", warn_at, parse_share),
        strict=strict,
        timezone=timezone,
    )
    return run_check(options, context)


@command(app, "release", "config", "json")
def release(
    context: Context,
    ids: Annotated[list[str] | None, Argument(metavar="[CALL_ID]...")] = None,
    run_id: Annotated[
        str | None, Option("--run", metavar="ID", help="All such calls of one run.")
    ] = None,
    everything: Annotated[bool, Option("--all", help="All such calls.")] = False,
    billed: Annotated[
        str, Option(metavar="USD", help="What the provider billed for each. Default: nothing.")
    ] = "0",
) -> int:
    """Say what calls cost whose end is unknown.

    A call that was sent and got no answer (its connection broke, or llmctl was killed) may have
    been billed: it counts at its worst case until somebody knows better. `llmctl cost report`
    names it; look it up on your provider's bill, then release it. Nothing is sent. A call whose
    end is known stays as it is.

    \b
    --json: {"released": [{call_id, run_id, time, profile, provider, model, usd}], "usd",
    "billed_usd"}; usd is what it counted at before, billed_usd what each counts at now.

    \b
    Examples:
      llmctl cost release 01JD4T1E8ZVMKQ0R4Y1ZB7K3NQ
      llmctl cost release --run 01JD4T1DWW3XQ2P6F9M5A0R8CH --billed 0.0012
      llmctl cost release --all
    """
    from llmctl.cli.cost_release import run_release

    amount = parse_dollars("--billed", billed)
    assert amount is not None
    return run_release(tuple(ids or ()), run_id, amount, context, everything=everything)


@command(app, "prices", "config", "json")
def prices(
    context: Context,
    update: Annotated[bool, Option("--update", help="Fetch the published prices first.")] = False,
) -> int:
    """Show which published prices are in use, and how old they are.

    They come with genai-prices and work offline. --update fetches that project's present list
    into the state folder; it is used from then on when it is whole, of the format this program
    knows, and not older or poorer than what is in use. A failed update changes nothing.
    LLMCTL_PRICES_URL names another source of the same format.

    A profile's own `price:` wins over them, and the cost that OpenRouter reports over both.

    \b
    --json: {"source", "library", "fetched", "age_s", "newest_price", "providers", "models"};
    fetched and age_s are null for the prices that came with the library.
    """
    from llmctl.cli.cost_prices import run_prices

    return run_prices(context, update=update)
