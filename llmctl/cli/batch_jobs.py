"""Use cases `batch --list`, `--status` and `--adopt`: the provider's batches on record.

Each prints with --json what it is about: [{intent, output, profile, provider, batch, state, word,
rows, done, failed, made, checked, note, command}]. `state` is sealed (not submitted yet), creating
(the submission is uncertain), running, ended, fetched or done, `word` the provider's own; `command`
fetches, and is null once nothing is left to fetch; times are UTC.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from msgspec.structs import replace

from llmctl.batch.output import STDOUT, check_output, default_output
from llmctl.cli.batch_provider import ACCEPTED
from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import age, plural, print_json, print_lines, print_table
from llmctl.errors import CallError, InputError, NoKeyError, SetupError, UsageError
from llmctl.storage.batch_jobs import KEPT, BatchJob, BatchJobs, BatchJobsPeek
from llmctl.storage.files import LockedFile
from llmctl.storage.ledger import open_ledger

if TYPE_CHECKING:
    from llmctl.cli.batch import BatchOptions
    from llmctl.config.settings import Settings
    from llmctl.providers.batch_api import BatchClient
    from llmctl.providers.endpoint import Endpoint
    from llmctl.wiring import Surroundings

_LONGEST_QUESTION = 30.0  # seconds: a provider tells of a batch in less than one
_STATES = {
    "sealed": "not submitted yet",
    "creating": "submission uncertain",
    "running": "running",
    "ended": "ended, not fetched yet",
    "fetched": "fetched, not all rows read",
    "done": "done",
}


class JobStatus(Struct, frozen=True):
    """The status of a batch. `ended`: at the provider; `problem`: why it was refused there, or
    could not be asked for."""

    job: BatchJob
    ended: bool = False
    problem: str = ""

    @property
    def state(self) -> str:
        """That on record, or `ended`."""
        return "ended" if self.ended and self.job.state == "running" else self.job.state

    @property
    def words(self) -> str:
        """The state for people."""
        return _STATES[self.state] + (", cancelled" if self.job.cancelled else "")

    @property
    def note(self) -> str:
        """What a person has to know."""
        job = self.job
        if not _is_uncertain(job):
            return " ".join("; ".join(filter(None, (self.problem, job.note))).split())
        found = f" (it may be {' or '.join(job.note.split())})" if job.note else ""
        return (
            f"no reply to its submission is on record{found}: where no llmctl is at it, run the "
            "command again, it looks by itself; or look at the provider's page, and say "
            "--adopt ID, or --adopt none"
        )


def run(options: BatchOptions, context: Context) -> int:
    """Do what the options ask for and return the exit code. Raises `LlmctlError`."""
    if options.list + options.status + (options.adopt is not None) > 1:
        raise UsageError("--list, --status and --adopt exclude each other; give one of them")
    output = _output(options)
    path = context.folders.state / "ledger.db"
    if options.adopt is not None:
        return _adopt(options.adopt, output, path, context)
    if options.status:
        found = _open_jobs(output, path, context)
    else:
        since = context.clock.wall() * 1000 - KEPT
        with BatchJobsPeek(path) as peek:
            jobs = peek.jobs(output)
        if not jobs and path.exists():  # one that cannot be read shows none, and says why here
            open_ledger(path, "", "").close()
        found = [JobStatus(job) for job in jobs if job.is_open or job.made_ms > since]
    # Exit 0 would say of a mistyped name that all is fetched.
    if not found and options.input not in {"", STDOUT} and not os.path.lexists(options.input):
        raise InputError(f"there is no file {options.input}: check the path")
    if context.json:
        print_json([_fields(one, context.cwd()) for one in found])
    elif not found:
        which = "open batch of a provider" if options.status else "batch of a provider"
        context.info(f"no {which} is on record" + (f" for {output}" if output else ""))
    elif options.status:
        _print_status(found, context)
    else:
        _print_list(found, context.cwd())
    return ACCEPTED if options.status and any(one.job.is_open for one in found) else 0


def _output(options: BatchOptions) -> str | None:
    """The real path of OUTPUT's lines; None without INPUT and OUTPUT. Raises `InputError`."""
    if not options.input and options.output is None:
        return None
    named = default_output(options.input) if options.output is None else options.output
    path = check_output(options.input, named)
    if path is None:
        raise UsageError("the OUTPUT of a provider's batch is a file: name it with -o")
    return str(path)


def _is_uncertain(job: BatchJob) -> bool:
    return job.state == "creating" and job.batch is None


# --- Asking the providers -------------------------------------------------------------------------


def _open_jobs(output: str | None, path: Path, context: Context) -> list[JobStatus]:
    """The open batches, each running one asked for, and what was said of it put on record."""
    if not path.exists():
        return []
    with closing(open_ledger(path, "", "")) as ledger:
        with BatchJobsPeek(path) as peek:
            jobs = peek.jobs(output, open_only=True)
        if not any(job.state == "running" for job in jobs):
            return [JobStatus(job) for job in jobs]
        return asyncio.run(_ask_all(jobs, BatchJobs(ledger.database), context))


async def _ask_all(found: Sequence[BatchJob], jobs: BatchJobs, context: Context) -> list[JobStatus]:
    from llmctl.wiring import Surroundings

    settings = load_settings(context)
    around = Surroundings(
        settings.folders, context.environ, context.clock, context.info, context.warn
    )
    endpoints: dict[tuple[str, ...], Endpoint | str] = {}
    async with AsyncExitStack() as stack:
        for job in found:
            if job.state == "running" and (place := _place(job)) not in endpoints:
                endpoints[place] = await _open(job, settings, around, stack)
        # At once: one that cannot be reached takes its time.
        return await asyncio.gather(
            *(_ask(job, endpoints.get(_place(job), ""), jobs, context) for job in found)
        )


def _place(job: BatchJob) -> tuple[str, ...]:
    return job.profile, job.adapter, job.base_url


async def _open(
    job: BatchJob, settings: Settings, around: Surroundings, stack: AsyncExitStack
) -> Endpoint | str:
    """The endpoint of the batch's profile, or why there is none."""
    from llmctl.wiring import open_endpoint

    profile = settings.profiles.get(job.profile)
    if profile is None:
        return f"there is no profile {job.profile} any more"
    if _place(job) != (profile.name, profile.adapter, profile.url):
        where = job.base_url.partition("?")[0]  # what follows may be a gateway's code
        return f"the profile {job.profile} leads elsewhere now, and the batch is at {where}"
    timeout = replace(profile.timeout, total=min(profile.timeout.total, _LONGEST_QUESTION))
    try:
        opened = open_endpoint(replace(profile, timeout=timeout), around)
        return await stack.enter_async_context(opened)
    except (NoKeyError, SetupError) as error:
        return error.message


async def _ask(
    job: BatchJob, endpoint: Endpoint | str, jobs: BatchJobs, context: Context
) -> JobStatus:
    from llmctl.providers.registry import batch_api

    if job.state != "running" or job.batch is None:
        return JobStatus(job)
    now, api = context.clock.wall(), batch_api(job.adapter)
    last = f"shown is what was known {_age(job.checked_ms or job.made_ms, now)} ago"
    if isinstance(endpoint, str):
        return JobStatus(job, problem=f"{endpoint}; {last}")
    assert api is not None, "who made the batch has batches"
    try:
        # Its base URL is no function: only that of a local model is.
        status = await api.status(cast("BatchClient", endpoint), job.batch)
    except CallError as error:
        return JobStatus(job, problem=f"{error.message.rstrip('.')}; {last}")
    job = await jobs.update(
        job.intent,
        word=status.word,
        done=status.done,
        failed=status.failed,
        checked_ms=round(now * 1000),
    )
    return JobStatus(job, status.ended, status.problem)


# --- Printing -------------------------------------------------------------------------------------


def _print_list(found: Sequence[JobStatus], cwd: Path) -> None:
    """A line for each batch."""
    rows = [
        (_time(one.job.made_ms), _near(one.job.output, cwd), one.job.profile,
         one.job.batch or "-", one.words, _progress(one))
        for one in found
    ]  # fmt: skip
    head = ("MADE (UTC)", "OUTPUT", "PROFILE", "BATCH", "STATE", "ROWS")
    print_table(head, rows, ("ROWS",), ("MADE (UTC)", "ROWS"))


def _print_status(found: Sequence[JobStatus], context: Context) -> None:
    """The batches of each output, and the command that fetches them."""
    now, cwd = context.clock.wall(), context.cwd()
    groups: dict[str, list[JobStatus]] = {}
    for one in found:
        groups.setdefault(_command(one.job, cwd), []).append(one)
    for command, members in groups.items():
        print_lines(f"{_near(members[0].job.output, cwd)}, profile {members[0].job.profile}")
        for one in members:
            job = one.job
            batch, word = job.batch and f"{job.batch}: ", job.word and f" ({job.word})"
            failed = f", {job.failed:,} failed" if job.failed else ""
            print_lines(
                f"  {batch or ''}{one.words}{word}, {_progress(one)} rows{failed}, "
                f"{_age(job.made_ms, now)} old",
                *([f"    {one.note}"] if one.note else []),
            )
        print_lines(f"  fetch: {command}")
    context.info("to fetch, give the options that the batch was made with, too (--template, …)")


def _progress(one: JobStatus) -> str:
    """Rows with an outcome at the provider, at the end those answered, of all: `90/1,000`."""
    job = one.job
    return f"{job.done + (job.failed if job.is_open else 0):,}/{job.rows:,}"


def _fields(one: JobStatus, cwd: Path) -> dict[str, Any]:
    job = one.job
    return {
        "intent": job.intent,
        "output": job.output,
        "profile": job.profile,
        "provider": job.provider,
        "batch": job.batch,
        "state": one.state,
        "word": job.word,
        "rows": job.rows,
        "done": job.done,
        "failed": job.failed,
        "made": _time(job.made_ms, "%Y-%m-%dT%H:%M:%SZ"),
        "checked": None if job.checked_ms is None else _time(job.checked_ms, "%Y-%m-%dT%H:%M:%SZ"),
        "note": one.note,
        "command": _command(job, cwd) if job.is_open else None,
    }


def _command(job: BatchJob, cwd: Path) -> str:
    """What to type to go on with the batch's output."""
    words = ["llmctl", "batch", _near(job.input, cwd), "--engine", "provider"]
    return shlex.join([*words, "-o", _near(job.output, cwd), "-p", job.profile])


def _near(path: str, cwd: Path) -> str:
    """The path, relative where it is below the current folder."""
    return str(Path(path).relative_to(cwd)) if Path(path).is_relative_to(cwd) else path


def _time(at_ms: int, form: str = "%Y-%m-%d %H:%M") -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def _age(at_ms: int, now: float) -> str:
    return age(now - at_ms / 1000)


# --- Adopting -------------------------------------------------------------------------------------


def _adopt(id: str, output: str | None, path: Path, context: Context) -> int:
    """Put on record which batch an uncertain submission made, or that it made none."""
    if not id or len(id.split()) != 1 or id != id.strip():
        raise UsageError(f"--adopt wants the provider's id of a batch, or none, not {id!r}")
    if output is None:
        raise UsageError("--adopt wants the INPUT of the batch, or its OUTPUT with -o")
    # As a run holds it: one that is under way finds out for itself.
    with LockedFile.open(Path(output), private=False) as file:
        try:
            job = _adopted(id, output, path)
        finally:
            file.leave_no_trace()
    one, cwd = JobStatus(job), context.cwd()
    if context.json:
        print_json([_fields(one, cwd)])
        return 0
    rows, command = plural(job.rows, "row"), _command(job, cwd)
    if job.batch is None:
        print_lines(f"the batch of {rows} was not made; submit: {command}")
    else:
        print_lines(f"{job.batch} is the batch of {rows}; fetch: {command}")
    return 0


def _adopted(id: str, output: str, path: Path) -> BatchJob:
    none = UsageError(f"no uncertain submission is on record for {output}")
    if not path.exists():
        raise none
    with closing(open_ledger(path, "", "")) as ledger:
        jobs = BatchJobs(ledger.database)
        found = [job for job in jobs.open_jobs(output) if _is_uncertain(job)]
        if len(found) > 1:
            found = [job for job in found if id in job.note.split()] or found
        if not found:
            raise none
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} submissions for {output} are uncertain, and which {id} is for is "
                "not known: run the command again, it looks by itself"
            )
        if jobs.known(id):
            raise UsageError(f"{id} is on record as another batch; see `llmctl batch --list`")
        changes: dict[str, Any] = {"state": "running", "batch": id}
        if id == "none":
            changes = {"state": "sealed", "sent_ms": None}
        return jobs.update_now(found[0].intent, note="", **changes)
