"""Submitting a batch to its provider: once, whatever reply is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field

from llmctl.clock import Clock
from llmctl.errors import AuthFailed, CallError, NotFound, RateLimited
from llmctl.keys.resolver import RotatingKey
from llmctl.protocols import WireRequest
from llmctl.providers.batch_api import BatchApi, BatchPart, FileNotVisible
from llmctl.providers.endpoint import Endpoint
from llmctl.redact import last_chars
from llmctl.shutdown import Stop, first_of
from llmctl.storage.batch_jobs import BatchJob, BatchJobs
from llmctl.types import Target

T = TypeVar("T")

LINES = "lines.jsonl"  # of a batch, in the folder that is named by its intent
SETTLING = 60.0
"""Seconds in which a provider may come to list a batch whose creation it answered with an error, or
to see a file that was just uploaded (six seconds were seen at OpenAI)."""
MOST = 8 << 30  # bytes of a downloaded file
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries


class BatchEndpoint:
    """The `BatchClient` of a profile: goes on with the key that a refused one was replaced by."""

    def __init__(self, endpoint: Endpoint, target: Target, key: RotatingKey | None) -> None:
        assert isinstance(endpoint.base_url, str)
        self.endpoint, self.base_url = endpoint, endpoint.base_url
        self._target, self._key = target, key

    @property
    def key(self) -> str:
        """The last characters of the key in use, which belongs to a project, and its batches."""
        return last_chars(self._key.value) if self._key and self._key.value else ""

    async def exchange(self, wire: WireRequest) -> tuple[Mapping[str, str], bytes]:
        """See `BatchClient`."""
        return await self._signed(wire, lambda: self.endpoint.exchange(wire))

    async def download(self, wire: WireRequest, path: Path) -> None:
        """Write the body of a reply to a file. Raises as `exchange` does, and `OSError`."""
        await self._signed(wire, lambda: self.endpoint.download(wire, path, MOST))

    async def _signed(self, wire: WireRequest, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            using = None if self._key is None else self._key.value
            try:
                return await work()
            except CallError as error:
                if isinstance(error, AuthFailed) and self._key and await self._key.refused(using):
                    continue
                if not isinstance(error, NotFound):  # a batch that is gone says more
                    self.endpoint.locate(error, self._target, wire)
                raise


class Submission(Struct, frozen=True):
    """Submits sealed batches. `clock` does not sleep past a `stop`; `trouble` gets what is waited
    for; `foreign` are intents, each with a batch that by its results is another's."""

    api: BatchApi
    client: BatchEndpoint
    jobs: BatchJobs
    folder: Path
    stop: Stop
    clock: Clock
    trouble: Callable[[str], None]
    foreign: set[tuple[str, str]] = field(default_factory=set)

    def lines(self, intent: str) -> Path:
        """The file of a batch's lines."""
        return self.folder / intent / LINES

    def part(self, job: BatchJob) -> BatchPart:
        """The batch as its provider's interface gets it."""
        some = next(self.jobs.rows(job.intent), [])
        sent = (job.sent_ms or job.made_ms) / 1000
        return BatchPart(
            job.intent, self.lines(job.intent), job.size, job.rows, job.wire_path, job.model,
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
        file = await self.patiently(lambda: self.api.upload(self.client, self.part(job)))
        return await self.jobs.update(job.intent, file=file or "")

    async def _create(self, job: BatchJob) -> BatchJob:
        """Ask for the batch once, or until the provider sees its file."""
        first, pause = self.clock.monotonic(), _FIRST_PAUSE
        while True:
            sent = round(self.clock.wall() * 1000)
            # Before a byte leaves: who is killed now looks whether there is a batch.
            job = await self.jobs.update(job.intent, state="creating", sent_ms=sent)
            try:
                batch = await self.api.create(self.client, self.part(job), job.file or None)
            except FileNotVisible:
                await self.jobs.update(job.intent, state="sealed")
                if self.clock.monotonic() - first > SETTLING:
                    raise
            except CallError as error:
                if may_have_arrived(error):
                    self.trouble(error.message)
                    return await self.find(job)
                job = await self.jobs.update(job.intent, state="sealed")
                if not error.retryable or isinstance(error, RateLimited):
                    raise
                self.trouble(error.message)
            else:
                return await self.jobs.update(job.intent, state="running", batch=batch)
            await self.clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def find(self, job: BatchJob) -> BatchJob:
        """The batch after a reply that did not come: running where there is one, sealed where there
        is none, as it was where only its results will tell."""
        pause = _FIRST_PAUSE
        while True:
            found = await self.patiently(lambda: self.api.find(self.client, self.part(job)))
            if self.api.keeps_intent and found:
                return await self.jobs.update(job.intent, state="running", batch=found[0])
            candidates = [
                batch
                for batch in found
                if not self.jobs.known(batch) and (job.intent, batch) not in self.foreign
            ]
            if candidates:
                return await self.jobs.update(job.intent, note=" ".join(candidates))
            if self.clock.wall() - (job.sent_ms or 0) / 1000 > SETTLING:
                return await self.jobs.update(job.intent, state="sealed", note="")
            await self.clock.sleep(pause)
            pause = min(2 * pause, SETTLING / 4)

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """What the work gives, done again while it fails of what passes, until the run is to end.
        It must do no harm to do it twice, or half."""
        pause = _FIRST_PAUSE
        while True:
            self.stop.check()
            task = asyncio.ensure_future(work())
            try:
                await first_of(asyncio.wait((task,)), self.stop.wait())
                if not task.done():
                    raise self.stop.error()
                return task.result()
            except CallError as error:
                if not error.retryable:
                    raise
                self.trouble(error.message)
                await self.clock.sleep(max(pause, error.retry_after or 0.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def may_have_arrived(error: CallError) -> bool:
    """Whether the provider may have made the batch although it answered so, or not at all."""
    return error.ambiguous or (error.http_status or 0) >= 500
