"""`llmctl batch --engine provider`: what it needs, how it waits, and what it leaves running."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmctl.auth.extras import needs_extra
from llmctl.batch.job import Batch
from llmctl.batch.output import STDOUT, default_output
from llmctl.batch.resume import check_submitted
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context
from llmctl.cli.options import parsed
from llmctl.cli.output import plural
from llmctl.config.paths import STORE_KEY
from llmctl.config.settings import Folders, Profile, parse_age
from llmctl.engines.batch_tools import BatchTools
from llmctl.engines.provider import Patience, ProviderEngine
from llmctl.errors import InputError, UsageError
from llmctl.protocols import Engine
from llmctl.providers.registry import batch_api
from llmctl.request import target_for
from llmctl.runner import Runner
from llmctl.shutdown import Stop
from llmctl.storage.batch_jobs import BatchJob, BatchJobsPeek

if TYPE_CHECKING:
    from llmctl.privacy.requests import RequestMasker

ACCEPTED = 6  # exit code: rows are at the provider


def check_options(options: BatchOptions) -> None:
    """Raises `UsageError` for options that do not go together."""
    output = options.output or default_output(options.input)
    given = {
        "--detach": options.detach, "--cancel": options.cancel, "--max-wait": options.max_wait,
        "--then": options.then != "stop",
    }  # fmt: skip
    if options.engine != "provider":
        if wrong := next((name for name, value in given.items() if value), None):
            raise UsageError(f"{wrong} goes with --engine provider")
        return
    if output == STDOUT:
        raise UsageError(
            "--engine provider wants a file with -o: its batches take hours, and the same command "
            "fetches them into it"
        )
    if options.detach and options.cancel:
        raise UsageError("--detach leaves batches running, and --cancel ends them: choose one")
    if options.then == "local" and options.max_wait is None:
        raise UsageError("--then says what comes after --max-wait: give that, too")
    max_wait(options)


def max_wait(options: BatchOptions) -> float | None:
    """Seconds of `--max-wait`. Raises `UsageError`."""
    return parsed("--max-wait", "a duration such as 90m or 26h", options.max_wait, parse_age)


def check_profile(profile: Profile, options: BatchOptions, masker: RequestMasker | None) -> None:
    """Raises `UsageError`, or `InvalidRequest`, for a profile whose provider has no batches that
    are spoken, or whose answers could not be restored another day."""
    if options.engine != "provider":
        return
    if masker is not None:
        needs_extra("pii", "cryptography", "cryptography")
    if masker is not None and masker.action == "mask" and not masker.lasting:
        raise UsageError(
            "what is masked in a batch of the provider is restored by a key that must last: set "
            f"{STORE_KEY} (make it with `openssl rand -hex 32`, and keep it), or let a keyring be "
            "used; or leave --engine provider out"
        )
    api = batch_api(profile.adapter)
    if api is not None and profile.provider != "local":
        api.limits(profile.base_url)
    else:
        raise UsageError(
            f"the provider of profile {profile.name} ({profile.provider}) has no batches: leave "
            "--engine provider out, or choose another profile with -p"
        )


def open_jobs(batch: Batch, folders: Folders) -> list[BatchJob]:
    """The provider's batches that rows of the output are in."""
    if batch.output is None:
        return []
    with BatchJobsPeek(folders.state / "ledger.db") as peek:
        return peek.jobs(str(batch.output.path), open_only=True)


def check_open(batch: Batch, folders: Folders, options: BatchOptions, context: Context) -> None:
    """Raises `InputError` where the run would pay twice for rows that are in a provider's batch."""
    jobs = open_jobs(batch, folders)
    if batch.output is None or not jobs or options.cancel:
        return
    rows, path = plural(sum(job.rows for job in jobs), "row"), batch.output.path
    if options.engine != "provider":
        raise InputError(
            f"{rows} of {path} are in a batch of the provider: fetch them with --engine provider, "
            "or end it with --engine provider --cancel"
        )
    with BatchJobsPeek(folders.state / "ledger.db") as peek:
        known = ((row_id, bytes.fromhex(key[:32])) for row_id, key in peek.rows(str(path)))
        batch.index.add_submitted(known)
    if gone := check_submitted(batch.index, batch.source, path, batch.rows):
        context.warn(
            f"{plural(gone, 'row')} at the provider with no row in the input any more: paid for, "
            "and not put into the output"
        )


def engine(
    batch: Batch,
    options: BatchOptions,
    live: Runner,
    context: Context,
    folders: Folders,
    stop: Stop,
    local: Engine,
) -> ProviderEngine:
    """The engine of this command. Calls of the run are held at the price of batches."""
    profile = live.profile
    api = batch_api(profile.adapter)
    assert api is not None
    assert batch.output is not None
    assert live.jobs is not None
    live.budget.in_batch = True
    flags = {"--concurrency": options.concurrency, "--rpm": options.rpm, "--tpm": options.tpm,
             "--rpd": options.rpd}  # fmt: skip
    given = [flag for flag, value in flags.items() if value is not None]
    if given and options.then != "local":
        context.warn(f"{', '.join(given)}: batches of the provider are not held to it")
    tools = BatchTools(
        api=api,
        client=live.batch_endpoint(),
        jobs=live.jobs,
        folder=folders.state / "batches",
        output=str(batch.output.path),
        input=options.input if options.input == STDOUT else str(Path(options.input).absolute()),
        run_id=live.run_id,
        target=target_for(profile),
        admission=live.admission,
        settling=live.settling,
        costs=live.costs.of_batches(),
        budget=live.budget,
        tokens=lambda request: live.counter.count(request).tokens,
        clock=context.clock,
        stop=stop,
        call_id=live.call_id,
        say=context.info,
        store=live.store,
        private=live.masker is not None or live.store.on,
    )
    patience = Patience(
        poll=profile.batch.poll,
        queued=profile.batch.queued_tokens,
        batches=profile.retry.attempts,
        detach=options.detach,
        cancel=options.cancel,
        most=max_wait(options),
        local=local if options.then == "local" else None,
    )
    return ProviderEngine(tools, patience)


def left_running(left: int) -> str:
    """What stays at the provider, and the command that fetches it: the one that was typed."""
    once = {"--detach", "--cancel", "--restart"}  # typed again they would not fetch, or fetch anew
    words = [word for word in sys.argv[1:] if word not in once]
    return (
        f"{plural(left, 'row')} at the provider, which goes on by itself; the same command "
        f"fetches: {shlex.join(['llmctl', *words])}"
    )
