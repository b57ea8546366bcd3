"""`llmctl cost`: what was spent and billed, whether it is within budget, by which prices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec.structs import asdict, replace
from typer import Argument, Option

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import BUDGET_FLAG, command, command_group, pairs, parse_dollars, parsed
from llmctl.cli.output import (
    age,
    file_size,
    has_colour,
    is_tty,
    money,
    plural,
    print_json,
    print_lines,
    write_json,
    write_stdout,
)
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmctl.config.settings import Budget, Settings
    from llmctl.reports.report import BudgetCheck, Query
    from llmctl.storage.ledger_queries import CallOrder, Reading, UnknownCall

T = TypeVar("T")
app = command_group("cost", "Report spending, check budgets, settle what is unknown.")

ByOption = Annotated[
    list[str] | None,
    Option(
        metavar="DIMENSIONS",
        help="Group by day, model, profile, provider, user or tag:NAME; several with commas.",
    ),
]
SinceOption = Annotated[
    str | None, Option("--since", metavar="7d|DATE", help="So long ago until now. Default: 30d.")
]
FromOption = Annotated[
    str | None, Option("--from", metavar="D", help="From this date, or time, on.")
]
ToOption = Annotated[
    str | None, Option("--to", metavar="D", help="Until the end of this date, or a time.")
]
TimezoneOption = Annotated[
    str, Option(metavar="ZONE", help="Whose days count, such as Europe/Berlin.")
]


@command(app, "report", "config", "json")
def report(
    context: Context,
    ago: SinceOption = None,
    first: FromOption = None,
    last: ToOption = None,
    by: ByOption = None,
    format: Annotated[
        Literal["table", "json", "csv", "markdown"], Option(help="See below.")
    ] = "table",
    timezone: TimezoneOption = "UTC",
    watch: Annotated[
        bool, Option("--watch", help="Live on a terminal until Ctrl-C. Default: today.")
    ] = False,
    every: Annotated[str, Option(metavar="2s", help="How often --watch looks.")] = "2s",
    calls: Annotated[bool, Option("--calls", help="Single calls, the newest first.")] = False,
    failed: Annotated[
        bool, Option("--failed", help="With --calls: those without an answer.")
    ] = False,
    slowest: Annotated[bool, Option("--slowest", help="With --calls: the slowest first.")] = False,
    dearest: Annotated[bool, Option("--dearest", help="With --calls: the dearest first.")] = False,
    limit: Annotated[
        int | None, Option(min=1, metavar="N", help="With --calls: N at most. Default: 20.")
    ] = None,
    profile: Annotated[
        str | None, Option("--profile", "-p", metavar="NAME", help="With --calls: its calls.")
    ] = None,
    model: Annotated[
        str | None,
        Option("--model", "-m", metavar="NAME", help="With --calls: its, by dated names too."),
    ] = None,
    user: Annotated[str | None, Option(metavar="NAME", help="With --calls: of that user.")] = None,
    tag: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUE", help="With --calls: that have it; repeatable."),
    ] = None,
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
                 rate_limit_hits, estimated_calls, cached_calls, cache_hit_rate,
                 input_tokens, output_tokens, cached_input_tokens,
                 cache_write_tokens, reasoning_tokens, cost_usd, share,
                 mean_cost_usd (of a call, if sent), saved_usd (by the cache),
                 batch_saved_usd (by batches of providers), routed_saved_usd (by
                 routes) and provider_cache_saved_usd (by prompt caches; both
                 below 0 where they cost more), unpriced_calls,
                 uncertain_attempts, may_have_been_billed_usd,
                 latency_ms {p50, p95, p99}, first_token_ms {p50, p95, p99}
      groups     [{key {DIMENSION: value or null}, and all fields of total}]
      days       [{day, calls, cost_usd}]
      month_to_date  {from, to, calls, cost_usd, may_have_been_billed_usd,
                 unpriced_calls, projected_usd}
      budgets    [{name, period, from, to, match, limit_usd, used_usd, used_share,
                 cost_usd, may_have_been_billed_usd, in_flight_calls,
                 unpriced_calls, all_machines (in `cost check`: used_usd is
                 theirs), state}], state is within, warning or exceeded
      targets    {FIGURE: {value, target {below or above}, met}}, of the total
      token_trend  0.12 for 12% more than in a span as long before; null where the
                 ledger does not reach back so far
      error_types  {TYPE: calls}
      masked     {KIND: identifiers masked before sending}
      unpriced   [{profile, provider, model, calls}]
      unknown    {calls, usd, unpriced_calls, first [{call_id, run_id, time,
                 profile, provider, model, usd}]}: calls in doubt, usd beyond what
                 is known; the first 20 by name
    --format csv: a line a group: the dimensions, the fields of total in this
      order, latency_p50_ms and so on, first_token_p50_ms and so on. Unknown is
      empty; text beginning with = + - @ tab or CR gets an apostrophe in front.
    --format markdown: tables of groups and budgets, for a CI job's summary.

    \b
    --calls --json, an array; unknown is null:
      [{call_id, run_id, time, profile, provider, model, asked_model, user,
        tags {NAME: VALUE}, status, error_type, http_status, cache, retries,
        rate_limit_hits, input_tokens, output_tokens, cached_input_tokens,
        cache_write_tokens, reasoning_tokens, estimated, cost_usd,
        may_have_been_billed_usd, saved_usd, latency_ms, first_token_ms,
        elapsed_ms, provider_request_id}]
      --slowest orders answers by latency, and with --failed by elapsed_ms.

    \b
    Examples:
      llmctl cost report --since 7d --by day
      llmctl cost report --calls --failed --since 1h
      llmctl cost report --from 2026-11-01 --by profile,model --format csv
    """
    from llmctl.cli.cost_formats import as_csv, as_json, as_markdown
    from llmctl.cli.cost_tables import draw
    from llmctl.reports import report as reports
    from llmctl.reports.periods import span_of, zone_named

    match = _match(profile, model, user, tag)
    picked = [failed, slowest, dearest, limit is not None, bool(match)]
    if any(picked) and not calls:
        raise UsageError(
            "--failed, --slowest, --dearest, --limit, --profile, --model, --user and --tag choose "
            "among single calls: add --calls"
        )
    zone, dimensions = zone_named(timezone), reports.parse_by(by or ["model"])

    def query() -> reports.Query:
        now = round(context.clock.wall() * 1000)
        span = span_of(ago, first, last, now, zone, today=watch)
        return reports.Query(span, dimensions, zone, now)

    if calls:
        if watch or by or format == "markdown" or (slowest and dearest):
            raise UsageError(
                "--calls goes with neither --watch, --by nor --format markdown, and --slowest not "
                "with --dearest: leave one of them out"
            )
        order: CallOrder = "slowest" if slowest else "dearest" if dearest else "newest"
        return _list_calls(
            context, query(), format, order=order, failed=failed, match=match, limit=limit or 20
        )
    settings = load_settings(context)
    if watch:
        if context.json or format != "table":
            raise UsageError("--watch draws a table: leave out --json and --format")
        return _watch(query, settings, every)
    asked = query()
    found = _read(settings, lambda ledger: reports.make(ledger, asked, settings.budgets))
    formats = {"table": draw, "csv": as_csv, "markdown": as_markdown}
    if context.json:
        write_json(as_json(found))
    else:
        write_stdout(formats[format](found), coloured=format == "table")
    return 0


def _match(
    profile: str | None, model: str | None, user: str | None, tags: list[str] | None
) -> dict[str, str]:
    """What the calls have that are listed."""
    named = {"profile": profile, "model": model, "user": user}
    labels = {f"tag:{name}": value for name, value in pairs("--tag", tags).items()}
    return {name: value for name, value in named.items() if value is not None} | labels


def _list_calls(
    context: Context, query: Query, format: str, *, order: CallOrder, **chosen: Any
) -> int:
    """Print single calls."""
    import shutil

    from llmctl.cli.cost_calls import calls_csv, calls_json, calls_table

    span, zone = query.span, query.zone
    settings = load_settings(context)
    found = _read(
        settings, lambda ledger: ledger.single_calls(span.start, span.end, order=order, **chosen)
    )
    if context.json:
        write_json(calls_json(found, zone))
    elif format == "csv":
        write_stdout(calls_csv(found, zone))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        write_stdout(calls_table(found, zone, width), coloured=True)
    return 0


def _watch(query: Callable[[], Query], settings: Settings, every: str) -> int:
    """Draw the report until Ctrl-C; the ledger is opened for each look, at one moment of it."""
    from llmctl.cli.cost_watch import Present, present, watch
    from llmctl.config.settings import parse_age
    from llmctl.reports.report import Report, make

    seconds = parsed("--every", "a time with its unit such as 2s or 1m", every, parse_age)
    assert seconds is not None
    if seconds < 1:
        raise UsageError("--every wants a second at least: each look reads the whole span")

    def look() -> tuple[Report, Present]:
        asked = query()

        def work(ledger: Reading) -> tuple[Report, Present]:
            return make(ledger, asked, settings.budgets), present(ledger, asked.now)

        return _read(settings, work)

    try:
        watch(look, seconds)
    except KeyboardInterrupt:
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
    """Compare spending with a budget: exit 0 within it, 3 above it.

    The figure is conservative: what was charged, what attempts without an answer may have cost,
    and what calls still under way can come to. A budget that is spent to the cent is not
    exceeded. A week begins on Monday; run:last is the latest run. With `coordinator:` a configured
    budget counts the calls of all machines since one of them first used it; groups are of this one.

    \b
    --json prints {"budgets": [...], "exit_code"}; a budget has the fields of
    `cost report` and groups [{key, and the figures of a group}], unpriced
    [{profile, provider, model, calls}].

    \b
    Examples:
      llmctl cost check --budget 200 --period month --warn-at 80%
      llmctl cost check --budget 5 --period day --by tag:team
    """
    from llmctl.cli import shared_budgets
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
    for checked in shared_budgets.checked(settings, context, _read(settings, look)):
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
    from llmctl.cli import shared_budgets
    from llmctl.cli.cost_formats import calls_json, total_of
    from llmctl.storage.ledger import open_ledger

    amount = parse_dollars("--billed", billed)
    assert amount is not None
    if [bool(ids), run_id is not None, everything].count(True) != 1:
        raise UsageError(
            "which calls are to be released? give their ids (`llmctl cost report` lists them), "
            "--run ID, or --all"
        )
    settings = load_settings(context)
    path = settings.folders.state / "ledger.db"
    released: Sequence[UnknownCall] = ()
    if path.exists():
        with closing(open_ledger(path, "", "")) as ledger:
            released = shared_budgets.release(
                settings, context, ledger, amount, ids=tuple(ids or ()), run_id=run_id
            )
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


@command(app, "reconcile", "profile", "config", "json")
def reconcile(
    context: Context,
    csv: Annotated[
        Path | None,
        Option("--csv", metavar="FILE", help="The bill, exported from the provider's page."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(metavar="day=NAME,…", help="Which columns of --csv hold what, where unusual."),
    ] = None,
    ago: Annotated[
        str | None, Option("--since", metavar="7d|DATE", help="Days until today. Default: 7d.")
    ] = None,
    first: Annotated[str | None, Option("--from", metavar="D", help="From this day on.")] = None,
    last: Annotated[str | None, Option("--to", metavar="D", help="Until the end of it.")] = None,
    tolerance: Annotated[
        str, Option(metavar="2%", help="Exit 3 when bill and ledger differ by more.")
    ] = "2%",
    settle: Annotated[
        bool, Option("--settle", help="Close calls in doubt where the bill decides.")
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Settle without asking.")] = False,
) -> int:
    """Compare the ledger with the provider's bill, and explain.

    Rows are UTC days and models, each with the difference and why. OpenAI, Anthropic and
    OpenRouter are asked by an admin key (admin_key: in the profile, else $OPENAI_ADMIN_KEY,
    $ANTHROPIC_ADMIN_KEY, $OPENROUTER_MANAGEMENT_KEY at their own address), which is used for
    their administration alone. Any other bill comes as a CSV file. The ledger's side are the
    calls of all profiles with this one's address and key.

    Whose calls the bill has: those of the profile's key, where the provider lists it so that it
    can be told from others, else of its project, else of the whole organization.

    A day is compared, but not judged, until 24 hours after its end. Dated versions of a model
    count as the model. The share that --tolerance is held against is that of each model's
    difference over all days.

    \b
    Causes: unknown_calls, calls_under_way, other_users, price, unknown_price,
    discount, cache_tier, batch_rate, estimated_tokens, fewer_tokens, late (on
    the next day's bill), incomplete_day, missing (not on the bill), unexplained.

    --settle: a call in doubt cost nothing where no more was billed than the known calls of its
    day and model cost; else they share what was billed beyond that, if they can have cost so
    much. Otherwise they stay in doubt. `llmctl cost release` settles them by your word.

    \b
    --columns: day, model, cost; and list_cost, currency, batch, requests, input,
    output (tokens). The names of the usual exports are known.

    \b
    --json, one object; amounts are exact numbers in USD:
      profile, from, to, scope (key, project or organization)
      ledger_usd, bill_usd, difference_usd (of complete days), share, tolerance
      rows       [{day, model, batch (true, false, or null: both), complete,
                 ledger and bill {usd, list_usd, requests, input_tokens,
                 output_tokens, cached_input_tokens, cache_write_tokens},
                 difference_usd, agrees, causes [{cause, usd, text}]}]
      in_doubt   [{call_id, run_id, time, profile, provider, model, usd,
                 billed_usd (null: not decided), why, settled}]
      exit_code

    \b
    Examples:
      llmctl cost reconcile -p openai --since 30d
      llmctl cost reconcile -p anthropic --from 2026-11-01 --settle
      llmctl cost reconcile -p groq --csv bill.csv --columns day=Date,cost=Total
    """
    from llmctl.cli.reconcile import Question, run

    return run(Question(csv, columns or (), ago, first, last, tolerance, settle, yes), context)


@command(app, "prune", "config", "json")
def prune(
    context: Context,
    older_than: Annotated[
        str, Option(metavar="400d", help="Calls of UTC days that ended longer ago: 90d, 52w.")
    ],
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would go.")] = False,
) -> int:
    """Remove old calls from the ledger; what they add up to stays.

    `cost report` says of removed calls what it said before, in whole hours, and with percentiles
    that are off by at most 5%; `cost check` too. Gone are the single calls, and the sums of a run.
    Calls in doubt stay until they are released, and those of a run while it has calls under way, a
    batch of its provider, or a budget of its own (30 days). A run that goes on after its calls were
    removed begins its --budget anew. Others may use the ledger meanwhile. Its file does not shrink:
    the room is for coming calls.

    \b
    With --json, one object: {"calls", "before", "in_doubt", "of_open_runs",
    "dry_run", "file_bytes", "free_bytes"}: in_doubt and of_open_runs stay.

    \b
    Example, every night:
      llmctl cost prune --older-than 400d --quiet
    """
    from datetime import UTC

    from llmctl.config.settings import parse_age
    from llmctl.reports.periods import iso
    from llmctl.storage import ledger_prune as storage
    from llmctl.storage.ledger import open_ledger

    limit = parsed("--older-than", "an age with its unit such as 400d", older_than, parse_age)
    assert limit is not None
    before = storage.whole_days(round((context.clock.wall() - limit) * 1000))
    path = load_settings(context).folders.state / "ledger.db"
    old, count, size, free = storage.OldCalls(), 0, 0, 0
    if path.exists():
        with closing(open_ledger(path, "", "")) as ledger:
            db = ledger.database
            old = db.read(lambda connection: storage.old_calls(connection, before))
            count = old.removable
            if not dry_run:
                with _progress(count, context) as advance:
                    count = storage.prune(db, before, advance)
            size, free = db.read(storage.used_and_free)
    day = iso(before, UTC)[:10]
    if context.json:
        stay = {"in_doubt": old.in_doubt, "of_open_runs": old.of_runs}
        room = {"file_bytes": size, "free_bytes": free}
        print_json({"calls": count, "before": day, **stay, "dry_run": dry_run, **room})
        return 0
    done = "would remove" if dry_run else "removed"
    print_lines(f"{done} {plural(count, 'call')} from before {day} (UTC); their sums stay")
    for number, why in (
        (old.in_doubt, "in doubt: `llmctl cost release`"),
        (old.of_runs, "of runs that have not ended, or have a budget of their own"),
    ):
        if number:
            print_lines(f"kept {plural(number, 'older call')} {why}")
    if size:
        context.info(f"{path}: {file_size(size)}, {file_size(free)} of it free for coming calls")
    return 0


@contextmanager
def _progress(total: int, context: Context) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, no_color=not has_colour(sys.stderr))
    hidden = context.quiet or not is_tty(sys.stderr)
    with Progress(console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task("removing old calls", total=total)
        yield lambda number: progress.advance(bar, number)


@command(app, "prices", "config", "json")
def prices(
    context: Context,
    update: Annotated[bool, Option("--update", help="Fetch the published prices first.")] = False,
) -> int:
    """Show the published prices in use, and how old they are.

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
    from llmctl.storage.ledger import read_ledger

    return read_ledger(settings.folders.state / "ledger.db", work)
