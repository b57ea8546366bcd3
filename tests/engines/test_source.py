"""Drawing requests past those whose answers are kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.engines import source as sources
from llmctl.engines.local import LocalEngine
from llmctl.engines.queued import Queued
from llmctl.engines.source import Sifted
from llmctl.errors import DiskError
from llmctl.shutdown import Stop
from llmctl.types import Answer, CallRecord, Request, Usage
from tests.support import FakeClock, request, response

T = TypeVar("T")


class Shelf:
    """A chain that has the answers of the rows that `kept` names, and takes a second to deal
    with what was taken. A claim takes `claiming` seconds; from the one after `good` on it fails."""

    def __init__(
        self,
        clock: FakeClock,
        kept: Collection[int] = (),
        *,
        claiming: float = 0.0,
        good: int | None = None,
    ) -> None:
        self.clock, self._kept = clock, kept
        self._claiming, self._good = claiming, good
        self.asked: list[int] = []
        self.dealt: list[int] = []
        self.claimed: list[list[int]] = []
        self.prepared: list[list[int]] = []
        self.under_way = self.most = 0

    async def __call__(self, asked: Request, _: object) -> Answer:
        """Note who was asked."""
        self.asked.append(asked.index)
        await self.clock.sleep(0.1)
        return response()

    def take(self, requests: Sequence[Request]) -> tuple[list[CallRecord], list[Request]]:
        """What is kept, and the rest."""
        kept = [r for r in requests if r.index in self._kept]
        outcomes = [CallRecord(r, response(), Usage(), None, None, 0.0, 0.0, None) for r in kept]
        return outcomes, [r for r in requests if r.index not in self._kept]

    async def claim(self, requests: Sequence[Request]) -> None:
        """Note what was claimed together."""
        self.claimed.append([r.index for r in requests])
        await self.clock.sleep(self._claiming)
        if self._good is not None and len(self.claimed) > self._good:
            raise DiskError("the disk is full")

    async def prepare(self, requests: Sequence[Request]) -> None:
        """Note what was got ready together. That takes `claiming` seconds, too."""
        self.prepared.append([r.index for r in requests])
        await self.clock.sleep(self._claiming)

    async def finish(self) -> None:
        """Nothing was claimed anywhere."""

    async def deal(self, outcomes: Sequence[CallRecord]) -> None:
        """A slow disk."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.clock.sleep(1)
        self.under_way -= 1
        self.dealt += [o.request.index for o in outcomes]


def rows(number: int) -> list[Request]:
    """So many requests."""
    return [replace(request(), index=index) for index in range(number)]


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Ten requests looked up together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_CHUNK", 10)
        yield


async def limited(work: Awaitable[T]) -> T:
    """Not for ever: on a clock that jumps, who waits in vain does so at full speed."""
    async with asyncio.timeout(20):
        return await work


def indexes(requests: Iterable[Request]) -> list[int]:
    """Which ones."""
    return [one.index for one in requests]


async def driven(
    source: Sifted | Queued, shelf: Shelf, engine: LocalEngine, stop: Stop, stop_at: float | None
) -> list[int]:
    """Ask all of them, until it is stopped after so many seconds; which are left."""
    running = asyncio.ensure_future(engine.run(source, shelf))
    if stop_at is not None:
        await shelf.clock.sleep(stop_at)
        stop.ask()
    await running
    await source.close()
    return indexes(source.rest())


def test_every_request_is_asked_or_dealt_with_once() -> None:
    """Kept ones together, the others by the workers; a slow disk holds up to four chunks."""
    clock, stop = FakeClock(), Stop()
    kept = {n for n in range(500) if n % 7}
    shelf = Shelf(clock, kept)
    source = Sifted(rows(500), shelf, lambda: stop.asked)
    clock.run(LocalEngine(20, stop, clock).run(source, shelf))
    assert sorted(shelf.dealt) == sorted(kept)
    assert sorted(shelf.asked) == sorted(set(range(500)) - kept)
    assert shelf.most == 4


def test_once_stopped_nothing_is_drawn_and_nothing_lost() -> None:
    """What was looked up and not drawn is still there."""
    clock = FakeClock()
    shelf = Shelf(clock, {0, 1, 2})
    stopped: list[bool] = []
    source = Sifted(rows(25), shelf, lambda: bool(stopped))

    async def run() -> list[Request | None]:
        drawn = [await source.draw()]
        stopped.append(True)
        drawn.append(await source.draw())
        assert shelf.claimed == [[3]]
        return drawn

    first, second = clock.run(run())
    assert first is not None
    assert (first.index, second) == (3, None)
    assert [r.index for r in source.rest()] == list(range(4, 25))


def test_a_disk_that_refuses_ends_the_drawing() -> None:
    """What dealing raises comes out of `draw`."""
    clock = FakeClock()

    class Full(Shelf):
        async def deal(self, _: Sequence[CallRecord]) -> None:
            raise DiskError("the disk is full")

    source = Sifted(rows(5), Full(clock, {1}), lambda: False)
    with pytest.raises(DiskError):
        asyncio.run(source.draw())


def test_what_comes_next_is_claimed_together() -> None:
    """Of 25 rows, one of them kept, each is claimed before it is asked, four at a time, and
    only so far ahead."""
    clock = FakeClock()
    shelf = Shelf(clock, {0})
    source = Sifted(rows(25), shelf, lambda: False, ahead=4)

    async def run() -> None:
        assert await source.draw() is not None
        assert shelf.claimed == [[1, 2, 3, 4]]
        while await source.draw() is not None:
            pass

    clock.run(run())
    assert sorted(index for lot in shelf.claimed for index in lot) == list(range(1, 25))
    assert max(map(len, shelf.claimed)) == 4


def test_the_next_lot_is_claimed_before_a_worker_runs_dry() -> None:
    """When half of the last one is drawn, and not before; a claim takes a second, in which four
    of the other half are drawn: only the first draw waits."""
    clock = FakeClock()
    shelf = Shelf(clock, claiming=1)
    source = Sifted(rows(45), shelf, lambda: False, ahead=10)

    async def run() -> tuple[list[float], list[int]]:
        waits, claims = list[float](), list[int]()
        for _ in range(45):
            before = clock.now
            assert await source.draw() is not None
            waits.append(clock.now - before)
            await clock.sleep(0.25)
            claims.append(len(shelf.claimed))
        assert await source.draw() is None
        await source.close()
        return waits, claims

    waits, claims = clock.run(limited(run()))
    assert waits == [1] + [0] * 44
    assert claims[:20] == [1] * 4 + [2] * 10 + [3] * 6
    assert sorted(index for lot in shelf.claimed for index in lot) == list(range(45))


@pytest.mark.parametrize("number", [10, 7, 25])
def test_the_last_lot_is_for_all_workers(number: int) -> None:
    """Nobody goes home while another worker claims requests for many."""
    clock, stop = FakeClock(), Stop()
    shelf = Shelf(clock, claiming=1)
    source = Sifted(rows(number), shelf, lambda: False, ahead=10)

    async def ask(asked: Request, _: object) -> Answer:
        await clock.sleep(100)
        shelf.asked.append(asked.index)
        return response()

    clock.run(limited(LocalEngine(30, stop, clock).run(source, ask)))
    assert sorted(shelf.asked) == list(range(number))
    assert clock.now - 1000 == pytest.approx(100 + math.ceil(number / 10))


def test_what_a_claim_ahead_raises_comes_out_when_nothing_is_left() -> None:
    """What was ready before is still drawn; then the error comes, again and again, and nothing
    is lost."""
    clock = FakeClock()
    shelf = Shelf(clock, good=1)
    source = Sifted(rows(10), shelf, lambda: False, ahead=4)

    async def run() -> list[int]:
        drawn = []
        for _ in range(4):
            drawn.append(await source.draw())
            await clock.sleep(1)
        assert len(shelf.claimed) > 1
        for _ in range(2):
            with pytest.raises(DiskError):
                await source.draw()
        await source.close()
        return [one.index for one in drawn if one is not None]

    assert clock.run(limited(run())) == [0, 1, 2, 3]
    assert indexes(source.rest()) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("kept", "pause"), [({12}, 1.0), (range(10, 20), 0.01)])
def test_what_dealing_ahead_raises_comes_out_when_nothing_is_left(
    kept: Collection[int], pause: float
) -> None:
    """As for a claim: answers of the second chunk are kept and cannot be written, which shows
    before the last row of the first one is drawn, or after. Nothing more is claimed then, or
    the run would go on with a disk that it cannot write to."""
    clock = FakeClock()

    class Full(Shelf):
        async def deal(self, _: Sequence[CallRecord]) -> None:
            await clock.sleep(1)
            raise DiskError("the disk is full")

    source = Sifted(rows(20), Full(clock, kept), lambda: False, ahead=10)

    async def run() -> None:
        for index in range(10):
            drawn = await source.draw()
            assert drawn is not None
            assert drawn.index == index
            await clock.sleep(pause)
        with pytest.raises(DiskError):
            await source.draw()

    clock.run(limited(run()))


@pytest.mark.parametrize("kept", [(), range(10, 15)])
def test_close_waits_for_what_goes_on_ahead(kept: Collection[int]) -> None:
    """Stopped in the middle of a claim, or of dealing with what is kept: when `close` returns
    there is all that was not drawn, once."""
    clock = FakeClock()
    shelf = Shelf(clock, kept, claiming=1)
    stopped: list[bool] = []
    source = Sifted(rows(30), shelf, lambda: bool(stopped), ahead=10)

    async def run() -> float:
        for _ in range(5):
            await source.draw()
        await clock.sleep(0.5)
        stopped.append(True)
        assert await source.draw() is None
        before = clock.now
        await source.close()
        return clock.now - before

    assert clock.run(limited(run())) > 0.4
    assert sorted([*indexes(source.rest()), *shelf.dealt]) == list(range(5, 30))


def test_lots_last_a_while() -> None:
    """What is drawn at once is claimed in ever larger lots, up to a chunk; what takes its time
    in smaller ones again, down to `ahead`."""
    clock = FakeClock()
    shelf = Shelf(clock)
    source = Sifted(rows(120), shelf, lambda: False, ahead=2, clock=clock)

    async def run() -> None:
        for number in range(120):
            assert await source.draw() is not None
            await clock.sleep(0.0001 if number < 60 else 1)
        assert await source.draw() is None
        await source.close()

    clock.run(limited(run()))
    sizes = [len(lot) for lot in shelf.claimed]
    assert sizes[:4] == [2, 4, 8, 10]
    assert max(sizes) == 10
    assert sizes[-3:-1] == [2, 2]
    assert sorted(index for lot in shelf.claimed for index in lot) == list(range(120))


def test_what_must_be_asked_is_looked_up_in_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at a time, in turns with everybody else, where nothing is kept; ten where all is."""
    monkeypatch.setattr(sources, "_BITE", 3)
    clock, sizes = FakeClock(), list[int]()

    class Counted(Shelf):
        def take(self, requests: Sequence[Request]) -> tuple[list[CallRecord], list[Request]]:
            sizes.append(len(requests))
            return super().take(requests)

    async def run(kept: Collection[int]) -> list[int]:
        source = Sifted(rows(40), Counted(clock, kept), lambda: False, ahead=6)
        while await source.draw() is not None:
            await clock.sleep(1)
        await source.close()
        found, sizes[:] = sizes[:], []
        return found

    assert clock.run(limited(run(()))) == [3] * 13 + [1]
    assert clock.run(limited(run(range(40)))) == [3, 6, 10, 10, 10, 1]


def test_close_returns_at_once_when_nothing_goes_on() -> None:
    """Before anything was drawn, and when all was."""
    clock = FakeClock()
    source = Sifted(rows(3), Shelf(clock), lambda: False, ahead=2)

    async def run() -> None:
        await source.close()
        while await source.draw() is not None:
            await clock.sleep(1)
        await source.close()

    clock.run(limited(run()))
    assert indexes(source.rest()) == []


@settings(max_examples=120, deadline=None)
@given(
    number=st.integers(0, 60),
    kept=st.sets(st.integers(0, 59)),
    workers=st.integers(1, 15),
    ahead=st.integers(1, 12),
    claiming=st.sampled_from([0.0, 0.05, 1.0]),
    stop_at=st.none() | st.floats(0, 6),
)
def test_every_request_ends_in_one_place(
    number: int,
    kept: set[int],
    workers: int,
    ahead: int,
    claiming: float,
    stop_at: float | None,
) -> None:
    """Asked, dealt with, or, of a run that was stopped, still there: each exactly once."""
    clock = FakeClock()
    shelf = Shelf(clock, kept, claiming=claiming)

    async def run() -> list[int]:
        stop = Stop()
        source = Sifted(rows(number), shelf, lambda: stop.asked, ahead=ahead)
        return await driven(source, shelf, LocalEngine(workers, stop, clock), stop, stop_at)

    rest = clock.run(limited(run()))
    assert sorted([*rest, *shelf.asked, *shelf.dealt]) == list(range(number))
    assert stop_at is not None or not rest
    assert max(map(len, shelf.claimed), default=0) <= ahead
