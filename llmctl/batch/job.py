"""A batch: input → rows → requests → engine → output, and what ends it early."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from llmctl.batch.group import Group, lock_path
from llmctl.batch.input import InputFile, Record, RecordCursor
from llmctl.batch.output import (
    BatchOutput,
    ErrorsFile,
    Format,
    OutputScan,
    check_output,
    default_output,
    drop_failures,
    errors_path,
    is_csv,
    reorder,
    repair,
    write_table,
)
from llmctl.batch.resume import CheckedRow, RowIndex, check_unchanged, index_rows
from llmctl.batch.rows import RowError, RowReader
from llmctl.clock import Clock
from llmctl.config.settings import Profile
from llmctl.errors import CallError, Cancelled, InputError, Queued
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Engine, Handler, Observer
from llmctl.request import is_sampled
from llmctl.shutdown import Stop
from llmctl.storage.files import LockedFile, disk, sweep
from llmctl.types import CacheMode, CallRecord, Request, Usage

PAGE = 500  # rows that are read at a time
LOOK = 20.0  # seconds between two looks whether the files are still in their places
_PAGE_BYTES = 4 << 20  # bytes of input after which a page ends early: rows may be long

CachedRecords = Callable[[Sequence[Request]], Awaitable[Sequence[CallRecord | None]]]
"""The records of those requests whose answers are kept in the cache, None for the others."""


class Job(Struct, frozen=True):
    """What a batch is asked to do. `output` None: the default beside the input; `limit`: only
    the first rows; `restart`: throw away what the output holds; `dedupe`: identical rows share an
    answer also where they are samples; `follow`: take rows that are appended while it runs; `join`:
    where the claims of a group are kept that shares the output (None: it is this process's)."""

    input: str
    output: str | None
    reader: RowReader
    profile: Profile
    format: Format = "llmctl"
    limit: int | None = None
    ordered: bool = False
    restart: bool = False
    dedupe: bool = False
    cache_mode: CacheMode = "use"
    follow: bool = False
    join: str | None = None


class Batch(Struct, frozen=True):
    """A job whose input is valid and whose output, where it has one, is locked and whole.

    `output` and `errors` are None for stdout, and in a dry run; `torn` is the bytes of a
    half-written last line that were cut off; `rows` are those of this run, `skipped` of them have
    their answer already; `unmatched` answers in the output belong to no row of the input; `group`
    has the files where they are shared.
    """

    job: Job
    source: InputFile
    index: RowIndex
    rows: int
    skipped: int
    unmatched: int
    output: LockedFile | None = None
    errors: ErrorsFile | None = None
    torn: int = 0
    group: Group | None = None

    @property
    def bound(self) -> int:
        """The rows of this run are the first so many; an input that is followed may get more."""
        return self.index.size if self.job.follow else self.rows

    def pages(self, call_id: Callable[[], str], *, ranked: bool = False) -> Iterator[list[Request]]:
        """The requests of the rows that have no answer yet, in input order, at most `PAGE` at a
        time, each with a call id of its own; `ranked`: those of the highest priority first.

        Raises `InputError` when the input is not what it was when it was checked.
        """
        page: list[Request] = []
        size = 0
        rows = self.index.unanswered(self.bound, ranked=ranked)
        for request, data in self._read(RecordCursor(self.source), rows, call_id):
            page.append(request)
            size += sum(map(len, data.values())) if isinstance(data, dict) else len(data)
            if len(page) >= PAGE or size >= _PAGE_BYTES:
                yield page
                page, size = [], 0
        if page:
            yield page

    def check_source(self) -> None:
        """Raise `InputError` when the input is not what it was when it was checked. One of which
        only that is in doubt is read once more."""
        self.source.check()
        if self.source.touched:
            deque(self._read(RecordCursor(self.source), self.index.all(self.bound), str), 0)

    def requests(
        self, cursor: RecordCursor, rows: Iterable[CheckedRow], call_id: Callable[[], str]
    ) -> list[Request]:
        """The requests of the rows, each with a call id of its own. Raises as `pages` does."""
        return [request for request, _ in self._read(cursor, rows, call_id)]

    def _read(
        self, cursor: RecordCursor, rows: Iterable[CheckedRow], call_id: Callable[[], str]
    ) -> Iterator[tuple[Request, Any]]:
        """Request and data of the rows. Raises as `pages` does."""
        for index, *checked in rows:
            record = cursor.record(index)
            request = self._request(record, index, tuple(checked), call_id())
            if not self.job.dedupe and is_sampled(request):
                request = replace(request, sample=self.index.earlier(index))
            yield request, record[1]

    def _request(
        self, record: Record, index: int, checked: tuple[Any, ...], call_id: str
    ) -> Request:
        """The request of a row, which is what it was when it was checked."""
        job = self.job
        try:
            request = job.reader.request(record, job.profile, index, job.cache_mode, call_id)
        except RowError:  # every row could be read when it was checked
            raise self.source.changed() from None
        # Size and time of a file can be kept while it is changed.
        if (request.id, bytes.fromhex(request.row_key[:32])) != checked:
            raise self.source.changed()
        return request


@contextmanager
def open_batch(job: Job, *, dry_run: bool = False) -> Iterator[Batch]:
    """Check the input, lock and repair the output, and find what is answered already.

    In a dry run nothing is locked, repaired or made. Raises `InputError`, `BusyError` and
    `DiskError`. An output that was created for nothing is removed again.
    """
    path = check_output(job.input, job.output or default_output(job.input))
    with (
        InputFile.open(job.input, follow=job.follow) as source,
        index_rows(source, job.reader, job.profile) as index,
        ExitStack() as stack,
    ):
        output, errors, torn, group = None, None, 0, None
        try:
            if path is not None and job.join is not None and not dry_run:
                group = stack.enter_context(Group.open(path, job.format, index, job.join))
                group.check(index, job.join, follow=job.follow)
                output, errors = group.output, group.errors
                group.read(index, job.limit)
                torn = group.torn
            elif path is not None and not dry_run:
                output = stack.enter_context(LockedFile.open(path, private=False))
                errors = stack.enter_context(ErrorsFile(errors_path(path)))
                for made in (path, Path(job.output or path)):  # the table, where it is one
                    sweep(made)
                with disk("remove", lock_path(path)):  # of a group that was killed
                    lock_path(path).unlink(missing_ok=True)
                if not job.restart:
                    torn = _read_answers(output, index, job.format)
            elif path is not None and path.exists() and not job.restart:
                with disk("read", path), path.open("rb", buffering=1 << 17) as reader:
                    index.add_answers(OutputScan(reader, path, job.format))
            check_unchanged(index, source, path)
            rows = index.size if job.limit is None else min(index.size, job.limit)
            done = index.answered(rows)
            yield Batch(
                job, source, index, rows, done, index.unmatched, output, errors, torn, group
            )
        except BaseException:
            if output is not None and (group is None or (output.fd >= 0 and group.leave())):
                output.leave_no_trace()
            raise


def _read_answers(output: LockedFile, index: RowIndex, format: Format) -> int:
    """Put the output's answers into the index and repair its end; gives the bytes cut off."""
    with disk("read", output.path), output.reader() as reader:
        scan = OutputScan(reader, output.path, format)
        index.add_answers(scan)
    repair(output, scan.torn)
    return scan.torn


class RowSink:
    """The observer of a batch's calls, in the order of durability: a row is in the output, then
    in the ledger (`settle`), then counted.

    It stops the run when going on makes no sense: after an error that every other call would meet
    too, or once more than `allowed` rows have failed; `because` is that error then. A row that was
    getting ready when the run was stopped from outside has no line and is not counted: it is sent
    next time. One that was queued has none either; `ended` hears of rows that have theirs. When the
    reader of stdout goes (`reader_gone`), the run is stopped, too: what is in flight is paid for,
    so it may finish, for the ledger and the cache. Raises what the output and the ledger raise
    otherwise.
    """

    def __init__(
        self,
        output: BatchOutput,
        settle: Observer,
        stats: Tally,
        stop: Stop,
        allowed: int | None,
        ended: Observer | None = None,
    ) -> None:
        self.because: CallError | None = None
        self.reader_gone: BrokenPipeError | None = None
        self._output = output
        self._settle = settle
        self._stats = stats
        self._stop = stop
        self._allowed = allowed
        self._ended = ended

    async def __call__(self, record: CallRecord) -> None:
        """Deal with one call; durable on return."""
        error = record.result
        if isinstance(error, Cancelled) and not error.sent and self.because is None:
            await self._settle(record)
            return
        if isinstance(error, Queued):
            self._output.start_over()
            await self._settle(record)
            self._stats.add(record)
            return
        try:
            await self._output(record)
        except BrokenPipeError as gone:
            self.reader_gone = gone
            self._stop.ask()
        await self._settle(record)
        if self._ended is not None:
            await self._ended(record)
        self._stats.add(record)
        if isinstance(error, CallError) and self.because is None:
            failed = self._stats.failed + self._stats.others.failed
            too_many = self._allowed is not None and failed > self._allowed
            if error.fatal_to_run or too_many:
                self.end(error)

    def end(self, error: CallError) -> None:
        """Let nothing new be sent because of `error`, unless the run ends already."""
        if not self._stop.asked:
            self.because = error
            self._stop.ask(self.unsent)

    def end_after(self, seconds: float | None) -> asyncio.TimerHandle:
        """Let nothing new be sent after so long, until the timer is cancelled; None: a year."""
        over = Cancelled("not sent: the time of --max-time is over", sent=False)
        return asyncio.get_running_loop().call_later(seconds or 365 * 86400, self.end, over)

    def unsent(self) -> CallError:
        """The error of the rows that are not sent because of it."""
        error = self.because
        if error is not None and error.fatal_to_run:
            message = f"not sent: {error.message}"
            return type(error)(message, http_status=error.http_status, sent=False)
        too_many = "not sent: the run stopped after too many errors"
        return Cancelled(str(error) if isinstance(error, Cancelled) else too_many, sent=False)

    async def give_up(self, page: Sequence[Request], now: float) -> None:
        """Write and count the error rows of requests nobody will send; the ledger has no call."""
        records = [
            CallRecord(request, self.unsent(), Usage(), Decimal(0), None, now, 0.0, None)
            for request in page
        ]
        await asyncio.gather(*map(self._output, records))
        for record in records:
            if self._ended is not None:
                await self._ended(record)
            self._stats.add(record)


async def answer_from_cache(
    page: Sequence[Request], cached: CachedRecords, sink: Observer
) -> list[Request]:
    """Answer the requests of a page that the cache can; gives the others.

    The one place where a batch deals with many rows at a time: one look-up a page, and its
    records go to the sink together, so that they share its syncs. 20,000 kept rows, cache and
    ledger on disk: 5,700 rows/s on two cores that were busy otherwise.
    """
    records = await cached(page)
    await asyncio.gather(*(sink(record) for record in records if record is not None))
    return [request for request, record in zip(page, records, strict=True) if record is None]


class RowSource(Protocol):
    """Where a run gets its rows from."""

    def pages(self) -> AsyncGenerator[list[Request], None]:
        """The requests to send, some at a time. Raises `InputError`, and `DiskError`."""

    async def recorded(self, request: Request, /) -> None:
        """The row has its record, or will be sent another time."""

    async def leave(self) -> bool:
        """Take no more rows, unless there is nobody else who would: then all are this run's."""

    async def keep_alive(self) -> None:
        """Show others now and then that this run goes on, until cancelled."""


async def run(
    batch: Batch,
    engine: Engine,
    make_handler: Callable[[Observer], Handler],
    *,
    settle: Observer,
    stats: Tally,
    stop: Stop,
    clock: Clock,
    call_id: Callable[[], str],
    cached: CachedRecords,
    allowed_errors: int | None = None,
    max_seconds: float | None = None,
    ended: Observer | None = None,
    prepare: Callable[[], None],
    check: Callable[[], None],
    rows: RowSource | None = None,
) -> CallError | None:
    """Send what has no answer yet; gives the error that ended the run early, if one did.

    `make_handler` gets the sink of all records; `settle` puts a record into the ledger; `cached`
    finds kept answers; after `max_seconds` nothing new is sent; `ended` hears of rows that have
    their record; `prepare` is called before the first call, if there is one, and `check` now and
    then: what it raises ends the run. `rows` gives them where they are shared or become more
    (`Lots`). When the run ends on its own every row has its record, unless it is queued: what was
    not sent has an error row, unless others of the group go on with it. After a stop from outside
    the rest has none, and is sent next time. Raises `DiskError`, `BrokenPipeError`, and
    `InputError` when the input was changed meanwhile: what is in flight then may finish.
    """
    source = _AllRows(batch, call_id) if rows is None else rows

    async def recorded(record: CallRecord) -> None:
        await sink(record)
        await source.recorded(record.request)

    output = BatchOutput(
        batch.output,
        batch.errors,
        batch.job.format,
        restart=batch.job.restart,
        writers=None if batch.group is None else batch.group.writers,
    )
    sink = RowSink(output, settle, stats, stop, allowed_errors, ended)
    feed = _Feed(source.pages(), cached, recorded, prepare, stop)
    timer = sink.end_after(max_seconds)
    try:
        async with aclosing(feed.requests()) as requests, _kept_alive(source):
            work = engine.run(requests, make_handler(recorded), recorded)
            await _watched(work, output.check_in_place, check)
        await output.flush()
        alone = await source.leave()
        if sink.because is not None and alone:
            async for page in feed.rest():
                await sink.give_up(page, clock.wall())
    finally:
        timer.cancel()
        await output.close()
    if failure := sink.reader_gone or feed.changed:
        raise failure
    # A stop is how a run that follows its input ends.
    over = sink.because is not None or not stop.asked or (batch.job.follow and stats.complete)
    if over:  # whether the rows are still those that have their records now
        await asyncio.to_thread(batch.check_source)
    if alone:
        await asyncio.to_thread(finish, batch, ordered=over and not output.to_truncate)
    return sink.because


class _AllRows:
    """The `RowSource` of a batch that has its rows alone, all of which are there."""

    def __init__(self, batch: Batch, call_id: Callable[[], str]) -> None:
        self._batch, self._call_id = batch, call_id

    async def pages(self) -> AsyncGenerator[list[Request], None]:
        """All of them, those of the highest priority first."""
        for page in self._batch.pages(self._call_id, ranked=True):
            yield page

    async def recorded(self, request: Request) -> None:
        """Nobody waits for the row."""

    async def leave(self) -> bool:
        """True: there are no others."""
        return True

    async def keep_alive(self) -> None:
        """Nobody asks."""


class _Feed:
    """The requests that workers draw: page by page, without those that the cache answers. `changed`
    is what the input raised."""

    def __init__(
        self,
        pages: AsyncGenerator[list[Request], None],
        cached: CachedRecords,
        sink: Observer,
        prepare: Callable[[], None],
        stop: Stop,
    ) -> None:
        self._pages, self._cached, self._sink = pages, cached, sink
        self._prepare, self._prepared, self._stop = prepare, False, stop
        self._waiting = deque[Request]()
        self.changed: InputError | None = None

    async def requests(self) -> AsyncGenerator[Request, None]:
        """Until a stop is asked for."""
        try:
            while not self._stop.asked and (page := await anext(self._pages, None)):
                self._waiting.extend(await answer_from_cache(page, self._cached, self._sink))
                if self._waiting and not self._prepared:
                    self._prepare()
                    self._prepared = True
                while self._waiting:
                    yield self._waiting.popleft()
        except InputError as error:
            self.changed = error

    async def rest(self) -> AsyncGenerator[list[Request], None]:
        """What nobody has drawn, by the page."""
        yield list(self._waiting)
        async for page in self._pages:
            yield page


@asynccontextmanager
async def _kept_alive(rows: RowSource) -> AsyncIterator[None]:
    """Renew claims on rows while the context is open."""
    beating = asyncio.ensure_future(rows.keep_alive())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _watched(work: Coroutine[Any, Any, None], *checks: Callable[[], None]) -> None:
    """Do the work; what `checks` raise, now and then and at the end, ends it."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK)
            for check in checks:
                check()
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def finish(batch: Batch, *, ordered: bool = True) -> None:
    """Rewrite the output in input order, and make the table, where that is asked for; nothing for
    stdout. Raises `DiskError`."""
    job = batch.job
    if batch.output is None:
        return
    overtaken = batch.group is not None and batch.errors is not None and batch.errors.file.size > 0
    if overtaken or (job.ordered and ordered):
        _read_answers(batch.output, batch.index, job.format)
    if overtaken and batch.errors is not None:
        drop_failures(batch.errors, batch.index.has_answer, job.format)
    if job.ordered and ordered:
        reorder(batch.output, batch.index.answers_in_order())
    if job.output is not None and is_csv(job.output):
        write_table(batch.output.path, Path(job.output))


def nothing_to_send(batch: Batch) -> None:
    """Leave the files as a run would that had rows to send and no failure. Raises `DiskError`."""
    if batch.group is not None:
        if not batch.group.leave():
            return
    elif batch.errors is not None:
        batch.errors.clear()
    finish(batch, ordered=not batch.job.restart)
