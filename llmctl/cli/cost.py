"""`llmctl cost`: what was spent, whether it is within budget, and by which prices."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import (
    EPILOG,
    ConfigOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    command_group,
    parse_dollars,
    parsed,
)

app = command_group("Report spending, check budgets, settle what is unknown.")


class ReportFormat(StrEnum):
    """Format of a report."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


TimezoneOption = Annotated[
    str,
    typer.Option(
        "--timezone", metavar="ZONE", help="Whose days and months count, such as Europe/Berlin."
    ),
]


@app.command("report", epilog=EPILOG)
def report_command(
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="7d|DATE",
            help="So long ago until now: 7d, 24h, 2w, or a date. Default: 30d.",
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="D", help="From this date, or time, on."),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="D", help="Until the end of this date, or a time."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="DIMENSIONS",
            help="Group by day, model, profile, provider, user or tag:NAME; several with commas. "
            "Default: model.",
        ),
    ] = None,
    format: Annotated[
        ReportFormat, typer.Option("--format", help="Table, or one of the stable formats below.")
    ] = ReportFormat.TABLE,
    timezone: TimezoneOption = "UTC",
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show what calls cost, from the ledger on this machine.

    Nothing is sent. A kept answer costs nothing and counts as saved; tokens are those of calls
    made. Errors are calls that ended without an answer, not those you gave up. Latencies are
    nearest-rank percentiles of the attempts that answered. The projection lets each day to come
    cost what the days of this month so far did on average. Costs that nobody knows are $?, null
    or empty, and never 0; what attempts without an answer may have cost stands by itself.

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
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)

    def work() -> int:
        from llmctl.cli.cost_report import ReportOptions, run_report
        from llmctl.reports.report import parse_by

        return run_report(
            ReportOptions(
                since=since,
                first=first,
                last=last,
                by=parse_by(by) if by else ("model",),
                format="json" if json else format.value,
                timezone=timezone,
            ),
            context,
        )

    exit_with(work, context)


@app.command("check", epilog=EPILOG)
def check_command(
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="USD",
            help="The most that may have been spent. Default: the configured budgets.",
        ),
    ] = None,
    period: Annotated[
        str | None,
        typer.Option(
            "--period",
            metavar="day|week|month|run:ID",
            help="What --budget is for: the present day, week (from Monday) or month, or one run; "
            "run:last is the latest. Default: month.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="DIMENSIONS", help="Show the figure by group too, as in `cost report`."
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Hold each group to the budget, not their sum.")
    ] = False,
    warn_at: Annotated[
        str | None,
        typer.Option(
            "--warn-at", metavar="80%", help="Say `warning` from this share on; still exit 0."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 too when calls have an unknown price.")
    ] = False,
    timezone: TimezoneOption = "UTC",
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Compare spending with a budget: exit 0 within it and 3 above it.

    The figure is conservative: what was charged, what attempts without an answer may have cost,
    and what calls still under way can come to. Calls with an unknown price are counted and
    named; with --strict they exit 3. A budget that is spent to the cent is not exceeded.

    \b
    --json prints {"budgets": [...], "exit_code"}; a budget has the fields of `cost report`
    and groups [{key, and the figures of a group}], unpriced [{profile, provider, model, calls}].

    \b
    Examples:
      llmctl cost check
      llmctl cost check --budget 200 --period month --warn-at 80%
      llmctl cost check --budget 5 --period day --by tag:team --each
    """
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)

    def work() -> int:
        from llmctl.cli.cost_report import CheckOptions, run_check
        from llmctl.config.settings import parse_share
        from llmctl.reports.report import parse_by

        return run_check(
            CheckOptions(
                budget=None if budget is None else parse_dollars("--budget", budget),
                period=period,
                by=parse_by(by) if by else (),
                each=each,
                warn_at=parsed("--warn-at", "a share such as 80% or 0.8", warn_at, parse_share),
                strict=strict,
                timezone=timezone,
            ),
            context,
        )

    exit_with(work, context)


@app.command("release", epilog=EPILOG)
def release_command(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CALL_ID]...", help="Calls, as `llmctl cost report` names them."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="All such calls of one run.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All such calls.")] = False,
    billed: Annotated[
        str | None,
        typer.Option(
            "--billed",
            metavar="USD",
            help="What the provider billed for each of them. Default: nothing.",
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Say what calls cost whose end is unknown.

    A call that was sent and got no answer (its connection broke, or llmctl was killed) may have
    been billed: it counts at its worst case until somebody knows better. Look it up on your
    provider's bill, then release it: budgets count what you say from then on. Nothing is sent. A
    call whose end is known stays as it is.

    \b
    --json: {"released": [{call_id, run_id, time, profile, provider, model, usd}], "usd",
    "billed_usd"}; usd is what it counted at before, billed_usd what each counts at now.

    \b
    Examples:
      llmctl cost release 01JD4T1E8ZVMKQ0R4Y1ZB7K3NQ
      llmctl cost release --run 01JD4T1DWW3XQ2P6F9M5A0R8CH --billed 0.0012
      llmctl cost release --all
    """
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)

    def work() -> int:
        from llmctl.cli.cost_release import ReleaseOptions, run_release

        options = ReleaseOptions(
            ids=tuple(ids or ()),
            run_id=run_id,
            all=all_,
            billed=Decimal(0) if billed is None else parse_dollars("--billed", billed),
        )
        return run_release(options, context)

    exit_with(work, context)


@app.command("prices", epilog=EPILOG)
def prices_command(
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Fetch the published prices first; the only use of a network."
        ),
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
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
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)

    def work() -> int:
        from llmctl.cli.cost_prices import run_prices

        return run_prices(context, update=update)

    exit_with(work, context)
