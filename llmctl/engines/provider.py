"""The provider engine: rows go into batches of the provider, which take hours and cost half.

All requests are drawn first, onto the disk. Rows that are in a batch of an earlier run wait for
that one; the others are admitted (window, budget), sealed into batches and submitted, as far as the
provider's queue and the budget have room. A batch that has ended is fetched, and each of its rows
goes through the guards of an answer (schema, cache, accounting) as if it had just been called.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from llmctl.engines.batch_lines import BatchLines
from llmctl.engines.batch_results import BatchResults
from llmctl.engines.batch_tools import BatchTools, rows_of
from llmctl.engines.submission import Submission
from llmctl.errors import (
    BadResponse,
    CallError,
    CallTimeout,
    Cancelled,
    InputError,
    InvalidRequest,
    LlmctlError,
    NotFound,
    PermissionRefused,
    RateLimited,
)
from llmctl.protocols import Emit, Engine, Handler, Observer
from llmctl.providers.batch_api import BatchStatus
from llmctl.request import is_sampled
from llmctl.shutdown import first_of
from llmctl.storage.batch_jobs import BatchJob, BatchRow
from llmctl.storage.files import disk
from llmctl.storage.request_spool import RequestSpool
from llmctl.types import Answer, Request, Usage

LONGEST_POLL = 300.0
"""Seconds between two looks at a batch at the most; they begin at `poll` and grow by a half."""
_LOOKS = 5  # looks at a batch in a row that make no sense, after which it is left to the next run
_FILLED = 86400.0  # seconds after which no batch is being filled any more
_REFUSALS = 3  # of a batch, because too much is queued, after which it is halved
_SMALL_QUEUE = 30_000  # tokens, the least that was seen (Azure): no batches are made for less
_QUEUE_PAUSE, _QUEUE_LONGEST = 60.0, 900.0  # seconds between two tries of a queue that is full


class Patience(Struct, frozen=True):
    """How batches are waited for.

    Attributes:
        poll: seconds until the first look at a batch, a tenth more or less.
        queued: tokens of input that all batches of a model may hold at a time; None: not known.
        batches: how many a row may be in before it fails, if none of them answers it.
        detach: return once everything is submitted; `cancel`: end all batches instead.
        most: seconds after which a batch is cancelled; None: never. What it left is then sent by
            `local`, or by nobody.

    """

    poll: float = 15.0
    queued: int | None = None
    batches: int = 4
    detach: bool = False
    cancel: bool = False
    most: float | None = None
    local: Engine | None = None


class ProviderEngine:
    """`Engine` by the provider's batches.

    After `run`: `left` rows are at the provider, or may be, and `because` is why rows were given
    up. Raises `DiskError` and `InputError`.
    """

    def __init__(self, tools: BatchTools, patience: Patience) -> None:
        self._tools, self._patience = tools, patience
        self._submission = Submission(tools, self._note)
        self._lines = BatchLines(tools, lambda: self._queued, self._sealed)
        self._jobs: dict[str, BatchJob] = {}
        self._due: dict[str, tuple[float, float]] = {}  # when to look at a batch, and the pause
        self._refusals = Counter[str]()  # of a batch, because too much is queued
        self._puzzles = Counter[str]()  # looks at a batch in a row that made no sense
        self._queued = patience.queued
        self._queue_due = (0.0, _QUEUE_PAUSE)  # when a full queue is tried again, and the pause
        self._rest: list[str] = []  # call ids of rows of batches that took too long
        self._dropped: list[str] = []  # call ids of rows that somebody else cancelled
        self._wake = asyncio.Event()
        self._trouble = ""
        self.because: CallError | None = None

    @property
    def left(self) -> int:
        """Rows that are at the provider, or may be."""
        return sum(job.rows for job in self._open())

    def waits(self) -> str | None:
        """What is waited for, such as `2 batches at the provider, 1,200 of 50,000 rows done`."""
        running = [job for job in self._open() if job.state != "sealed"]
        if not running:
            return self._trouble or None
        rows, done = sum(job.rows for job in running), sum(job.done + job.failed for job in running)
        look = min(self._due.values(), default=(0.0, 0.0))[0] - self._tools.clock.monotonic()
        batches = "1 batch" if len(running) == 1 else f"{len(running):,} batches"
        trouble = f" ({self._trouble})" if self._trouble else ""
        more = "; other rows wait for the budget" if self._tools.budget.waiting else ""
        return (
            f"{batches} at the provider, {done:,} of {rows:,} rows done there, next look in "
            f"{max(look, 0):.0f} s{trouble}{more}"
        )

    async def run(self, requests: AsyncIterator[Request], handler: Handler, sink: Observer) -> None:
        """Return when every request has its record, or the batches are left to the provider."""
        tools = self._tools
        self._sink = sink
        self._admit = tools.admission(self._accept)
        for job in tools.jobs.open_jobs(tools.output):
            if job.base_url != tools.target.base_url:
                raise InputError(
                    f"rows of {tools.output} are in a batch at {job.base_url} (profile "
                    f"{job.profile}), and this command asks {tools.target.base_url}: run it with "
                    "the profile that submitted them"
                )
            self._jobs[job.intent] = job
            self._due[job.intent] = 0.0, self._patience.poll
            tools.budget.ours.add(job.run_id)
        self._sweep()
        with RequestSpool(encrypted=tools.private) as self._spool:
            self._results = BatchResults(tools, self._spool, sink, self._submission, self._note)
            await self._draw(requests)
            tending = asyncio.ensure_future(self._tend())
            overdue = asyncio.ensure_future(tools.stop.overdue(tools.clock))
            try:
                await asyncio.wait({tending, overdue}, return_when=asyncio.FIRST_COMPLETED)
                if tending.done():
                    tending.result()
            finally:
                for task in (tending, overdue):
                    task.cancel()
                await asyncio.gather(tending, overdue, return_exceptions=True)
                with contextlib.suppress(LlmctlError):  # the disk, of which the run ends anyway
                    await self._abandon()
            await self._end(handler)

    def _sweep(self) -> None:
        """Remove the files of batches that killed processes have left: they hold prompts."""
        old = self._tools.clock.wall() - _FILLED
        with contextlib.suppress(OSError):
            for folder in self._tools.folder.iterdir():
                if folder.stat().st_mtime < old and not self._tools.jobs.is_open(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)

    async def _draw(self, requests: AsyncIterator[Request]) -> None:
        """Put all requests on the disk. Raises `InputError` for a question that another output's
        batch is answering."""
        jobs, output, drawn = self._tools.jobs, self._tools.output, 0
        others = jobs.any_open()
        async for request in requests:
            row = jobs.row_of(output, request.id, request.answer_key) if self._jobs else None
            shared = request.cache_mode != "bypass"
            new = row is None and shared and others
            if new and (other := jobs.elsewhere(output, request.answer_key)):
                raise InputError(
                    f"row {request.id}: a provider's batch is answering the same question for "
                    f"{other}: fetch that one first (`llmctl batch --status` says how), or ask "
                    "once more with --no-cache"
                )
            try:
                if row is not None:
                    known = replace(request, call_id=row.call_id)
                    self._spool.add(known, waits=False, attempts=row.attempts - 1)
                else:
                    leader = self._spool.leader(request.answer_key) if shared else None
                    if leader is None and shared and self._jobs and not is_sampled(request):
                        leader = jobs.asked_by(output, request.answer_key)
                    self._spool.add(request, leader=leader)
            except (TypeError, ValueError) as error:
                why = f"the row cannot be put into a batch: {error}"
                await self._results.fail(request, InvalidRequest(why, sent=False))
            drawn += 1
            if not drawn % 1000:
                await asyncio.sleep(0)

    # --- Into batches ----------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Admit the requests that wait, and seal them into batches."""
        for page in self._spool.waiting():
            await asyncio.gather(*(self._take(request) for request in page))
            if self._tools.stop.asked:
                return
        await self._lines.seal_all()

    async def _take(self, request: Request) -> None:
        stop = self._tools.stop
        try:
            stop.check()
            await self._admit(request, None)
        except CallError as error:
            if stop.from_outside and isinstance(error, Cancelled):  # it is sent next time
                return
            await self._results.fail(request, error)

    async def _accept(self, request: Request, _: Emit | None) -> Answer:
        """Take a request that may be sent, and is held, into a batch: its answer is none yet."""
        kept = self._spool.get(request.call_id)
        asked, attempts = kept or (request, 0)
        # A prompt that was cut has the identity of the whole one, by which the next run finds it.
        await self._lines.add(request, 1 + attempts, asked.answer_key)
        return Answer("", Usage(), request.target, "other", request.target.model)

    def _sealed(self, job: BatchJob) -> None:
        self._jobs[job.intent] = job
        self._wake.set()

    # --- At the provider -------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Submit, look, fetch, until nothing is left to do, or to wait for."""
        tools, patience = self._tools, self._patience
        feeding: asyncio.Future[None] | None = None
        try:
            while not tools.stop.asked:
                self._wake.clear()
                if feeding is not None and feeding.done():
                    feeding.result()
                    feeding = None
                if feeding is None and not patience.cancel and self._spool.has_waiting():
                    feeding = asyncio.ensure_future(self._feed())
                    feeding.add_done_callback(lambda _: self._wake.set())
                if tools.budget.waiting:  # for what is in batches, or in one that is being filled
                    await self._lines.seal_all()
                await self._submit()
                await self._look()
                fed = feeding is None and (patience.cancel or not self._spool.has_waiting())
                if self._is_over(fed=fed):
                    return
                await self._nap(quick=not fed)
        except Cancelled:  # a stop, while something was waited for
            if not tools.stop.asked:
                raise
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    def _is_left(self, job: BatchJob) -> bool:
        """Whether a batch is left to the next run."""
        return self._puzzles[job.intent] >= _LOOKS

    def _is_over(self, *, fed: bool) -> bool:
        """Whether nothing is left to do, or to wait for; `fed`: no request waits for a batch."""
        jobs = [job for job in self._open() if not self._is_left(job)]
        if fed and not jobs:
            return True
        if self._patience.cancel:  # nobody knows yet which one is to be cancelled
            return all(job.batch is None for job in jobs)
        now = self._tools.clock.monotonic()
        busy = any(
            self._has_room(job) if job.state == "sealed" else self._due[job.intent][0] <= now
            for job in jobs
        )
        return self._patience.detach and (fed or self._tools.budget.waiting > 0) and not busy

    async def _nap(self, *, quick: bool) -> None:
        """Until a batch is due, something has happened, or the run is to end."""
        clock = self._tools.clock
        jobs = [self._jobs[intent] for intent in self._due]
        times = [self._due[job.intent][0] for job in jobs if not self._is_left(job)]
        if any(job.state == "sealed" for job in self._open()):
            times.append(self._queue_due[0])
        pause = min([*times, clock.monotonic() + LONGEST_POLL]) - clock.monotonic()
        pause = min(max(pause, 0.05), 1.0 if quick else LONGEST_POLL)
        await first_of(clock.sleep(pause), self._wake.wait(), self._tools.stop.wait())

    async def _submit(self) -> None:
        """Submit what is sealed, as far as the queue has room, and settle what is not certain."""
        now = self._tools.clock.monotonic()
        for job in self._open():
            sealed = job.state == "sealed"
            if job.batch is not None or (job.state == "creating" and job.note):
                continue
            if not sealed and (self._is_left(job) or self._due[job.intent][0] > now):
                continue
            # Without its lines, which somebody has removed, it is filled once more.
            if sealed and (self._patience.cancel or not self._tools.lines(job.intent).exists()):
                await self._unseal(job)
            elif not sealed or self._has_room(job):
                await self._submit_one(job)

    async def _submit_one(self, job: BatchJob) -> None:
        tools, submission = self._tools, self._submission
        try:
            # Who cancels only wants to know whether there is a batch.
            await (submission.find if self._patience.cancel else submission.submit)(job)
            self._trouble = ""
        except RateLimited as error:  # most likely of queued tokens
            self._note(error.message)
            self._close_queue()
            self._refusals[job.intent] += 1
        except CallError as error:
            if isinstance(error, Cancelled):
                raise
            if tools.jobs.job(job.intent).state == "creating":  # nobody knows whether there is one
                self._puzzle(job, error)
            else:  # a fatal one, of which the sink hears then, ends the run
                await self._refuse(job, error)
        finally:  # a stop may have come between a request and its reply: what is on record counts
            job = self._jobs[job.intent] = tools.jobs.job(job.intent)
        if job.state == "running":
            tools.say(f"submitted {rows_of(job.rows)} as {job.batch}")
            tools.lines(job.intent).unlink(missing_ok=True)  # prompts
        if job.state in {"creating", "running"}:
            self._schedule(job.intent, self._patience.poll)
        elif self._refusals[job.intent] >= _REFUSALS:
            await self._halve(job)

    async def _halve(self, job: BatchJob) -> None:
        """Make smaller batches of one that the provider's queue does not take, though no other of
        ours is in it."""
        if (
            job.tokens > _SMALL_QUEUE
            and job.rows > 1
            and not any(one.batch for one in self._open())
        ):
            self._queued = max(_SMALL_QUEUE, job.tokens // 2)
            await self._unseal(job)

    def _puzzle(self, job: BatchJob, error: CallError) -> None:
        """Count a look at a batch that made no sense."""
        self._note(error.message)
        self._puzzles[job.intent] += _LOOKS if error.fatal_to_run else 1
        if self._is_left(job):
            self.because = error

    def _has_room(self, job: BatchJob) -> bool:
        """Whether the provider's queue may take a batch."""
        if self._tools.clock.monotonic() < self._queue_due[0]:
            return False
        queued = [one.tokens for one in self._open() if one.batch and one.model == job.model]
        return self._queued is None or not queued or sum(queued) + job.tokens <= self._queued

    def _close_queue(self) -> None:
        pause = self._queue_due[1]
        until = self._tools.clock.monotonic() + _jittered(pause)
        self._queue_due = until, min(2 * pause, _QUEUE_LONGEST)

    async def _look(self) -> None:
        """Look at the batches that are due."""
        now = self._tools.clock.monotonic()
        for job in self._open():
            when, pause = self._due.get(job.intent, (0.0, self._patience.poll))
            unknown = job.batch is None and not job.note
            if when > now or unknown or self._is_left(job):
                continue
            self._schedule(job.intent, min(pause * 1.5, LONGEST_POLL))
            try:
                if job.state == "fetched" and self._results.fetched(job):
                    await self._collect(job, None)
                elif job.batch is not None:
                    await self._look_at(job, job.batch)
                elif job.note:
                    await self._decide(job)
                self._trouble = ""
                self._puzzles.pop(job.intent, None)
            except CallError as error:
                if isinstance(error, Cancelled):
                    raise
                if error.retryable:
                    self._note(error.message)
                else:
                    self._puzzle(job, error)
                if error.retry_after:
                    self._schedule(job.intent, max(pause, error.retry_after))

    async def _look_at(self, job: BatchJob, batch: str) -> None:
        try:
            status = await self._tools.api.status(self._tools.client, batch)
        except NotFound as error:
            await self._miss(job, error)
            return
        job = await self._update(
            job,
            word=status.word,
            done=status.done,
            failed=status.failed,
            checked_ms=self._tools.now(),
        )
        if status.ended:
            await self._collect(job, status)
        elif not job.cancelled and (self._patience.cancel or self._is_over_time(job)):
            await self._cancel(job, batch)

    async def _miss(self, job: BatchJob, error: NotFound) -> None:
        """Give a batch up that the provider does not know, time and again. Raises the error before
        that, and `PermissionRefused` where another key made it, perhaps in another project."""
        if job.key != self._tools.client.key:
            raise PermissionRefused(
                f"the key {self._tools.client.key or '(none)'} does not see the batch {job.batch}, "
                f"which {job.key or 'no key'} made: use a key of the same project",
                http_status=error.http_status,
            ) from error
        if self._puzzles[job.intent] + 1 < _LOOKS:
            raise error
        await self._refuse(job, error, billed=True)  # removed: nobody will tell what it billed

    def _is_over_time(self, job: BatchJob) -> bool:
        most = self._patience.most
        return most is not None and self._tools.now() - job.made_ms > most * 1000

    async def _cancel(self, job: BatchJob, batch: str) -> None:
        try:
            await self._tools.api.cancel(self._tools.client, batch)
        except InvalidRequest:  # some providers cannot: it is left to go on
            self._puzzles[job.intent] = _LOOKS
            raise
        await self._update(job, cancelled=True)
        self._tools.say(f"cancelled {batch}: waiting for what it has answered by now")
        self._schedule(job.intent, self._patience.poll)

    async def _decide(self, job: BatchJob) -> None:
        """Find out by their results which of the batches that may be the job's is it."""
        tools, left = self._tools, list[str]()
        for batch in job.note.split():
            status = await tools.api.status(tools.client, batch)
            if not status.ended:
                left.append(batch)
                continue
            path = tools.folder / job.intent / "candidate.jsonl"
            for wire in status.downloads:
                with disk("write", path):
                    await tools.client.download(wire, partial(tools.create, path))
                with disk("read", path), tools.open(path) as file:
                    results = tools.api.results(file)
                    ours = any(tools.jobs.has_row(job.intent, each.call_id) for each in results)
                if ours:
                    await self._update(job, state="running", batch=batch, note="")
                    self._schedule(job.intent, 0.0)
                    return
            self._submission.foreign.add((job.intent, batch))
        await self._update(job, note=" ".join(left))
        if left:
            self._note(
                f"it is not certain yet whether {rows_of(job.rows)} are in {' or '.join(left)}"
            )

    def _schedule(self, intent: str, pause: float) -> None:
        when = self._tools.clock.monotonic() + _jittered(pause)
        self._due[intent] = when, pause

    # --- Back from the provider ------------------------------------------------------------------

    async def _collect(self, job: BatchJob, status: BatchStatus | None) -> None:
        """Give every row of a batch that has ended its end; without `status` what was fetched
        before is read."""
        if status is not None and status.queue_full:
            await self._wait_for_room(job, status)
            return
        if status is not None and status.problem and not status.downloads:
            # With answers behind it that are gone, it is not the rows that were refused.
            billed = status.done > 0
            error = (BadResponse if billed else InvalidRequest)(status.problem)
            await self._refuse(job, error, billed=billed)
            return
        try:
            doubled = await self._results.fetch(job, status)
        except NotFound as error:  # providers keep results for a month
            await self._refuse(job, error, billed=True)
            return
        if status is not None:
            job = await self._update(job, state="fetched")
        blank = await self._results.settle(job, doubled)
        answered = job.rows - len(blank)
        say, word = self._tools.say, job.word or "ended"
        say(f"{job.batch}: {word}, {answered:,} of {rows_of(job.rows)} answered")
        certain = self._results.is_whole(job, status)
        await self._settle_blank(job, status, blank, certain=certain)
        await self._finish(job)

    async def _wait_for_room(self, job: BatchJob, status: BatchStatus) -> None:
        """Let the rows of a batch wait that the provider's queue had no room for."""
        limit, problem = status.queue_limit, status.problem or "too much is queued at the provider"
        if limit and job.tokens > limit and job.rows == 1:
            await self._refuse(job, InvalidRequest(problem))
            return
        most, alone = limit or self._queued, sum(one.batch is not None for one in self._open()) == 1
        if alone and (most is None or job.tokens <= most):  # others fill it, or count more tokens
            most = max(min(most or _SMALL_QUEUE, _SMALL_QUEUE), job.tokens // 2)
        self._queued, due = most, self._queue_due
        for page in self._tools.jobs.rows(job.intent):
            await self._again(page, counts=False)
        await self._finish(job)
        self._queue_due = due
        self._close_queue()
        self._note(problem)

    async def _settle_blank(
        self,
        job: BatchJob,
        status: BatchStatus | None,
        blank: Sequence[tuple[BatchRow, bool]],
        *,
        certain: bool,
    ) -> None:
        """Deal with the rows that a batch has not answered."""
        if not blank:
            return
        tools, rows = self._tools, [row for row, _ in blank]
        lost = {row.call_id for row, missing in blank if missing and not certain}
        for row in rows:
            if row.call_id in lost:
                await self._results.lose(job, row)
        if job.cancelled:
            await tools.jobs.give_back([row.call_id for row in rows if row.call_id not in lost])
            if self._patience.cancel:
                return
            self._rest += [row.call_id for row in rows]
            if self._patience.local is None:
                self.because = CallTimeout(
                    f"{rows_of(len(self._rest))} had no answer within --max-wait and were "
                    "cancelled: the same command sends them again",
                    ambiguous=False,
                )
        elif status is not None and status.cancelled:
            await tools.jobs.give_back([row.call_id for row in rows if row.call_id not in lost])
            self._dropped += [row.call_id for row in rows]
            self.because = Cancelled(
                f"{job.batch} was cancelled at the provider: the same command sends the "
                f"{rows_of(len(rows))} again that it had not answered"
            )
        else:
            await self._again(rows, counts=True, lost=lost)

    async def _again(
        self, rows: Sequence[BatchRow], *, counts: bool, lost: Collection[str] = ()
    ) -> None:
        """Let rows wait for another batch, if they have not been in too many; their holds end.
        Those `lost` are settled already."""
        tools = self._tools
        await tools.jobs.give_back([row.call_id for row in rows if row.call_id not in lost])
        for row in rows:
            kept = self._spool.get(row.call_id)
            if kept is None:  # no row of this run asks it any more
                continue
            if counts and row.attempts >= self._patience.batches:
                batches = f"{row.attempts} batches" if row.attempts > 1 else "its batch"
                why = f"{batches} of the provider ended before the row was answered"
                await self._results.fail(kept[0], CallTimeout(why, ambiguous=False))
                continue
            new_id = tools.call_id() if row.call_id in lost else row.call_id
            self._spool.wait_again(row.call_id, new_id, attempts=row.attempts - (not counts))
        self._wake.set()

    async def _refuse(self, job: BatchJob, error: CallError, *, billed: bool = False) -> None:
        """Fail all rows of a batch; `billed`: nobody knows what they cost."""
        for page in self._tools.jobs.rows(job.intent):
            errors = [copy.copy(error) for _ in page]
            for one in errors:
                one.ambiguous, one.attempts = billed, 1
            await asyncio.gather(*map(self._results.answer, [job] * len(page), page, errors))
        await self._finish(job)

    async def _finish(self, job: BatchJob) -> None:
        """Every row of a batch has its end."""
        await self._update(job, state="done")
        self._due.pop(job.intent, None)
        self._queue_due = 0.0, _QUEUE_PAUSE
        shutil.rmtree(self._tools.folder / job.intent, ignore_errors=True)

    # --- The end ---------------------------------------------------------------------------------

    async def _abandon(self) -> None:
        """Take back what was not sent."""
        await self._again(self._lines.abandon(), counts=False)
        for job in self._open():
            if job.state == "sealed":
                await self._unseal(job)

    async def _unseal(self, job: BatchJob) -> None:
        for page in self._tools.jobs.rows(job.intent):
            await self._again(page, counts=False)
        await self._tools.jobs.discard(job.intent)
        self._due.pop(job.intent, None)
        del self._jobs[job.intent]
        shutil.rmtree(self._tools.folder / job.intent, ignore_errors=True)

    async def _end(self, handler: Handler) -> None:
        """Write why rows are not sent, or send what batches left in another way."""
        stop = self._tools.stop
        if stop.asked and not stop.from_outside:
            for page in self._spool.waiting():
                await asyncio.gather(
                    *(self._results.fail(request, stop.error()) for request in page)
                )
        elif self._rest and self._patience.local is not None and not stop.asked:
            self._tools.say(f"sending {rows_of(len(self._rest))} one by one that batches left")
            self._tools.budget.in_batch = False
            await self._patience.local.run(self._left_over(self._rest), handler, self._sink)
        if self.because is not None and not stop.asked:
            given_up = self._rest if self._patience.local is None else []
            async for request in self._left_over([*self._dropped, *given_up]):
                await self._results.fail(request, copy.copy(self.because))

    async def _left_over(self, call_ids: Sequence[str]) -> AsyncIterator[Request]:
        for call_id in call_ids:
            if kept := self._spool.get(call_id):
                yield replace(kept[0], call_id=self._tools.call_id())
            for page in self._spool.followers(call_id):
                for request in page:
                    yield request

    def _open(self) -> list[BatchJob]:
        return [job for job in self._jobs.values() if job.is_open]

    async def _update(self, job: BatchJob, **changes: object) -> BatchJob:
        changed = self._jobs[job.intent] = await self._tools.jobs.update(job.intent, **changes)
        return changed

    def _note(self, trouble: str) -> None:
        self._trouble = trouble


def _jittered(seconds: float) -> float:
    """A tenth more or less: so that not all look at the same time."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
