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

from msgspec.structs import replace

from llmctl.batch.job import Batch, Job, nothing_to_send, open_batch
from llmctl.batch.job import run as run_batch
from llmctl.batch.output import STDOUT, default_output, dollars, errors_path
from llmctl.batch.rows import RowReader
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context, Selection, handle_signals, runner_for, select_profile
from llmctl.cli.options import (
    BUDGET_FLAG,
    budget_lines,
    budget_windows,
    cache_mode,
    pairs,
    parse_dollars,
    read_schema,
    tightest_budget,
)
from llmctl.cli.output import (
    check_stream,
    duration,
    has_colour,
    is_tty,
    json_text,
    money,
    plural,
    write_stdout,
)
from llmctl.engines.local import LocalEngine
from llmctl.errors import BudgetRefused, CallError, UsageError
from llmctl.guards.retry import RetryDetails
from llmctl.observers.progress import Pace, bar, plain_lines
from llmctl.observers.run_stats import Tally
from llmctl.request import target_for
from llmctl.runner import Runner, user_name
from llmctl.shutdown import Stop


def run(options: BatchOptions, context: Context) -> int:
    """Answer the file and return the exit code. Raises `LlmctlError`."""
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    _allowed_errors(options, 0)  # what makes no sense is refused before the input is read
    schema, tags = read_schema(options.schema), pairs("--tag", options.tag)
    mode = cache_mode(no_cache=options.no_cache, refresh=options.refresh)
    selection = select_profile(
        context, concurrency=options.concurrency, rpm=options.rpm, tpm=options.tpm
    )
    profile = replace(selection.profile, tags={**selection.profile.tags, **tags})
    selection = replace(selection, profile=profile)
    template = None
    if options.template is not None:
        from llmctl.batch.template import Template

        template = Template(options.template)
    if options.output == STDOUT or (options.output is None and options.input == STDOUT):
        check_stream(1, "stdout")
        check_stream(2, "stderr")
    elif context.json:
        check_stream(1, "stdout")
    job = Job(
        input=options.input,
        output=options.output,
        reader=RowReader(
            template=template, id_field=options.id_field, system=options.system, schema=schema
        ),
        profile=profile,
        format=options.format,
        limit=options.limit,
        ordered=options.ordered,
        restart=options.restart,
        cache_mode=mode,
    )
    if options.dry_run:
        from llmctl.cli.batch_plan import dry_run

        return dry_run(job, budget, selection.folders, context)
    # A thread back from the disk waits this long for Python's lock, not 5 ms: a sixth more rows.
    sys.setswitchinterval(0.001)
    gc.freeze()  # rows come and go, the program stays: no use in looking for garbage in it
    with open_batch(job) as batch:
        if batch.output and batch.torn:
            context.warn(
                f"the last line of {batch.output.path} was half written; it was removed, and its "
                "row will be sent again"
            )
        if batch.unmatched and job.limit is None:
            context.warn(f"{batch.unmatched:,} answers in the output belong to no row of the input")
        return asyncio.run(_run(batch, budget, options, context, selection))


async def _run(
    batch: Batch,
    budget: Decimal | None,
    options: BatchOptions,
    context: Context,
    selection: Selection,
) -> int:
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

    def on_retry(retry: RetryDetails) -> None:
        what = f"row {retry.request.id}: {retry.error.message}"
        context.info(f"{what}; trying again in {retry.wait:.1f} s")

    if tally.skipped == tally.rows:
        nothing_to_send(batch)
    else:
        with handle_signals(on_signal):
            async with (
                runner_for(selection, context, patient=True, stop=stop) as live,
                _progress(tally, live, context),
            ):
                if context.verbose:
                    context.info(f"run {live.run_id} (llmctl cost check --period run:ID)")
                windows = budget_windows(budget, selection.budgets, live.run_id, user_name())
                live.budget.limit(windows, lambda: stop.asked)
                try:
                    because = await run_batch(
                        batch,
                        LocalEngine(selection.profile.limits.concurrency, stop, context.clock),
                        lambda sink: live.handler(sink, exact=True, on_retry=on_retry),
                        settle=live.budget.settle,
                        stats=tally,
                        stop=stop,
                        clock=context.clock,
                        call_id=live.call_id,
                        cached=live.kept_records,
                        allowed_errors=_allowed_errors(options, tally.rows),
                        # Loading a vocabulary holds all up: better before any row is in flight.
                        check=live.check,
                        prepare=lambda: live.counter.load(target_for(selection.profile)),
                    )
                except BrokenPipeError:
                    pipe_closed = True
                budgets = await budget_lines(live.budget)
    if signals:
        context.info("interrupted; the same command goes on where this one stopped")
    elif because is not None:
        context.info(f"stopped early: {because.message}")
    # As the user named it: the path in use has its links followed.
    shown = Path(options.output or default_output(options.input)) if batch.output else None
    elapsed = context.clock.monotonic() - started
    context.info("\n".join(_summary(tally, elapsed, shown, budgets, last_error=because is None)))
    code = _exit_code(tally, because, signals, pipe_closed=pipe_closed)
    if context.json:
        fields = tally.summary(elapsed, code)
        text = json_text({**fields, "cost_usd": dollars(fields["cost_usd"])}, compact=True)
        # With `-o -` stdout carries the rows themselves.
        (write_stdout if batch.output else sys.stderr.write)(text)
    return code


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


def _exit_code(
    tally: Tally, because: CallError | None, signals: list[int], *, pipe_closed: bool
) -> int:
    if signals:
        return 128 + signals[0]
    if because is not None and because.fatal_to_run:
        return because.exit_code
    if pipe_closed:
        return 1
    if not tally.failed:
        return int(tally.done < tally.rows)  # a row without a record is never a success
    if "budget" in tally.failures:
        return BudgetRefused.exit_code
    nothing_else = not tally.ok and not tally.skipped and len(tally.failures) == 1
    last = tally.last_error
    return last.exit_code if nothing_else and last and last.exit_code in {4, 5} else 1


def _summary(
    tally: Tally, elapsed: float, output: Path | None, budgets: list[str], *, last_error: bool
) -> list[str]:
    """The summary for a person, one thing a line; `output` None: the rows went to stdout."""
    counts = [
        (tally.ok, "answered"),
        (tally.cached, "of them from the cache"),
        (tally.failed, "failed"),
        (tally.deduplicated, "answered by an identical row"),
        (tally.skipped, "answered before"),
        (tally.rows - tally.done, "not sent"),
    ]
    words = [f"{n:,} {what}" for n, what in counts if n or what in {"answered", "failed"}]
    where = f" → {output}" if output else ""
    lines = [f"{tally.rows:,} rows: {', '.join(words)}{where}"]
    if tally.requests:
        retries = f" ({tally.retries:,} retries)" if tally.retries else ""
        rate = (tally.ok + tally.failed) / elapsed if elapsed > 0 else 0.0
        cost = money(None if tally.unpriced else tally.cost)
        lines.append(
            f"{tally.requests:,} requests{retries} · {tally.input_tokens:,} tokens in + "
            f"{tally.output_tokens:,} out · {cost} · {duration(elapsed)} · {rate:,.1f} rows/s"
        )
    lines += budgets
    if tally.truncated:
        were = "was" if tally.truncated == 1 else "were"
        lines.append(
            f"{plural(tally.truncated, 'answer')} {were} cut off at the output limit "
            '("finish_reason": "length")'
        )
    if tally.uncertain:
        lines.append(
            f"{tally.uncertain:,} attempts broke off after sending and may have been billed"
        )
    if tally.failures:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.failures.items()))
        lines.append(f"failed: {kinds}" + (f" → {errors_path(output)}" if output else ""))
    if tally.last_error and last_error:
        lines.append(f"last error: {tally.last_error.message}")
    return lines


def _allowed_errors(options: BatchOptions, rows: int) -> int | None:
    """How many of so many rows may fail: `10`, or `5%` of them. Raises `UsageError`."""
    text = options.max_errors
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if not match or (match[2] and float(match[2]) > 100):
        raise UsageError(f"--max-errors wants a number of rows or a share such as 5%, not {text!r}")
    return int(match[1] or rows * float(match[2]) / 100)
