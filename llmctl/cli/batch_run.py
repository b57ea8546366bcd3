"""Use case `batch`: configuration → input and output → runner → summary."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llmctl.batch.job import Batch, Job, nothing_to_send, open_batch
from llmctl.batch.job import run as run_batch
from llmctl.batch.output import (
    STDOUT,
    default_output,
    dollars,
    errors_path,
    is_csv,
    lines_path,
)
from llmctl.batch.rows import RowReader
from llmctl.batch.semantic_check import require_known_fields, semantic_policies
from llmctl.cli import batch_provider, batch_ray, batch_shared, batch_warm
from llmctl.cli.alerts_batch import check_sinks, notify, watched
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context, Selection, runner_for, select_profile
from llmctl.cli.options import (
    BUDGET_FLAG,
    budget_lines,
    budget_tags,
    budget_windows,
    cache_mode,
    pairs,
    params,
    parse_dollars,
    parsed,
    read_schema,
    system_prompt,
    tightest_budget,
)
from llmctl.cli.output import (
    duration,
    error_json,
    has_colour,
    is_tty,
    json_text,
    money,
    plural,
    say,
    write_json,
)
from llmctl.cli.queue_file import fetch_queued, for_rows, queueing_rows, unqueueing_rows
from llmctl.cli.streams import SIGPIPE, note_slow_stdin, require_stream
from llmctl.config.settings import parse_age
from llmctl.engines.local import LocalEngine
from llmctl.engines.provider import ProviderEngine
from llmctl.errors import (
    BudgetRefused,
    CallError,
    CallTimeout,
    CoordinatorError,
    InputError,
    LlmctlError,
    Queued,
    UsageError,
)
from llmctl.guards.data_place import first_place
from llmctl.guards.masking import open_masker
from llmctl.guards.retry import RetryDetails
from llmctl.observers.progress import Pace, bar, plain_lines
from llmctl.observers.run_stats import Tally
from llmctl.request import target_for
from llmctl.runner import Runner, user_name
from llmctl.shutdown import Stop, handle_signals
from llmctl.storage.process import possible_calls
from llmctl.types import Masked

if TYPE_CHECKING:
    from llmctl.cluster.ray_engine import RayEngine


def run(options: BatchOptions, context: Context) -> int:
    """Answer the file and return the exit code. Raises `LlmctlError`."""
    if options.list or options.status or options.adopt is not None:
        from llmctl.cli.batch_jobs import run as run_jobs

        return run_jobs(options, context)
    try:
        return _checked(options, context)
    except LlmctlError as error:
        if context.json and not error.reported and (options.output or options.input) == STDOUT:
            error.reported = True  # stdout carries rows
            say(error_json(error), end="")
        raise


def _checked(options: BatchOptions, context: Context) -> int:
    batch_warm.check_options(options)
    _check_files(options)
    batch_provider.check_options(options)
    batch_shared.check_options(options)
    batch_ray.check_options(options)
    if (options.output or default_output(options.input)) == STDOUT:
        require_stream(1, "stdout")
        require_stream(2, "stderr")  # where rows that fail go
    elif context.json:
        require_stream(1, "stdout")
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    _allowed_errors(options, 0)  # what makes no sense is refused before the input is read
    seconds = parsed("--max-time", "a duration such as 90s, 20m or 8h", options.max_time, parse_age)
    schema, tags = read_schema(options.schema), pairs("--tag", options.tag)
    system, options_of_provider = system_prompt(options.system), params(options.param)
    mode = cache_mode(no_cache=options.no_cache, refresh=options.refresh)
    selection = select_profile(
        context,
        concurrency=options.concurrency,
        rpm=options.rpm,
        tpm=options.tpm,
        rpd=options.rpd,
    )
    profile = replace(selection.profile, tags={**selection.profile.tags, **tags})
    output = options.output or default_output(options.input)
    profile = for_rows(profile, output, shared=options.join or options.engine == "ray")
    selection = replace(selection, profile=profile)
    batch_ray.check_profiles(selection, options)
    check_sinks("--notify", options.notify, selection.settings)
    asked = (profile, *selection.fallbacks, *selection.routed)
    masker = open_masker(asked, context.environ)
    batch_provider.check_profile(profile, options, masker)
    template = None
    if options.template is not None:
        from llmctl.batch.template import Template

        template = Template(options.template)
    job = Job(
        input=options.input,
        output=options.output,
        reader=RowReader(
            template=template,
            id_field=options.id_field,
            system=profile.system if system is None else system,
            schema=schema,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            options=options_of_provider,
            keep=_kept_fields(options.keep),
            fixed_tags=budget_tags(selection.settings.budgets),
            mask=masker,
            parts=bool(semantic_policies(asked)),
        ),
        profile=profile,
        format=options.format,
        limit=options.limit,
        ordered=options.ordered,
        restart=options.restart,
        dedupe=options.dedupe,
        cache_mode=mode,
        follow=options.follow and not options.dry_run,
        join=batch_shared.claims_place(options, selection.settings),
    )
    if options.engine == "provider" and profile.route is not None:
        context.info(f"a provider's batch follows no route: all rows are for {profile.name}")
    if job.input == STDOUT:
        note_slow_stdin("reading the rows from stdin …")
    if options.dry_run:
        from llmctl.cli.batch_plan import dry_run

        in_batch = options.engine == "provider"
        return dry_run(job, budget, selection, context, in_batch=in_batch, warm=options.warm)
    fetch_queued(job, selection, context)
    # A thread back from the disk waits this long for Python's lock, not 5 ms: a sixth more rows.
    sys.setswitchinterval(0.001)
    gc.freeze()  # rows come and go, the program stays: no use in looking for garbage in it
    with open_batch(job) as batch:
        if not batch.rows and not options.follow:
            raise InputError(f"{batch.source.name} has no rows: nothing was sent")
        if batch.output and batch.torn:
            context.warn(
                f"the last line of {batch.output.path} was half written; it was removed, and its "
                "row will be sent again"
            )
        if batch.unmatched and job.limit is None:
            context.warn(
                f"{plural(batch.unmatched, 'answer')} in the output without a row in the input"
            )
        batch_provider.check_open(batch, selection.settings.folders, options, context)
        require_known_fields(batch, asked, in_batch=options.engine == "provider")
        return asyncio.run(_notified(batch, budget, seconds, options, context, selection))


def _check_files(options: BatchOptions) -> None:
    """Raises `UsageError` and `InputError` before anything is said of keys and profiles."""
    if not options.input:
        raise UsageError("missing argument 'INPUT' (see `llmctl batch -h`)")
    if options.output == "":
        raise UsageError("-o is empty: name a file, or - for stdout")
    if options.format == "openai" and (options.keep is not None or is_csv(options.output or "")):
        raise UsageError("--format openai goes with neither --keep nor an OUTPUT in .csv")
    if options.input != STDOUT and not os.path.lexists(options.input):
        raise InputError(f"there is no file {options.input}: check the path")


class Ending(Struct):
    """How a run ended.

    Attributes:
        because: the error that ended it early.
        signals: those that were received.
        pipe_closed: the reader of stdout has gone.
        left: rows that are at the provider, in batches.
        budgets: where they stand, a line each.
        nodes: rows by the node that answered them; empty where there was one machine.
        failure: what was wrong with rows that were appended when others had their records.

    """

    because: CallError | None = None
    signals: list[int] = []
    pipe_closed: bool = False
    left: int = 0
    budgets: list[str] = []
    nodes: Mapping[str, int] = {}
    failure: InputError | None = None

    def note(self, error: BrokenPipeError | InputError, *, summed_up: bool) -> None:
        """Keep what ended the run until its summary is out. Raises an `InputError` at once where
        there is nothing to sum up."""
        if isinstance(error, BrokenPipeError):
            self.pipe_closed = True
        elif summed_up:
            self.failure = error
        else:
            raise error


async def _notified(
    batch: Batch,
    budget: Decimal | None,
    max_seconds: float | None,
    options: BatchOptions,
    context: Context,
    selection: Selection,
) -> int:
    """The exit code of the run; its end, whatever that is, is told to whom `--notify` names."""
    tally = batch_shared.tally(batch)
    ending, since, code, failure = Ending(), context.clock.wall(), 130, None
    try:
        code = await _run(batch, tally, ending, budget, max_seconds, options, context, selection)
    except Exception as error:
        code, failure = getattr(error, "exit_code", 1), str(error) or type(error).__name__
        raise
    finally:
        stopped = failure or _stopped_because(ending)
        await notify(options, tally, since, code, stopped, selection.settings, context)
    return code


async def _run(
    batch: Batch,
    tally: Tally,
    ending: Ending,
    budget: Decimal | None,
    max_seconds: float | None,
    options: BatchOptions,
    context: Context,
    selection: Selection,
) -> int:
    started = context.clock.monotonic()
    open_jobs = batch_provider.open_jobs(batch, selection.settings.folders)
    if options.cancel and not open_jobs:
        context.info("no batch is under way for this OUTPUT: there is nothing to cancel")
    elif tally.skipped == tally.rows and not open_jobs and not options.follow:
        nothing_to_send(batch)
    else:
        if not open_jobs:  # what the provider has is fetched, whatever the rules say now
            in_batch = options.engine == "provider"
            fallbacks = () if in_batch else selection.fallbacks
            first_place((selection.profile, *fallbacks), {}, in_batch=in_batch)
        await _send(batch, tally, ending, budget, max_seconds, options, context, selection)
    if options.follow and tally.complete:
        ending.signals.clear()  # that is how such a run ends
    stopped = _stopped_because(ending)
    if stopped and not ending.failure and (ending.because or not context.quiet):
        say(f"stopped early: {stopped}")
    _say_what_is_open(tally, ending)
    # As the user named it: the path in use has its links followed.
    shown = (options.output or default_output(options.input)) if batch.output else None
    lines = Path(lines_path(options.input, shown)) if shown else None
    elapsed = context.clock.monotonic() - started
    context.info("\n".join(_summary(tally, elapsed, shown, ending)))
    if failures := _failures(tally, lines, last_error=ending.because is None):
        say("\n".join(failures))  # --quiet is for progress, not for the reason of a failure
    code = ending.failure.exit_code if ending.failure else exit_code(tally, ending)
    if options.cancel and code == 1 and not tally.failed:
        code = 0  # rows without an answer are what was asked for
    if context.json:
        text = _summary_json(tally, elapsed, code, stopped, ending.nodes)
        # With `-o -` stdout carries the rows themselves.
        (write_json if batch.output else partial(say, end=""))(text)
    if ending.failure is not None:
        ending.failure.reported = context.json
        raise ending.failure
    return code


def _say_what_is_open(tally: Tally, ending: Ending) -> None:
    """Rows that will have their answers later, and what to do for it."""
    if ending.left:
        say(batch_provider.left_running(ending.left))
    if tally.queued:
        rows = plural(tally.queued, "row")
        say(
            f"the provider is down: {rows} queued; `llmctl queue run`, or the same command, goes on"
        )


async def _send(
    batch: Batch,
    tally: Tally,
    ending: Ending,
    budget: Decimal | None,
    max_seconds: float | None,
    options: BatchOptions,
    context: Context,
    selection: Selection,
) -> None:
    """Send what has no answer yet. Raises as `job.run`."""
    stop = Stop()
    batches: ProviderEngine | None = None

    def on_signal(number: int) -> None:
        ending.signals.append(number)
        if len(ending.signals) > 1:
            stop.at_once()
            return
        stop.ask()
        if batches is None:
            context.info(
                "stopping: waiting up to 30 s for the rows in flight; again to stop at once"
            )

    def on_retry(retry: RetryDetails) -> None:
        what = f"row {retry.request.id}: {retry.error.message}"
        context.info(f"{what}; trying again in {retry.wait:.1f} s")

    sends = options.engine != "ray"
    with batch_ray.cluster(options, context), handle_signals(on_signal):
        async with runner_for(selection, context, patient=True, stop=stop, sends=sends) as live:
            engine = _engine(batch, ending, budget, options, context, selection, live, stop)
            elsewhere = None if isinstance(engine, LocalEngine) else engine
            batches = engine if isinstance(engine, ProviderEngine) else None
            prefix = None
            if options.warm:
                prefix = await batch_warm.open_prefix_cache(batch, live, selection, context)
            if context.verbose:
                context.info(f"run {live.run_id} (llmctl cost check --period run:ID)")
            windows = budget_windows(budget, selection.settings.budgets, live.run_id, user_name())
            live.budget.limit(windows, lambda: stop.asked)
            queueing = queueing_rows(batch, live, selection, context)
            try:
                async with (
                    progress(tally, live, context, elsewhere, followed=options.follow),
                    watched(selection.settings, context),
                    batch_shared.open_rows(batch, tally, live, selection.settings) as rows,
                ):
                    ending.because = await run_batch(
                        batch,
                        engine,
                        lambda sink: live.handler(
                            sink,
                            exact=True,
                            on_retry=on_retry,
                            schema_retries=options.schema_retries,
                            prefix=prefix,
                            text=False,
                            queueing=queueing,
                        ),
                        settle=live.budget.settle,
                        stats=tally,
                        stop=stop,
                        clock=context.clock,
                        call_id=live.call_id,
                        cached=live.kept_records,
                        max_seconds=max_seconds,
                        ended=unqueueing_rows(batch, live, selection, context),
                        allowed_errors=_allowed_errors(options, tally.rows),
                        # Loading a vocabulary holds all up: better before any row is in flight.
                        check=live.check,
                        prepare=lambda: live.counter.load(target_for(selection.profile)),
                        rows=rows,
                    )
            except (BrokenPipeError, InputError) as error:
                ending.note(error, summed_up=options.follow and tally.done > 0)
            if batches is not None:
                ending.because, ending.left = ending.because or batches.because, batches.left
            ending.budgets += await _budgets(live, ending)


async def _budgets(live: Runner, ending: Ending) -> list[str]:
    """The lines of the budgets; none where an interrupted run cannot ask the coordinator."""
    try:
        return await budget_lines(live.budget)
    except CoordinatorError:
        if not ending.signals:
            raise
        return []


def _engine(
    batch: Batch,
    ending: Ending,
    budget: Decimal | None,
    options: BatchOptions,
    context: Context,
    selection: Selection,
    live: Runner,
    stop: Stop,
) -> LocalEngine | ProviderEngine | RayEngine:
    """The engine of this command."""
    if options.engine == "ray":
        nodes = batch_ray.engine(options, live, context, selection, budget, stop)
        ending.nodes = nodes.answered
        return nodes
    local = LocalEngine(workers(selection, context), stop, context.clock)
    if options.engine == "local":
        return local
    folders = selection.settings.folders
    return batch_provider.engine(batch, options, live, context, folders, stop, local)


def workers(selection: Selection, context: Context) -> int:
    """Calls at a time: what the profile says, as far as the system lets connections be opened."""
    wanted, each = (
        selection.profile.limits.concurrency,
        1 + len(selection.fallbacks) + len(selection.routed),
    )
    workers = possible_calls(wanted, each)
    if workers < wanted:
        context.warn(
            f"{workers:,} calls at a time instead of {wanted:,}: the system lets this process open "
            "no more files; raise `ulimit -n`"
        )
    return workers


@asynccontextmanager
async def progress(
    tally: Tally,
    live: Runner,
    context: Context,
    elsewhere: ProviderEngine | RayEngine | None,
    *,
    followed: bool = False,
) -> AsyncIterator[None]:
    """Show progress on stderr while the context is open, unless `--quiet`."""
    if context.quiet:
        yield
        return
    tpm = live.profile.limits.of(live.profile.model).tpm

    def waits() -> str | None:
        return (elsewhere and elsewhere.waits()) or live.waits()

    budget = partial(tightest_budget, live.budget)
    pace = Pace(tally, context.clock, money, tpm, waits, budget, live.today, followed=followed)
    if elsewhere is not None and not isinstance(elsewhere, ProviderEngine):
        pace.where = lambda: elsewhere.where
    if is_tty(sys.stderr) and context.environ.get("TERM") != "dumb":
        display = bar(sys.stderr, pace, colour=has_colour(sys.stderr))
    else:
        display = plain_lines(sys.stderr, pace)
    showing = asyncio.ensure_future(display)
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing


def _stopped_because(ending: Ending) -> str | None:
    """What ended the run before its last row; None when nothing did."""
    if ending.failure is not None:
        return ending.failure.message
    if ending.signals and not ending.left:
        return "interrupted; the same command goes on where this one stopped"
    if ending.because is not None:
        return ending.because.message.removeprefix("not sent: ")
    return "the reader of stdout has gone" if ending.pipe_closed else None


def exit_code(tally: Tally, ending: Ending) -> int:
    """The exit code of a run that ended so."""
    because = ending.because
    if because is not None and because.fatal_to_run and not ending.signals:
        return because.exit_code
    if ending.left:
        return batch_provider.ACCEPTED
    if ending.signals:
        return 128 + ending.signals[0]
    if isinstance(because, CallTimeout):  # of --max-wait
        return because.exit_code
    if ending.pipe_closed:
        return SIGPIPE
    return _exit_code_of_rows(tally)


def _exit_code_of_rows(tally: Tally) -> int:
    others = tally.others
    if not tally.failed and not others.failed:
        if tally.queued and tally.done + tally.queued >= tally.rows:
            return Queued.exit_code
        return int(not tally.complete)  # a row without a record is never a success
    kinds = tally.failures.keys() | others.failures.keys()
    if "budget" in kinds:
        return BudgetRefused.exit_code
    nothing_else = not tally.ok and not tally.skipped and not others.ok and len(kinds) == 1
    last = tally.last_error
    return last.exit_code if nothing_else and last and last.exit_code in {4, 5} else 1


def _summary(tally: Tally, elapsed: float, output: str | None, ending: Ending) -> list[str]:
    """The summary for a person, one thing a line; `output` None: the rows went to stdout."""
    counts = [
        (tally.ok, "answered"),
        (tally.cached, "of them from the cache"),
        (tally.stale, "of them stale, for the provider was down"),
        (tally.failed, "failed"),
        (tally.deduplicated, "answered by an identical row"),
        (tally.skipped, "answered before"),
        (tally.others.ok, "answered by other processes"),
        (tally.others.failed, "failed in other processes"),
        (ending.left, "at the provider"),
        (tally.queued, "queued"),
        (max(0, tally.rows - tally.done - tally.queued - ending.left), "not sent"),
    ]
    words = [f"{n:,} {what}" for n, what in counts if n or what in {"answered", "failed"}]
    where = f" → {output}" if output else ""
    lines = [f"{plural(tally.rows, 'row')}: {', '.join(words)}{where}"]
    if tally.requests:
        retried = "retry" if tally.retries == 1 else "retries"
        retries = f" ({tally.retries:,} {retried})" if tally.retries else ""
        rate = (tally.ok + tally.failed) / elapsed if elapsed > 0 else 0.0
        about = "~" if tally.estimated else ""
        cost = money(None) if tally.unpriced else about + money(tally.cost)
        read, wrote = f"{about}{tally.input_tokens:,}", f"{about}{tally.output_tokens:,}"
        lines.append(
            f"{plural(tally.requests, 'request')}{retries} · {read} tokens in + {wrote} out · "
            f"{cost} · {duration(elapsed)} · {rate:,.1f} rows/s"
        )
    if ending.nodes:
        lines.append(_nodes(ending.nodes))
    if tally.provider_saved or tally.provider_unsaved:
        lines.append(batch_warm.outcome(tally))
    lines += ending.budgets
    if tally.masked:
        lines.append(f"identifiers in what was asked: {Masked(tally.masked).said}")
    if tally.routed:
        lines.append(_routes(tally))
    for number, what in (
        (tally.truncated, 'cut off at the output limit ("finish_reason": "length")'),
        (tally.filtered, 'cut off by a content filter ("finish_reason": "content_filter")'),
        (tally.empty, "none, or empty, and failed"),
    ):
        if number:
            were = "was" if number == 1 else "were"
            lines.append(f"{plural(number, 'answer')} {were} {what}")
    if tally.uncertain:
        lines.append(
            f"{plural(tally.uncertain, 'attempt')} broke off after sending and may have been billed"
        )
    return lines


def _nodes(rows: Mapping[str, int]) -> str:
    """How many rows came from which node."""
    each = ", ".join(f"{name} {number:,}" for name, number in sorted(rows.items()))
    return f"{plural(len(rows), 'node')}: {each}"


def _routes(tally: Tally) -> str:
    """Where rows were sent, and how many were asked twice, because of what."""
    sent = ", ".join(f"{number:,} to {name}" for name, number in sorted(tally.routed.items()))
    why = ", ".join(f"{what} {number:,}" for what, number in sorted(tally.escalated.items()))
    twice = sum(tally.escalated.values())
    return f"routed: {sent}" + (f"; {twice:,} of them asked twice ({why})" if twice else "")


def _summary_json(
    tally: Tally, elapsed: float, code: int, stopped: str | None, nodes: Mapping[str, int]
) -> str:
    """The summary for a program; with an exit code other than 0 also what went wrong."""
    fields = tally.summary(elapsed, code)
    amounts = {"cost_usd", "provider_cache_saved_usd"} & fields.keys()
    fields |= {name: dollars(fields[name]) for name in amounts}
    if nodes:
        fields["nodes"] = dict(nodes)
    if code:
        fields |= {"stopped_because": stopped, "errors": dict(sorted(tally.failures.items()))}
    return json_text(fields, compact=True)


def _failures(tally: Tally, lines: Path | None, *, last_error: bool) -> list[str]:
    """How many rows failed why, where they stand beside the `lines` of the others, and the last
    error."""
    found: list[str] = []
    if tally.failures:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.failures.items()))
        found.append(f"failed: {kinds}" + (f" → {errors_path(lines)}" if lines else ""))
    if tally.last_error and last_error:
        found.append(f"last error: {tally.last_error.message}")
    return found


def _kept_fields(word: str | None) -> tuple[str, ...] | None:
    """The fields that `--keep` names; None: all. Raises `UsageError`."""
    if word is None:
        return ()
    names = tuple(filter(None, (name.strip() for name in word.split(","))))
    if not names:
        raise UsageError(f"--keep wants names of fields such as text,label, or all, not {word!r}")
    return None if names == ("all",) else names


def _allowed_errors(options: BatchOptions, rows: int) -> int | None:
    """How many of so many rows may fail: `10`, or `5%` of them. Raises `UsageError`."""
    text = options.max_errors
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if not match or (match[2] and float(match[2]) > 100):
        raise UsageError(f"--max-errors wants a number of rows or a share such as 5%, not {text!r}")
    return int(match[1] or rows * float(match[2]) / 100)
