"""The results of a batch: fetched, and every row through the guards of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from llmctl.engines.batch_tools import BatchTools
from llmctl.engines.submission import Submission
from llmctl.errors import BadResponse, CallError
from llmctl.guards.accounting import Stopwatch
from llmctl.protocols import Emit, Observer
from llmctl.providers.batch_api import BatchResult, BatchStatus
from llmctl.storage.batch_jobs import BatchJob, BatchRow
from llmctl.storage.files import disk, private_folder, sync_file, sync_folder
from llmctl.storage.request_spool import RequestSpool
from llmctl.types import Answer, Masked, Request, Target, Usage

_DOWNLOADS = 5  # times that a file is downloaded which comes in pieces


class BatchResults:
    """Gives rows their ends: those of a batch by its results, and others that fail without one.

    `submission` does again what fails of what passes, `note` gets what is waited for. The records
    of rows that the run has drawn go to `sink`, those of others to the ledger alone.
    """

    def __init__(
        self,
        tools: BatchTools,
        spool: RequestSpool,
        sink: Observer,
        submission: Submission,
        note: Callable[[str], None],
    ) -> None:
        self._tools, self._spool, self._sink, self._note = tools, spool, sink, note
        self._patiently = submission.patiently
        self._settle = tools.settling(self._outcome, sink)
        self._settle_undrawn = tools.settling(self._outcome, tools.budget.settle)
        # By call id, with how many batches the row has been in.
        self._outcomes: dict[str, tuple[BatchResult | Answer | CallError, int]] = {}
        self._age = 0.0  # seconds of the batch that is read
        # Tokens, and rows that have an answer, by the results of the batch that is read.
        self._used, self._good = Usage(), 0

    async def fetch(self, job: BatchJob, status: BatchStatus | None) -> int:
        """Put the results on the disk, and into the spool; gives how many were doubled."""
        tools, folder, doubled = self._tools, self._tools.folder / job.intent, 0
        self._spool.clear_results()
        if status is None:
            return sum(map(self._read, self.fetched(job)))
        private_folder(folder)
        for number, wire in enumerate(status.downloads):
            path = folder / f"results-{number}.jsonl"
            create = partial(tools.create, path)
            for tries in range(1, _DOWNLOADS + 1):
                with disk("write", path):
                    await self._patiently(lambda: tools.client.download(wire, create))  # noqa: B023
                try:
                    doubled += self._read(path)
                    with disk("write", path), path.open("rb+") as file:
                        await asyncio.to_thread(sync_file, file.fileno())
                    break
                except BadResponse as error:
                    if tries == _DOWNLOADS:
                        raise
                    self._note(error.message)
        sync_folder(folder)
        return doubled

    def fetched(self, job: BatchJob) -> list[Path]:
        """The files of a batch's results that are on the disk."""
        return sorted((self._tools.folder / job.intent).glob("results-*.jsonl"))

    def _read(self, path: Path) -> int:
        with disk("read", path), self._tools.open(path) as file:
            return self._spool.put_results(self._tools.api.results(file))

    async def settle(self, job: BatchJob, doubled: int) -> list[tuple[BatchRow, bool]]:
        """Settle the rows that have a result, of which `doubled` came twice; gives the others, and
        of each whether the results do not have it at all."""
        tools, blank = self._tools, list[tuple[BatchRow, bool]]()
        self._used, self._good, self._age = Usage(), 0, (tools.now() - job.made_ms) / 1000
        for page in tools.jobs.rows(job.intent):
            work = []
            for row in page:
                result = self._spool.result(row.call_id)
                if result is not None and result.status:
                    self._good += result.status == 200
                    work.append(self.answer(job, row, result))
                else:
                    blank.append((row, result is None))
            await asyncio.gather(*work)
        unknown, some = self._spool.clear_results()
        if doubled:
            tools.say(f"{job.batch}: {doubled:,} results came twice; one of each counts")
        if unknown:
            named = ", ".join(some) + (", …" if unknown > len(some) else "")
            tools.say(f"{job.batch}: {unknown:,} results are of unknown rows ({named})")
        return blank

    def is_whole(self, job: BatchJob, status: BatchStatus | None) -> bool:
        """Whether the provider's own counts say that nothing was billed but what was read."""
        if status is None:
            return False
        if status.usage is None:
            return status.total > 0 and status.done <= self._good
        theirs, ours = status.usage, self._used
        if (theirs.input, theirs.output) == (ours.input, ours.output):
            return True
        self._tools.say(
            f"{job.batch}: the provider counts {theirs.input:,} tokens in and {theirs.output:,} "
            f"out, its results {ours.input:,} and {ours.output:,}"
        )
        return False

    async def answer(self, job: BatchJob, row: BatchRow, outcome: BatchResult | CallError) -> None:
        """Settle a row that has its end, and those that share it."""
        kept = self._spool.get(row.call_id)
        request = kept[0] if kept else _stand_in(row, self._tools.target, job.model)
        if row.fitted and request.schema is None:  # of a prompt that was cut nothing is kept
            request = replace(request, cache_mode="bypass")
        elif request.cache_mode == "use":  # it was looked for when the row was drawn
            request = replace(request, cache_mode="refresh")
        self._outcomes[row.call_id] = outcome, row.attempts
        shared: Answer | CallError
        try:
            answer = await (self._settle if kept else self._settle_undrawn)(request, None)
            shared = replace(answer, cache="shared", attempts=0, earlier=())
        except CallError as error:
            shared = error.unbilled()
        finally:
            self._outcomes.pop(row.call_id, None)
        for page in self._spool.followers(row.call_id):
            await asyncio.gather(*(self._share(request, shared) for request in page))

    async def _share(self, request: Request, outcome: Answer | CallError) -> None:
        self._outcomes[request.call_id] = copy.copy(outcome), 0
        with contextlib.suppress(CallError):
            await self._settle(replace(request, cache_mode="refresh"), None)
        self._outcomes.pop(request.call_id, None)

    async def _outcome(self, request: Request, _: Emit | None) -> Answer:
        """The innermost handler of a row whose end is at hand."""
        outcome, attempts = self._outcomes[request.call_id]
        if isinstance(outcome, CallError):
            raise outcome
        if isinstance(outcome, Answer):
            return outcome
        try:
            answer = self._tools.client.endpoint.read(
                request, outcome.status, outcome.body, outcome.request_id
            )
        except CallError as error:
            error.attempts = attempts
            self._used += error.usage or Usage()
            raise
        self._used += answer.usage
        return replace(answer, attempts=attempts, latency=self._age)

    async def fail(self, request: Request, error: CallError) -> None:
        """Record that a request, and those that share its answer, failed without a batch."""
        watch, costs = Stopwatch(self._tools.clock), self._tools.costs
        await self._sink(costs.record(request, error, watch))
        for page in self._spool.followers(request.call_id):
            records = [costs.record(each, error.unbilled(), watch) for each in page]
            await asyncio.gather(*map(self._sink, records))

    async def lose(self, job: BatchJob, row: BatchRow) -> None:
        """Settle a row that the results do not have, and that may have been billed, as a call of
        unknown end."""
        tools, kept = self._tools, self._spool.get(row.call_id)
        request = kept[0] if kept else _stand_in(row, tools.target, job.model)
        error = BadResponse("the results of its batch do not have the row")
        error.attempts = row.attempts
        await tools.budget.settle(tools.costs.record(request, error, Stopwatch(tools.clock)))


def _stand_in(row: BatchRow, target: Target, model: str) -> Request:
    """What is known of a row in a batch that no row of the input asks any more."""
    key, sample = row.answer_key[:64], row.answer_key[64:]
    return Request(
        row.id, replace(target, model=model), (), call_id=row.call_id, fingerprint=key,
        sample=int(sample, 16) if sample else 0,
        # Nobody knows whether it fits its schema, or answers the whole prompt.
        cache_mode="bypass" if row.fitted else "use",
        masked=Masked(),
    )  # fmt: skip
