"""Alerts of a batch: rules that are looked at while it runs, and the message of its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.batch.output import STDOUT, default_output, errors_path, lines_path
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context
from llmctl.cli.output import duration, money, plural
from llmctl.config.settings import Settings
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import LlmctlError, UsageError
from llmctl.observers.run_stats import Tally

if TYPE_CHECKING:
    from llmctl.alerts.message import Message

_ENDS = {0: "done", 3: "stopped by a budget", 6: "left at the provider", 130: "interrupted"}
_ENDS[143] = _ENDS[130]


@asynccontextmanager
async def watched(settings: Settings | None, context: Context) -> AsyncIterator[None]:
    """While open, the rules are looked at now and then, and at the end once more; where there are
    no sinks, nothing is."""
    if settings is None or not settings.alerts.sinks:
        yield
        return
    from llmctl.alerts.alarm import watch

    ended, held = asyncio.Event(), settings
    watching = asyncio.ensure_future(
        watch(lambda: held, context.environ, context.clock, context.warn, ended)
    )
    try:
        yield
    finally:
        ended.set()
        await watching


def check_sinks(flag: str, names: Collection[str] | None, settings: Settings | None) -> None:
    """Raises `UsageError` where one of the names is no sink."""
    sinks = {} if settings is None else settings.alerts.sinks
    for name in names or ():
        if name not in sinks:
            raise no_sink(name, sinks, f"{flag}: ")


def no_sink(name: str, known: Collection[str], flag: str = "") -> UsageError:
    """The error of a name that none of the known ones is."""
    hint = nearest(name, sorted(known)) if known else "write `alerts: sinks:` in the configuration"
    return UsageError(f"{flag}there is no sink {quoted(name)}; {hint} (`llmctl alerts list -h`)")


def batch_message(
    options: BatchOptions, tally: Tally, since: float, now: float, code: int, stopped: str | None
) -> Message:
    """How a run ended: exit code, counts, cost, time and files, and what `stopped` it early."""
    from llmctl.alerts.message import key_of, of_batch

    output = options.output or default_output(options.input)
    lines = None if output == STDOUT else Path(lines_path(options.input, output))
    errors = errors_path(lines) if lines and tally.failed else None
    summary = tally.summary(now - since, code)
    batch: dict[str, Any] = {
        "input": options.input,
        "output": None if lines is None else output,
        "errors_file": None if errors is None else str(errors),
        **summary,
        "cost_usd": None if tally.unpriced else float(tally.cost),
        "errors": dict(sorted(tally.failures.items())),
        "stopped_because": stopped,
    }
    left = max(0, tally.rows - tally.done)
    counts = [
        f"{tally.ok:,} answered",
        f"{tally.failed:,} failed",
        *([f"{tally.skipped:,} answered before"] if tally.skipped else ()),
        *([f"{left:,} without an answer"] if left else ()),
    ]
    cost = money(None if tally.unpriced else tally.cost)
    text = f"{plural(tally.rows, 'row')}: {', '.join(counts)}; {cost}, {duration(now - since)}"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.failures.items()))
    text += f"; failed: {kinds}" if kinds else ""
    text += f"; {stopped}" if stopped else ""
    text += f"; output {output}" if lines else ""
    title = f"[BATCH] {options.input}: {_ENDS.get(code, 'failed')}, exit code {code}"
    return of_batch(title, text, batch, key_of("batch", options.input, repr(since)), since, now)


async def notify(
    options: BatchOptions,
    tally: Tally,
    since: float,
    code: int,
    stopped: str | None,
    settings: Settings | None,
    context: Context,
) -> None:
    """Tell the sinks that `--notify` names how the run ended. What fails is said on stderr, and
    tried again by a later check; the run's exit code is what it is."""
    if not options.notify or settings is None:
        return
    try:
        message = batch_message(options, tally, since, context.clock.wall(), code, stopped)
        await _tell((*dict.fromkeys(options.notify),), message, settings, context)
    except Exception as error:  # noqa: BLE001 - the run has ended, and well or not is its own
        context.warn(f"--notify: a mistake in llmctl, {type(error).__name__}: {error}")


async def _tell(
    names: Collection[str], message: Message, settings: Settings, context: Context
) -> None:
    """By way of the disk, so that what fails is tried again; where that is full, once without."""
    from llmctl.alerts.alarm import Alarm

    with Alarm(settings, context.environ, context.clock, context.warn) as alarm:
        try:
            await asyncio.to_thread(alarm.put, message, names)
            await alarm.deliver()
        except LlmctlError:
            for done in await asyncio.gather(*(alarm.send(message, name) for name in names)):
                if done.failure is not None:
                    context.warn(f"--notify: the sink {done.sink} did not take it: {done.failure}")
