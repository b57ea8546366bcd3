"""How `batch` travels: options → configuration → input and output → runner → summary."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path

from msgspec.structs import replace

from llmctl.batch.job import Batch, Job, nothing_to_send, open_batch
from llmctl.batch.job import run as run_batch
from llmctl.batch.output import default_output, errors_path
from llmctl.batch.rows import RowReader
from llmctl.cli import spending
from llmctl.cli.batch import BatchOptions
from llmctl.cli.chosen import Chosen, choose
from llmctl.cli.context import Context
from llmctl.cli.render import colours, is_tty
from llmctl.cli.secret import asker
from llmctl.cli.signals import caught
from llmctl.cli.summary import Ended, print_summary
from llmctl.config.overrides import Overrides
from llmctl.engines.local import LocalEngine
from llmctl.errors import BudgetRefused, CallError
from llmctl.guards.retry import RetryDetails
from llmctl.observers.ledger_observer import LedgerObserver
from llmctl.observers.progress import Bar, Display, Pace, PlainLines
from llmctl.observers.run_stats import Tally
from llmctl.onecore import LinuxProcessors, one_core
from llmctl.providers.registry import LOCAL
from llmctl.request import target_of
from llmctl.runner import Runner, open_runner, user_name
from llmctl.shutdown import Stop


def run(options: BatchOptions, context: Context) -> int:
    """Answer the file and return the exit code; raises `LlmctlError`."""
    chosen = choose(
        context,
        Overrides(
            profile=context.profile,
            model=context.model,
            concurrency=options.concurrency,
            rpm=options.rpm,
            tpm=options.tpm,
        ),
    )
    profile = replace(chosen.profile, tags={**chosen.profile.tags, **options.tags})
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
            system=options.system,
            schema=options.schema,
        ),
        profile=profile,
        format=options.format.value,
        limit=options.limit,
        ordered=options.ordered,
        restart=options.restart,
        cache_mode=options.cache_mode,
    )
    if options.dry_run:
        from llmctl.cli.planning import dry_run

        return dry_run(job, options.budget, chosen.folders, context)
    # Rows come and go, the program stays: looking for cycles in all of it every 700 objects
    # takes a tenth of the time of a cached batch.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    # A thread that comes back from the disk would wait five times as long for Python's lock.
    sys.setswitchinterval(0.001)
    with open_batch(job) as batch:
        _notes(batch, context)
        return asyncio.run(_run(batch, options, context, replace(chosen, profile=profile)))


def _notes(batch: Batch, context: Context) -> None:
    """What was found in an output that exists."""
    if batch.torn:
        context.warn(
            f"the last line of {batch.output.path if batch.output else 'the output'} was "
            "half written; it was removed, and its row will be sent again"
        )
    if batch.unmatched and batch.job.limit is None:
        context.warn(f"{batch.unmatched:,} answers in the output belong to no row of the input")


async def _run(batch: Batch, options: BatchOptions, context: Context, chosen: Chosen) -> int:
    tally = Tally(rows=batch.rows, skipped=batch.skipped)
    started = context.clock.monotonic()
    stop, signals = Stop(), list[int]()
    because: CallError | None = None
    spent: list[str] = []
    piped_away = False

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            stop.at_once()
            return
        stop.ask()
        context.say("stopping: waiting up to 30 s for the rows in flight; again to stop at once")

    def on_retry(details: RetryDetails) -> None:
        if context.verbose:
            context.say(
                f"row {details.request.id}: {details.error.message}; "
                f"trying again in {details.wait:.1f} s"
            )

    if tally.skipped == tally.rows:
        nothing_to_send(batch)
    else:
        with caught(on_signal):
            async with (
                open_runner(
                    chosen.profile,
                    chosen.folders,
                    context.environ,
                    context.clock,
                    say=context.say,
                    warn=context.warn,
                    ask=asker(),
                    cache_size=chosen.cache_size,
                    fallbacks=chosen.fallbacks,
                    patient=True,
                    stop=stop,
                ) as live,
                _shown(tally, live, context),
                _on_one_core(live),
            ):
                live.budget.limit(
                    spending.caps(options.budget, chosen.budgets, live.run_id, user_name()),
                    lambda: stop.asked,
                )
                if context.verbose:
                    context.say(f"run {live.run_id} (llmctl cost check --period run:ID)")
                try:
                    because = await run_batch(
                        batch,
                        LocalEngine(chosen.profile.limits.concurrency, stop, context.clock),
                        lambda sink: live.handler(sink, exact=True, on_retry=on_retry),
                        settle=LedgerObserver(live.budget.settle),
                        stats=tally,
                        stop=stop,
                        clock=context.clock,
                        call_id=live.call_id,
                        cached=live.kept_records,
                        allowed_errors=(
                            options.max_errors.allowed(tally.rows) if options.max_errors else None
                        ),
                        # Loading a vocabulary holds everything up: better before any row is in
                        # flight.
                        prepare=lambda: live.counter.load(target_of(chosen.profile)),
                    )
                except BrokenPipeError:
                    piped_away = True
                spent = await spending.lines(live.budget)
    # As the user named it: the path in use has its links followed.
    shown = Path(options.output or default_output(options.input)) if batch.output else None
    ended = Ended(
        tally=tally,
        elapsed=context.clock.monotonic() - started,
        code=exit_code(tally, because, signals, piped_away=piped_away),
        input=batch.source.name,
        output=shown,
        errors=errors_path(shown) if shown else None,
        because=because,
        spent=tuple(spent),
        signal=signals[0] if signals else None,
    )
    print_summary(ended, context)
    return ended.code


def exit_code(
    tally: Tally, because: CallError | None, signals: list[int], *, piped_away: bool
) -> int:
    """What the run's end means to a script."""
    if signals:
        return 128 + signals[0]
    if because is not None and because.fatal_to_run:
        return because.exit_code
    if piped_away:
        return 1
    if not tally.failed:
        return 0
    if "budget" in tally.failures:
        return BudgetRefused.exit_code
    nothing_else = not tally.ok and not tally.skipped and len(tally.failures) == 1
    last = tally.last_error
    return last.exit_code if nothing_else and last and last.exit_code in {4, 5} else 1


def _on_one_core(live: Runner) -> AbstractAsyncContextManager[None]:
    """Keep a busy run on one processor, unless a model on this machine, which is a process of our
    own and would be kept there too, answers it."""
    if any(route.profile.provider == LOCAL for route in live.routes):
        return nullcontext()
    return one_core(live.clock, LinuxProcessors())


@asynccontextmanager
async def _shown(tally: Tally, live: Runner, context: Context) -> AsyncIterator[None]:
    """Progress on stderr while the context is open."""
    if context.quiet:
        yield
        return
    display: Display
    if is_tty(sys.stderr) and context.environ.get("TERM") != "dumb":
        display = Bar(sys.stderr, context.clock, colours(sys.stderr))
    else:
        display = PlainLines(sys.stderr, context.clock)
    pace = Pace(
        tally,
        context.clock,
        live.profile.limits.tpm,
        live.waits,
        lambda: spending.tightest(live.budget),
    )
    showing = asyncio.ensure_future(display.run(pace))
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
