"""Submitting a batch to its provider: once, whatever reply is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from msgspec import Struct, field

from llmctl.clock import Clock
from llmctl.engines.batch_tools import BatchTools
from llmctl.errors import CallError, ConnectionFailed, RateLimited
from llmctl.providers.batch_api import BatchPart, FileNotVisible
from llmctl.shutdown import first_of
from llmctl.storage.batch_jobs import BatchJob

T = TypeVar("T")

SETTLING = 60.0
"""Seconds in which a provider may come to list a batch whose creation it answered with an error, or
to see a file that was just uploaded (six seconds were seen at OpenAI)."""
_TRIES = 5  # to reach an address that has never replied
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries


class Submission(Struct, frozen=True):
    """Submits sealed batches. `trouble` gets what is waited for; `foreign` are intents, each with a
    batch that by its results is another's."""

    tools: BatchTools
    trouble: Callable[[str], None]
    foreign: set[tuple[str, str]] = field(default_factory=set)

    @property
    def clock(self) -> Clock:
        """A clock that does not sleep past a stop."""
        return self.tools.stop.clock(self.tools.clock)

    def part(self, job: BatchJob) -> BatchPart:
        """The batch as its provider's interface gets it."""
        some = next(self.tools.jobs.rows(job.intent), [])
        sent = (job.sent_ms or job.made_ms) / 1000
        lines = partial(self.tools.open, self.tools.lines(job.intent))
        return BatchPart(
            job.intent, lines, job.size, job.rows, job.wire_path, job.model,
            sent, frozenset(row.call_id for row in some),
        )  # fmt: skip

    async def submit(self, job: BatchJob) -> BatchJob:
        """The batch, running; or still `creating` where it is not certain whether there is one.

        Raises `InvalidRequest` and its like where the provider refuses it for good, `RateLimited`
        where it takes no more now, `AuthFailed`; and `Cancelled` once the run is to end.
        """
        if job.batch is None and job.state == "creating":
            job = await self.find(job)
        while job.batch is None and job.state == "sealed":
            job = await self._create(job if job.file is not None else await self._upload(job))
        return job

    async def _upload(self, job: BatchJob) -> BatchJob:
        file = await self.patiently(
            lambda: self.tools.api.upload(self.tools.client, self.part(job))
        )
        return await self.tools.jobs.update(job.intent, file=file or "")

    async def _create(self, job: BatchJob) -> BatchJob:
        """Ask for the batch once, or until the provider sees its file."""
        first, pause, tries = self.clock.monotonic(), _FIRST_PAUSE, 0
        while True:
            sent = round(self.clock.wall() * 1000)
            # Before a byte leaves: who is killed now looks whether there is a batch.
            job = await self.tools.jobs.update(job.intent, state="creating", sent_ms=sent)
            try:
                batch = await self.tools.api.create(
                    self.tools.client, self.part(job), job.file or None
                )
            except FileNotVisible:
                await self.tools.jobs.update(job.intent, state="sealed")
                if self.clock.monotonic() - first > SETTLING:
                    raise
            except CallError as error:
                if may_have_arrived(error):
                    self.trouble(error.message)
                    return await self.find(job)
                job = await self.tools.jobs.update(job.intent, state="sealed")
                tries += 1
                if isinstance(error, RateLimited) or self._is_final(error, tries):
                    raise
                self.trouble(error.message)
            else:
                return await self.tools.jobs.update(job.intent, state="running", batch=batch)
            await self.clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def find(self, job: BatchJob) -> BatchJob:
        """The batch after a reply that did not come: running where there is one, sealed where there
        is none, as it was where only its results will tell."""
        pause = _FIRST_PAUSE
        while True:
            found = await self.patiently(
                lambda: self.tools.api.find(self.tools.client, self.part(job))
            )
            if self.tools.api.keeps_intent and found:
                return await self.tools.jobs.update(job.intent, state="running", batch=found[0])
            candidates = [
                batch
                for batch in found
                if not self.tools.jobs.known(batch) and (job.intent, batch) not in self.foreign
            ]
            if candidates:
                return await self.tools.jobs.update(job.intent, note=" ".join(candidates))
            if self.clock.wall() - (job.sent_ms or 0) / 1000 > SETTLING:
                return await self.tools.jobs.update(job.intent, state="sealed", note="")
            await self.clock.sleep(pause)
            pause = min(2 * pause, SETTLING / 4)

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """What the work gives, done again while it fails of what passes, until the run is to end.
        It must do no harm to do it twice, or half."""
        pause, tries = _FIRST_PAUSE, 0
        while True:
            self.tools.stop.check()
            task = asyncio.ensure_future(work())
            try:
                await first_of(asyncio.wait((task,)), self.tools.stop.wait())
                if not task.done():
                    raise self.tools.stop.error()
                return task.result()
            except CallError as error:
                tries += 1
                if self._is_final(error, tries):
                    raise
                self.trouble(error.message)
                await self.clock.sleep(max(pause, error.retry_after or 0.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _is_final(self, error: CallError, tries: int) -> bool:
        """Whether it makes no sense to try again: of an address that has never replied, too."""
        lost = isinstance(error, ConnectionFailed) and not self.tools.client.reached
        return not error.retryable or (lost and tries >= _TRIES)


def may_have_arrived(error: CallError) -> bool:
    """Whether the provider may have made the batch although it answered so, or not at all."""
    return error.ambiguous or (error.http_status or 0) >= 500
