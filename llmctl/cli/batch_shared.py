"""`llmctl batch --join` and `--follow`: rows that processes share, or that come while it runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llmctl.batch.job import Batch, RowSource
from llmctl.batch.lots import Lots
from llmctl.batch.output import STDOUT, default_output
from llmctl.cli.batch import BatchOptions
from llmctl.config.settings import Settings
from llmctl.errors import UsageError
from llmctl.observers.run_stats import Others, Tally
from llmctl.runner import Runner
from llmctl.storage.claims import SqliteClaims
from llmctl.storage.files import private_folder
from llmctl.storage.process import boot_id


def check_options(options: BatchOptions) -> None:
    """Raises `UsageError` for options that do not go together."""
    files = {options.input, options.output or default_output(options.input)}
    if options.join:
        if STDOUT in files:
            raise UsageError("--join wants files that all processes see, not stdin or stdout")
        if options.restart:
            raise UsageError("--restart throws away what others of --join write: remove OUTPUT")
        if sys.platform == "win32":
            raise UsageError("--join needs locks that Windows does not have: leave it out")
    if options.follow and options.limit is not None:
        raise UsageError("--limit takes the first rows, and --follow what comes: choose one")
    if options.engine != "local" and (options.join or options.follow):
        name = "--join" if options.join else "--follow"
        raise UsageError(f"{name} sends one call a row: leave --engine {options.engine} out")


def claims_place(options: BatchOptions, settings: Settings) -> str | None:
    """What tells the claims of this configuration from those of another machine or state folder;
    None without `--join`, and for a plan. Raises `DiskError`."""
    if not options.join or options.dry_run:
        return None
    status = private_folder(settings.folders.state).stat()
    if settings.coordinator is not None:
        return "coordinator"
    return f"{boot_id()} {status.st_dev} {status.st_ino}"


def tally(batch: Batch) -> Tally:
    """The counts of a run that begins."""
    others = Others() if batch.group is None else batch.group.others
    return Tally(rows=batch.rows, skipped=batch.skipped, others=others)


@asynccontextmanager
async def open_rows(
    batch: Batch, tally: Tally, live: Runner, settings: Settings
) -> AsyncIterator[RowSource | None]:
    """Where the run gets its rows from; None: they are its own, and all there. Raises `DiskError`
    and `BusyError`."""
    asked = (tally, live.stop, live.clock, live.call_id)
    if batch.group is not None:
        if live.shared.claims is not None:
            yield Lots(batch, live.shared.claims, *asked)
            return
        with SqliteClaims(settings.folders.state / "claims.db", live.clock) as claims:
            yield Lots(batch, claims, *asked)
    else:
        yield Lots(batch, None, *asked) if batch.job.follow else None
