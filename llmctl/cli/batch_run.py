"""Use case `batch`: configuration → input and output → runner → summary."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.batch.job import Batch, Job, nothing_to_send, open_batch
from llmctl.batch.job import run as run_batch
from llmctl.batch.output import default_output, dollars, errors_path
from llmctl.batch.rows import RowReader
from llmctl.cli.context import Context, Selection, handle_signals, secret_prompt, select_profile
from llmctl.cli.options import budget_lines, budget_windows, tightest_budget
from llmctl.cli.output import duration, has_colour, is_tty, json_text, money, plural, write_stdout
from llmctl.config.load import Overrides
from llmctl.engines.local import LocalEngine
from llmctl.errors import BudgetRefused, CallError, UsageError
from llmctl.guards.retry import RetryDetails
from llmctl.observers.progress import Pace, bar, plain_lines
from llmctl.observers.run_stats import Tally
from llmctl.request import target_for
from llmctl.runner import Runner, open_runner, user_name
from llmctl.shutdown import Stop
from llmctl.types import JSON, CacheMode


class MaxErrors(Struct, frozen=True):
    """Stop once more rows than this have failed: `count` rows, or `share` of all rows."""

    count: int | None = None
    share: float | None = None

    def allowed(self, rows: int) -> int:
        """Number of `rows` that may fail."""
        if self.count is not None:
            return self.count
        return int(rows * (self.share or 0))


class BatchOptions(Struct, frozen=True):
    """Options of `batch`. None: the profile or the default decides."""

    input: str
    output: str | None = None
    system: str | None = None
    template: str | None = None
    schema: JSON | None = None
    id_field: str | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    limit: int | None = None
    max_errors: MaxErrors | None = None
    format: Literal["llmctl", "openai"] = "llmctl"
    engine: str = "local"
    ordered: bool = False
    restart: bool = False
    cache_mode: CacheMode = "use"
    tags: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False
    budget: Decimal | None = None


class Ended(Struct, frozen=True):
    """End of a batch: counts, seconds, exit code, and the files it read and wrote.

    Attributes:
        output, errors: None for stdout and stderr.
        because: the error that stopped the run before its last row.
        budgets: lines on the usage of each budget.

    """

    tally: Tally
    elapsed: float
    code: int
    output: Path | None
    errors: Path | None
    because: CallError | None
    budgets: tuple[str, ...]
    signal: int | None


def run(options: BatchOptions, context: Context) -> int:
    """Answer the file and return the exit code. Raises `LlmctlError`."""
    flags = Overrides(
        profile=context.profile,
        model=context.model,
        concurrency=options.concurrency,
        rpm=options.rpm,
        tpm=options.tpm,
    )
    selection = select_profile(context, flags)
    profile = replace(selection.profile, tags={**selection.profile.tags, **options.tags})
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
        format=options.format,
        limit=options.limit,
        ordered=options.ordered,
        restart=options.restart,
        cache_mode=options.cache_mode,
    )
    if options.dry_run:
        from llmctl.cli.batch_plan import dry_run

        return dry_run(job, options.budget, selection.folders, context)
    gc.freeze()  # rows come and go, the program stays: no use in looking for garbage in it
    with open_batch(job) as batch:
        _note_output(batch, context)
        return asyncio.run(_run(batch, options, context, replace(selection, profile=profile)))


def _note_output(batch: Batch, context: Context) -> None:
    """Warn of what was found in an output that exists."""
    if batch.torn:
        context.warn(
            f"the last line of {batch.output.path if batch.output else 'the output'} was "
            "half written; it was removed, and its row will be sent again"
        )
    if batch.unmatched and batch.job.limit is None:
        context.warn(f"{batch.unmatched:,} answers in the output belong to no row of the input")


async def _run(batch: Batch, options: BatchOptions, context: Context, selection: Selection) -> int:
    tally = Tally(rows=batch.rows, skipped=batch.skipped)
    started = context.clock.monotonic()
    stop, signals = Stop(), list[int]()
    because: CallError | None = None
    budgets: list[str] = []
    pipe_closed = False

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            stop.at_once()
            return
        stop.ask()
        context.info("stopping: waiting up to 30 s for the rows in flight; again to stop at once")

    if tally.skipped == tally.rows:
        nothing_to_send(batch)
    else:
        with handle_signals(on_signal):
            async with (
                open_runner(
                    selection.profile,
                    selection.folders,
                    context.environ,
                    context.clock,
                    say=context.info,
                    warn=context.warn,
                    ask=secret_prompt(),
                    cache_size=selection.cache_size,
                    fallbacks=selection.fallbacks,
                    patient=True,
                    stop=stop,
                ) as live,
                _progress(tally, live, context),
            ):
                if context.verbose:
                    context.info(f"run {live.run_id} (llmctl cost check --period run:ID)")
                try:
                    because = await _drive(batch, live, tally, stop, options, context, selection)
                except BrokenPipeError:
                    pipe_closed = True
                budgets = await budget_lines(live.budget)
    # As the user named it: the path in use has its links followed.
    shown = Path(options.output or default_output(options.input)) if batch.output else None
    ended = Ended(
        tally=tally,
        elapsed=context.clock.monotonic() - started,
        code=exit_code(tally, because, signals, pipe_closed=pipe_closed),
        output=shown,
        errors=errors_path(shown) if shown else None,
        because=because,
        budgets=tuple(budgets),
        signal=signals[0] if signals else None,
    )
    print_summary(ended, context)
    return ended.code


async def _drive(
    batch: Batch,
    live: Runner,
    tally: Tally,
    stop: Stop,
    options: BatchOptions,
    context: Context,
    selection: Selection,
) -> CallError | None:
    """Send what is left; the error that stopped the run early, if one did."""

    def on_retry(retry: RetryDetails) -> None:
        if context.verbose:
            what = f"row {retry.request.id}: {retry.error.message}"
            context.info(f"{what}; trying again in {retry.wait:.1f} s")

    windows = budget_windows(options.budget, selection.budgets, live.run_id, user_name())
    live.budget.limit(windows, lambda: stop.asked)
    return await run_batch(
        batch,
        LocalEngine(selection.profile.limits.concurrency, stop, context.clock),
        lambda sink: live.handler(sink, exact=True, on_retry=on_retry),
        settle=live.budget.settle,
        stats=tally,
        stop=stop,
        clock=context.clock,
        call_id=live.call_id,
        cached=live.kept_records,
        allowed_errors=options.max_errors.allowed(tally.rows) if options.max_errors else None,
        # Loading a vocabulary holds everything up: better before any row is in flight.
        prepare=lambda: live.counter.load(target_for(selection.profile)),
    )


@asynccontextmanager
async def _progress(tally: Tally, live: Runner, context: Context) -> AsyncIterator[None]:
    """Show progress on stderr while the context is open, unless `--quiet`."""
    if context.quiet:
        yield
        return
    tpm = live.profile.limits.tpm
    pace = Pace(tally, context.clock, tpm, live.waits, lambda: tightest_budget(live.budget))
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


def exit_code(
    tally: Tally, because: CallError | None, signals: list[int], *, pipe_closed: bool
) -> int:
    """Exit code of the run; see `errors.EXIT_CODES`."""
    if signals:
        return 128 + signals[0]
    if because is not None and because.fatal_to_run:
        return because.exit_code
    if pipe_closed:
        return 1
    if not tally.failed:
        return 0
    if "budget" in tally.failures:
        return BudgetRefused.exit_code
    nothing_else = not tally.ok and not tally.skipped and len(tally.failures) == 1
    last = tally.last_error
    return last.exit_code if nothing_else and last and last.exit_code in {4, 5} else 1


def print_summary(ended: Ended, context: Context) -> None:
    """Print the summary on stderr (not with `--quiet`), with `--json` the object on stdout.

    Where stdout carries the rows themselves the object goes to stderr.
    """
    for line in summary_lines(ended):
        context.info(line)
    if context.json:
        fields = ended.tally.summary(ended.elapsed, ended.code)
        fields["cost_usd"] = dollars(fields["cost_usd"])
        text = json_text(fields, compact=True)
        if ended.output is None:
            sys.stderr.write(text)
        else:
            write_stdout(text)


def summary_lines(ended: Ended) -> list[str]:
    """The summary for a person, one thing a line."""
    tally = ended.tally
    lines: list[str] = []
    if ended.signal is not None:
        lines.append("interrupted; the same command goes on where this one stopped")
    elif ended.because is not None:
        lines.append(f"stopped early: {ended.because.message}")
    lines.append(_rows(ended))
    if tally.requests:
        lines.append(_work(ended))
    lines += ended.budgets
    if tally.truncated:
        n = tally.truncated
        lines.append(
            f"{plural(n, 'answer')} {'was' if n == 1 else 'were'} cut off at the output limit "
            '("finish_reason": "length")'
        )
    if tally.uncertain:
        lines.append(
            f"{tally.uncertain:,} attempts broke off after sending and may have been billed"
        )
    if tally.failures:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.failures.items()))
        where = f" → {ended.errors}" if ended.errors else ""
        lines.append(f"failed: {kinds}{where}")
        if tally.last_error is not None and ended.because is None:
            lines.append(f"last error: {tally.last_error.message}")
    return lines


def _rows(ended: Ended) -> str:
    tally = ended.tally
    cached = [f"{tally.cached:,} of them from the cache"] if tally.cached else []
    words = [f"{tally.ok:,} answered", *cached, f"{tally.failed:,} failed"]
    if tally.deduplicated:
        words.append(f"{tally.deduplicated:,} answered by an identical row")
    if tally.skipped:
        words.append(f"{tally.skipped:,} answered before")
    if left := tally.rows - tally.done:
        words.append(f"{left:,} not sent")
    where = f" → {ended.output}" if ended.output else ""
    return f"{tally.rows:,} rows: {', '.join(words)}{where}"


def _work(ended: Ended) -> str:
    tally = ended.tally
    retries = f" ({tally.retries:,} retries)" if tally.retries else ""
    words = [
        f"{tally.requests:,} requests{retries}",
        f"{tally.input_tokens:,} tokens in + {tally.output_tokens:,} out",
        money(None if tally.unpriced else tally.cost),
        duration(ended.elapsed),
    ]
    if ended.elapsed > 0:
        words.append(f"{(tally.ok + tally.failed) / ended.elapsed:,.1f} rows/s")
    return " · ".join(words)


def parse_max_errors(text: str | None) -> MaxErrors | None:
    """`10` or `5%`. Raises `UsageError` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if not match or (match[2] and float(match[2]) > 100):
        raise UsageError(f"--max-errors wants a number of rows or a share such as 5%, not {text!r}")
    return MaxErrors(int(match[1])) if match[1] else MaxErrors(share=float(match[2]) / 100)
