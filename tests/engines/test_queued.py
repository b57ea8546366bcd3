"""Getting requests ready many at a time, just before they are drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.engines import queued as queues
from llmctl.engines.local import LocalEngine
from llmctl.engines.queued import Queued
from llmctl.engines.source import Sifted
from llmctl.errors import DiskError
from llmctl.shutdown import Stop
from llmctl.types import Request
from tests.engines.test_source import Shelf, driven, indexes, limited, rows
from tests.support import FakeClock


class Full(Shelf):
    """A disk that has room for one lot."""

    async def prepare(self, requests: Sequence[Request]) -> None:
        """The first one."""
        await super().prepare(requests)
        if len(self.prepared) > 1:
            raise DiskError("the disk is full")


def queued(
    shelf: Shelf, clock: FakeClock, number: int, workers: int, stop: Stop, *, ahead: int = 20
) -> Queued:
    """So many rows for so many workers, claimed `ahead` at a time."""
    sifted = Sifted(rows(number), shelf, lambda: stop.asked, ahead=ahead)
    return Queued(sifted, shelf, lambda: stop.asked, workers, clock)


def test_all_are_ready_before_they_are_drawn_and_in_their_order() -> None:
    """None is drawn that was not got ready, each once, however many draw."""
    clock = FakeClock()
    shelf = Shelf(clock, claiming=0.1)
    source = queued(shelf, clock, 100, 7, Stop())
    drawn: list[int] = []

    async def work() -> None:
        while (found := await source.draw()) is not None:
            assert any(found.index in lot for lot in shelf.prepared)
            drawn.append(found.index)
            await clock.sleep(0.05)

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(7)))
        await source.close()

    clock.run(limited(run()))
    assert drawn == list(range(100))
    assert [index for lot in shelf.prepared for index in lot] == drawn


def test_the_next_lot_is_ready_before_a_worker_runs_dry() -> None:
    """Getting one ready takes as long as drawing half of one: only the first draw waits."""
    clock = FakeClock()
    shelf = Shelf(clock, claiming=0.2)
    source = queued(shelf, clock, 200, 8, Stop())

    async def run() -> list[float]:
        waits: list[float] = []
        for _ in range(200):
            before = clock.now
            assert await source.draw() is not None
            waits.append(round(clock.now - before, 3))
            await clock.sleep(0.05)
        await source.close()
        return waits

    waits = clock.run(limited(run()))
    assert waits == [0.4] + [0] * 199


@pytest.mark.parametrize(("pause", "most"), [(10.0, 8), (0.0005, 128)])
def test_no_more_are_ready_than_are_soon_drawn(pause: float, most: int) -> None:
    """With a slow provider a few; with the fastest two hundred and fifty-six."""
    clock = FakeClock()
    shelf = Shelf(clock)
    source = queued(shelf, clock, 3000, 20, Stop(), ahead=512)

    async def run() -> list[int]:
        ahead: list[int] = []
        for drawn in range(1, 2001):
            assert await source.draw() is not None
            await clock.sleep(pause)
            ahead.append(sum(map(len, shelf.prepared)) - drawn)
        await source.close()
        return ahead

    ahead = clock.run(limited(run()))
    assert max(ahead[200:]) <= 2 * most
    assert max(map(len, shelf.prepared[-5:])) <= most
    assert max(map(len, shelf.prepared)) >= most


def test_with_one_worker_at_most_two_are_ready() -> None:
    """Who asks for one at a time does not want many on record."""
    clock = FakeClock()
    shelf = Shelf(clock)
    source = queued(shelf, clock, 50, 1, Stop())

    async def run() -> None:
        for drawn in range(50):
            assert await source.draw() is not None
            await clock.sleep(1)
            assert sum(map(len, shelf.prepared)) - drawn <= 3
        await source.close()

    clock.run(limited(run()))


def test_what_getting_ready_raises_whoever_draws_next_hears() -> None:
    """Once; the rows are still there."""
    clock = FakeClock()

    source = queued(Full(clock), clock, 40, 8, Stop())

    drawn = 0

    async def draw_all() -> None:
        nonlocal drawn
        while await source.draw() is not None:
            drawn += 1
            await clock.sleep(1)

    async def run() -> None:
        with pytest.raises(DiskError):
            await draw_all()
        await source.close()

    clock.run(limited(run()))
    assert drawn + len(indexes(source.rest())) == 40


def test_close_says_what_nobody_has_heard() -> None:
    """A failure ahead of the last draw is not lost."""
    clock = FakeClock()

    source = queued(Full(clock, claiming=1), clock, 40, 8, Stop())

    async def run() -> None:
        assert await source.draw() is not None
        with pytest.raises(DiskError):
            await source.close()

    clock.run(limited(run()))
    assert indexes(source.rest()) == list(range(1, 40))


@settings(max_examples=120, deadline=None)
@given(
    number=st.integers(0, 60),
    kept=st.sets(st.integers(0, 59)),
    workers=st.integers(1, 15),
    most=st.integers(1, 12),
    claiming=st.sampled_from([0.0, 0.05, 1.0]),
    stop_at=st.none() | st.floats(0, 6),
)
def test_every_request_ends_in_one_place(
    number: int, kept: set[int], workers: int, most: int, claiming: float, stop_at: float | None
) -> None:
    """Asked, dealt with, or, of a run that was stopped, still there: each exactly once."""
    clock = FakeClock()
    shelf = Shelf(clock, kept, claiming=claiming)

    async def run() -> list[int]:
        stop = Stop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queues, "_MOST", most)
            source = queued(shelf, clock, number, workers, stop)
        return await driven(source, shelf, LocalEngine(workers, stop, clock), stop, stop_at)

    rest = clock.run(limited(run()))
    assert sorted([*shelf.asked, *shelf.dealt, *rest]) == list(range(number))
    if stop_at is None:
        assert not rest
