"""The queue as `ask`, `batch` and `queue` open it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmctl.batch.output import STDOUT, check_output, default_output
from llmctl.config.degrade import keeps_for_later, without_queue
from llmctl.errors import BusyError
from llmctl.protocols import Observer
from llmctl.storage.call_queue import CallQueue, CallQueuePeek, Origin, open_queue
from llmctl.storage.cipher import StoreCipher
from llmctl.types import CallRecord

if TYPE_CHECKING:
    from llmctl.batch.job import Batch, Job
    from llmctl.cli.context import Context, Selection
    from llmctl.config.settings import Folders, Profile
    from llmctl.guards.queueing import Queueing
    from llmctl.runner import Runner


def queue_path(folders: Folders) -> Path:
    """The file of the queue."""
    return folders.state / "queue.db"


def opened_queue(folders: Folders, store: StoreCipher, context: Context) -> CallQueue:
    """The queue, open. Raises as `open_queue`."""
    path = queue_path(folders)
    queue = open_queue(path, store, context.clock)
    if queue.lingers:
        context.warn(
            f"what is queued was encrypted in {path}, but another llmctl keeps reading it: its WAL "
            "may hold it in clear until that one has ended"
        )
    return queue


def for_rows(profile: Profile, output: str, *, shared: bool = False) -> Profile:
    """The profile as a batch with that OUTPUT asks it: to stdout no answer can come later, and a
    row that is `shared` with other processes would be sent by another one."""
    if output != STDOUT and not shared:
        return profile
    return replace(profile, degrade=without_queue(profile.degrade))


def queueing_for(
    live: Runner, selection: Selection, context: Context, origin: Origin, *, private: str = ""
) -> Queueing | None:
    """What puts calls of a command into the queue; None where the profile does not say so.
    `private`: why nothing of the questions may be kept in clear; empty: it may."""
    from llmctl.guards.queueing import Queueing

    profile = selection.profile
    if not keeps_for_later(profile.degrade):
        return None
    if not private and not profile.history:
        private = f"the profile {profile.name} keeps no conversations (`history: false`)"

    @cache
    def queue() -> CallQueue:
        opened = opened_queue(selection.settings.folders, live.store, context)
        live.stack.callback(opened.close)
        return opened

    return Queueing(queue, origin, encrypted=live.store.on, warn=context.warn, private=private)


# --- The rows of a batch


def fetch_queued(job: Job, selection: Selection, context: Context) -> None:
    """Let OUTPUT have the answers that a killed `queue run` has left in the queue; where the job
    starts over, forget all that is queued for it. Raises `BusyError`, `InputError`, `DiskError`
    and `NoKeyError`."""
    from llmctl.batch.late_output import fetch_answers

    output = check_output(job.input, job.output or default_output(job.input))
    if output is None or not _has_rows(selection.settings.folders, output):
        return

    async def fetch(queue: CallQueue) -> None:
        if job.restart:
            await queue.remove_output(str(output))
        else:
            with suppress(*((BusyError,) if job.join else ())):  # another of the group does it
                if number := await fetch_answers(queue, output, job.format):
                    context.info(f"{number:,} answered from the queue meanwhile → {output}")
        queue.tidy()

    store = StoreCipher(context.environ, on=selection.settings.encrypt)
    queue = opened_queue(selection.settings.folders, store, context)
    try:
        asyncio.run(fetch(queue))
    finally:
        queue.close()


def queueing_rows(
    batch: Batch, live: Runner, selection: Selection, context: Context
) -> Queueing | None:
    """What puts rows of a batch into the queue; None where nothing does."""
    if batch.output is None:
        return None
    origin = Origin(str(batch.output.path), batch.job.format)
    return queueing_for(live, selection, context, origin)


def unqueueing_rows(
    batch: Batch, live: Runner, selection: Selection, context: Context
) -> Observer | None:
    """What takes rows of a batch that have their record out of the queue; None where none is in
    it."""
    folders = selection.settings.folders
    output = None if batch.output is None else batch.output.path
    if output is None or not _has_rows(folders, output):
        return None
    queue = opened_queue(folders, live.store, context)
    live.stack.callback(queue.close)
    live.stack.callback(queue.tidy)
    rows = queue.rows(str(output))

    async def leave(record: CallRecord) -> None:
        if record.request.id in rows:
            await queue.remove_row(str(output), record.request.id)

    return leave


def _has_rows(folders: Folders, output: Path) -> bool:
    with CallQueuePeek(queue_path(folders)) as queue:
        return queue.has_rows(str(output))
