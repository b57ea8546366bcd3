"""Drawing requests past those whose answers are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from llmctl.engines import source as sources
from llmctl.engines.local import LocalEngine
from llmctl.engines.source import Sifted
from llmctl.errors import DiskError
from llmctl.stopping import Stop
from llmctl.types import Outcome, Request, Response, Usage
from tests.support import FakeClock, request, response


class Shelf:
    """A chain that has the answers of the rows that `kept` names, and takes a second to deal
    with what was taken."""

    def __init__(self, clock: FakeClock, kept: set[int]) -> None:
        self._clock, self._kept = clock, kept
        self.asked: list[int] = []
        self.dealt: list[int] = []
        self.claimed: list[list[int]] = []
        self.under_way = self.most = 0

    async def __call__(self, asked: Request, _: object) -> Response:
        """Note who was asked."""
        self.asked.append(asked.index)
        await self._clock.sleep(0.1)
        return response()

    def take(self, requests: Sequence[Request]) -> tuple[list[Outcome], list[Request]]:
        """What is kept, and the rest."""
        kept = [r for r in requests if r.index in self._kept]
        outcomes = [Outcome(r, response(), Usage(), None, None, 0.0, 0.0, None) for r in kept]
        return outcomes, [r for r in requests if r.index not in self._kept]

    async def claim(self, requests: Sequence[Request]) -> None:
        """Note what was claimed together."""
        self.claimed.append([r.index for r in requests])

    async def finish(self) -> None:
        """Nothing was claimed anywhere."""

    async def deal(self, outcomes: Sequence[Outcome]) -> None:
        """A slow disk."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self._clock.sleep(1)
        self.under_way -= 1
        self.dealt += [o.request.index for o in outcomes]


def rows(number: int) -> list[Request]:
    """So many requests."""
    return [replace(request(), index=index) for index in range(number)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten requests looked up together."""
    monkeypatch.setattr(sources, "_CHUNK", 10)


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
        return [*drawn, await source.draw()]

    first, second = clock.run(run())
    assert first is not None
    assert (first.index, second) == (3, None)
    assert [r.index for r in source.rest()] == list(range(4, 25))


def test_a_disk_that_refuses_ends_the_drawing() -> None:
    """What dealing raises comes out of `draw`."""
    clock = FakeClock()

    class Full(Shelf):
        async def deal(self, _: Sequence[Outcome]) -> None:
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
