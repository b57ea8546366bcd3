"""The rows of a batch lot by lot: claimed by one process of a group, or appended while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

from llmctl.batch.input import RecordCursor
from llmctl.batch.job import Batch
from llmctl.batch.resume import Lot, check_unchanged, index_appended
from llmctl.clock import Clock
from llmctl.errors import LlmctlError
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Claims
from llmctl.shutdown import Stop, first_of
from llmctl.types import Request

POLL = 0.5  # seconds between two looks at what others write, or what was appended
BEAT = 10.0  # seconds between two signs of life


class Lots:
    """A `RowSource`: the unanswered rows of a batch, at most `LOT` at a time, those of the highest
    priority first.

    In a group a lot is claimed before it is read, and what others have written is read before it is
    sent: no row is sent twice. An input that is followed is looked at now and then; `stats` gets
    what was appended. Raises `InputError` for an input that has changed, or that gets rows which
    cannot be asked, and `DiskError`.
    """

    def __init__(
        self,
        batch: Batch,
        claims: Claims | None,
        stats: Tally,
        stop: Stop,
        clock: Clock,
        call_id: Callable[[], str],
    ) -> None:
        self._batch, self._claims, self._stats = batch, claims, stats
        self._stop, self._clock, self._call_id = stop, clock, call_id
        self._cursor = RecordCursor(batch.source)
        self._after: Lot | None = None  # the last lot that was looked at
        self._start: Lot | None = None  # up to here all rows are drawn, or have their records
        self._done = False  # whether all are
        self._elsewhere = False  # whether others have rows that have no record yet
        self._looked = clock.monotonic()
        self._ended = False  # whether the input had ended before it was last looked at
        self._failure: LlmctlError | None = None  # of the last sign of life
        self._open: dict[Lot, set[int]] = {}  # lots claimed here, and their rows without a record
        self._lot_of: dict[int, Lot] = {}
        batch.index.index_ranks()

    async def pages(self) -> AsyncGenerator[list[Request], None]:
        """All that is to be sent from here. Waits for rows that others have, which may die, and for
        those that may be appended; after a stop was asked for it does not wait."""
        while True:
            if self._failure is not None:
                raise self._failure
            followed = self._batch.job.follow and not self._ended
            await self._look()
            if page := await self._next():
                yield page
            elif self._stop.asked or not (self._elsewhere or followed):
                return
            else:
                await first_of(self._clock.sleep(POLL), self._stop.wait())

    async def recorded(self, request: Request) -> None:
        """The row needs nothing more: it has its record, or will be sent another time."""
        lot = self._lot_of.pop(request.index, None)
        if lot is not None:
            self._open[lot].discard(request.index)
            if not self._open[lot]:
                await self._release(lot)

    async def leave(self) -> bool:
        """Let others have what has no record yet: whether there are no others, and this process
        has all rows and the files alone."""
        for lot in tuple(self._open):
            await self._release(lot)
        if self._batch.group is None:
            return True
        await asyncio.to_thread(self._batch.group.catch_up)  # whether all rows have their records
        alone = self._batch.group.leave()
        if alone:
            self._claims, self._after = None, None
        return alone

    async def keep_alive(self) -> None:
        """Renew the claims, until cancelled."""
        while self._claims is not None:
            await self._clock.sleep(BEAT)
            try:
                await self._claims.beat()
            except LlmctlError as error:
                self._failure = error
                return

    async def _release(self, lot: Lot) -> None:
        for index in self._open.pop(lot):
            self._lot_of.pop(index, None)
        if self._claims is not None and self._batch.group is not None:
            await self._claims.release(self._batch.group.key(lot))

    async def _look(self) -> None:
        """Index what was appended to the input; read what others have written."""
        now = self._clock.monotonic()
        ended = self._batch.source.ended and not self._ended
        if now - self._looked < POLL and not ended:
            return
        self._looked, self._ended = now, self._ended or ended
        if self._batch.group is not None:
            await asyncio.to_thread(self._batch.group.catch_up)
        if self._batch.job.follow and await asyncio.to_thread(self._grow):
            # A row of a higher priority may have come.
            self._after, self._start, self._done = None, None, False

    def _grow(self) -> bool:
        batch, source, index = self._batch, self._batch.source, self._batch.index
        since, first = source.end, index.size
        if not source.grow():
            return False
        job, output = batch.job, None if batch.output is None else batch.output.path
        stopped = None
        if self._stats.done or self._lot_of:  # rows have their records, or are under way
            stopped = f"stopped; what came before stands in {output or 'stdout'}"
        added = index_appended(index, source, since, job.reader, job.profile, stopped)
        check_unchanged(index, source, output, first, stopped)
        self._stats.rows += added
        self._stats.skipped += index.answered(index.size, first)
        return added > 0

    async def _next(self) -> list[Request]:
        """The next lot that is this process's to send; nothing where there is none now."""
        self._elsewhere = False
        for lot in self._candidates():
            self._after = lot
            if page := await self._take(lot):
                return page
        self._after = None
        return []

    def _candidates(self) -> Iterator[Lot]:
        """The lots after the last one, then all again: one that was another's may be free."""
        for after in (None,) if self._after is None else (self._after, None):
            lot = self._first() if after is None else self._following(after)
            while lot is not None:
                yield lot
                lot = self._following(lot)

    def _first(self) -> Lot | None:
        """The first lot there is. Those before it are not looked at again."""
        if self._done:
            return None
        lot = self._following(self._start)
        self._done = lot is None
        self._start = None if lot is None else (lot[0], lot[1] - 1)
        return lot

    def _following(self, lot: Lot | None) -> Lot | None:
        return self._batch.index.next_lot(lot, self._batch.bound)

    async def _take(self, lot: Lot) -> list[Request]:
        group, index = self._batch.group, self._batch.index
        if group is not None and self._claims is not None:
            if await self._claims.claim(group.key(lot)) == "theirs":
                self._elsewhere = True
                return []
            await asyncio.to_thread(group.catch_up)
        rows = index.draw(lot, self._batch.bound)
        numbers = {number for number, *_ in rows}
        self._open[lot] = self._open.get(lot, set()) | numbers
        self._lot_of |= dict.fromkeys(numbers, lot)
        if not self._open[lot]:
            await self._release(lot)
        return self._batch.requests(self._cursor, rows, self._call_id)
