"""How many rows may be under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.errors import BudgetExhausted, CallError, DiskError
from llmctl.inflight import InFlight
from llmctl.shutdown import Stop

LIMIT = 20.0
"""Seconds after which somebody waits in vain."""

Step = Callable[[], object]


class Row:
    """A task that takes a place and keeps it until `go` is set; what it does then is `last`."""

    def __init__(self, in_flight: InFlight, last: Sequence[Step] = ()) -> None:
        self._in_flight, self._last = in_flight, last
        self.go = asyncio.Event()
        self.inside = False
        self.task = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        await self._in_flight.enter()
        self.inside = True
        try:
            await self.go.wait()
        finally:
            self.inside = False
            self._in_flight.leave()
            for step in self._last:
                step()


async def turns(number: int = 10) -> None:
    """Let everybody do what can be done."""
    for _ in range(number):
        await asyncio.sleep(0)


async def part(*rows: Row) -> None:
    """All are dealt with."""
    for row in rows:
        row.go.set()
    await asyncio.gather(*(row.task for row in rows), return_exceptions=True)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run it, but not for ever."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await work()

    asyncio.run(limited())


def inside(rows: Sequence[Row]) -> list[int]:
    """Which of them have a place."""
    return [n for n, row in enumerate(rows) if row.inside]


def test_never_more_than_so_many_and_first_come_first_served() -> None:
    """Of eight rows three are inside, and who has waited longest follows whoever leaves."""

    async def work() -> None:
        in_flight = InFlight(3, Stop())
        rows = [Row(in_flight) for _ in range(8)]
        await turns()
        assert inside(rows) == [0, 1, 2]
        for leaving, expected in ((1, [0, 2, 3]), (3, [0, 2, 4]), (0, [2, 4, 5])):
            await part(rows[leaving])
            await turns()
            assert inside(rows) == expected
        late = Row(in_flight)
        await part(rows[2])
        await turns()
        assert inside([*rows, late]) == [4, 5, 6]
        await part(*rows, late)

    run(work)


def test_a_row_that_is_sent_to_another_provider_keeps_its_place() -> None:
    """Entering again neither waits nor counts: one `leave` gives one place back."""

    async def work() -> None:
        in_flight = InFlight(1, Stop())
        await in_flight.enter()
        rows = [Row(in_flight), Row(in_flight)]
        await turns()
        await in_flight.enter()
        await turns()
        assert inside(rows) == []
        in_flight.leave()
        await turns()
        assert inside(rows) == [0]
        await part(*rows)
        await in_flight.enter()

    run(work)


@pytest.mark.parametrize("moment", ["long before", "just before", "just after"])
def test_who_gives_up_waiting_holds_no_place_and_loses_none(moment: str) -> None:
    """A row that is cancelled before it is given its turn, or in the very turn of the loop in
    which it is: the next one follows, and only that."""

    async def work() -> None:
        in_flight = InFlight(1, Stop())
        await in_flight.enter()
        rows = [Row(in_flight) for _ in range(3)]
        await turns()
        if moment != "just after":
            rows[0].task.cancel()
        if moment == "long before":
            await turns()
        in_flight.leave()
        if moment == "just after":
            rows[0].task.cancel()
        await turns()
        assert rows[0].task.cancelled()
        assert inside(rows) == [1]
        await part(rows[1])
        await turns()
        assert inside(rows) == [2]
        await part(rows[2])
        await in_flight.enter()

    run(work)


def test_when_all_who_wait_have_given_up_the_place_is_free() -> None:
    """Nobody is given it, and who comes next takes it."""

    async def work() -> None:
        in_flight = InFlight(1, Stop())
        await in_flight.enter()
        rows = [Row(in_flight) for _ in range(3)]
        await turns()
        for row in rows:
            row.task.cancel()
        in_flight.leave()
        await turns()
        late = Row(in_flight)
        await turns()
        assert late.inside
        await part(late)

    run(work)


def test_who_was_never_sent_gives_nothing_back() -> None:
    """`leave` without `enter` lets nobody in, and twice is as good as once."""

    async def work() -> None:
        in_flight = InFlight(1, Stop())
        rows = [Row(in_flight), Row(in_flight), Row(in_flight)]
        await turns()
        in_flight.leave()
        await turns()
        assert inside(rows) == [0]
        rows[0]._last = (in_flight.leave,)
        await part(rows[0])
        await turns()
        assert inside(rows) == [1]
        await part(*rows)

    run(work)


@pytest.mark.parametrize("given_first", [True, False])
def test_once_stopped_nobody_gets_through(given_first: bool) -> None:  # noqa: FBT001 - a parameter
    """Who waits, who was just given a place and who comes raises the run's own error; the place
    is nobody's. A row that was sent may still be sent to somebody else."""

    def why() -> CallError:
        return BudgetExhausted("spent", sent=False)

    async def work() -> None:
        stop = Stop()
        in_flight = InFlight(1, stop)
        await in_flight.enter()
        rows = [Row(in_flight) for _ in range(3)]
        await turns()
        if not given_first:
            stop.ask(why)
            await in_flight.enter()
        in_flight.leave()
        stop.ask(why)
        rows.append(Row(in_flight))
        await turns()
        assert [type(row.task.exception()) for row in rows] == [BudgetExhausted] * 4
        assert not in_flight._inside
        with pytest.raises(BudgetExhausted):
            await in_flight.enter()

    run(work)


@pytest.mark.parametrize(
    ("most", "tasks"), [(1, 1), (2, 3), (10, 19), (33, 65), (50, 82), (1000, 1032)]
)
def test_some_more_tasks_than_places_get_rows_ready(most: int, tasks: int) -> None:
    """One less than places, and not more than 32."""
    assert InFlight(most, Stop()).tasks == tasks


def test_somebody_else_may_say_that_a_row_is_where_it_belongs() -> None:
    """What `leaving` gives frees the place of the task that asked for it, once, whoever calls
    it; the next row is inside before anything else happens."""

    async def work() -> None:
        in_flight = InFlight(1, Stop())
        await in_flight.enter()
        leave = in_flight.leaving()
        rows = [Row(in_flight), Row(in_flight)]
        await turns()

        async def other() -> None:
            leave()
            assert in_flight._inside == {rows[0].task}
            leave()

        await asyncio.ensure_future(other())
        await turns()
        assert inside(rows) == [0]
        await part(*rows)

    run(work)


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "come", "leave", "cancel", "turn"]), st.integers(0, 99)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(most=st.integers(1, 4), steps=STEPS)
def test_whatever_happens_places_are_neither_lost_nor_doubled(
    most: int, steps: list[tuple[str, int]]
) -> None:
    """Rows come, go and are cancelled, several in one turn of the loop: never more than `most`
    are inside, and nobody waits while there is room."""

    async def work() -> None:
        in_flight = InFlight(most, Stop())
        rows: list[Row] = []
        for step, number in steps:
            there = [row for row in rows if not row.task.done()]
            if step == "come":
                rows.append(Row(in_flight))
            elif step == "turn":
                await asyncio.sleep(0)
            elif there and step == "leave":
                there[number % len(there)].go.set()
            elif there:
                there[number % len(there)].task.cancel()
            assert len(inside(rows)) <= most
            assert len(in_flight._inside) <= most
        await turns(3 * len(rows) + 10)
        there = [row for row in rows if not row.task.done()]
        assert len(inside(rows)) == min(most, len(there))
        await part(*there)
        assert not in_flight._inside

    run(work)


def test_nobody_is_sent_whose_answer_could_not_be_written() -> None:
    """Neither who comes after the disk has refused, nor who waited before."""

    async def run() -> list[str]:
        refusals: list[DiskError] = []

        def check() -> None:
            if refusals:
                raise refusals[0]

        places = InFlight(1, Stop(), check)
        await places.enter()
        waiting = asyncio.ensure_future(places.enter())
        await asyncio.sleep(0)
        refusals.append(DiskError("the disk is full"))
        places.leave()
        late = asyncio.ensure_future(places.enter())
        found = await asyncio.gather(waiting, late, return_exceptions=True)
        return [str(error) for error in found]

    assert asyncio.run(run()) == ["the disk is full"] * 2
