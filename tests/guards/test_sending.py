"""A row is sent when there is room for one more under way."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.errors import Cancelled, Overloaded
from llmctl.guards.sending import Sending
from llmctl.inflight import InFlight
from llmctl.protocols import Emit
from llmctl.shutdown import Stop
from llmctl.types import Answer, Request
from tests.support import Scripted, request, response


def test_the_answer_and_its_pieces_come_through() -> None:
    """The inner handler gets the request and the way for early text."""
    inner, pieces = Scripted(response("good")), list[str]()
    asked = request()
    found = asyncio.run(Sending(inner, InFlight(1, Stop()))(asked, pieces.append))
    assert (found.text, pieces, inner.calls) == ("good", ["good"], [asked])


def test_a_row_waits_for_its_place_and_keeps_it() -> None:
    """The second row is not sent while the first is being dealt with, however its call ended."""

    async def run() -> list[str]:
        in_flight, seen = InFlight(1, Stop()), list[str]()
        dealt = asyncio.Event()

        async def inner(asked: Request, _: Emit | None) -> Answer:
            seen.append(f"sent {asked.id}")
            raise Overloaded("too busy")

        async def row(name: str) -> None:
            with pytest.raises(Overloaded):
                await Sending(inner, in_flight)(request(id=name), None)
            await dealt.wait()
            seen.append(f"dealt with {name}")
            in_flight.leave()

        async with asyncio.timeout(20):
            rows = [asyncio.ensure_future(row(name)) for name in "ab"]
            for _ in range(10):
                await asyncio.sleep(0)
            seen.append("-")
            dealt.set()
            await asyncio.gather(*rows)
        return seen

    assert asyncio.run(run()) == ["sent a", "-", "dealt with a", "sent b", "dealt with b"]


def test_another_provider_is_asked_in_the_same_place() -> None:
    """The only place is no hindrance to a row that has it."""

    async def run() -> list[Request]:
        in_flight, second = InFlight(1, Stop()), Scripted()
        first = Sending(Scripted(Overloaded("too busy")), in_flight)
        async with asyncio.timeout(20):
            with pytest.raises(Overloaded):
                await first(request(), None)
            await Sending(second, in_flight)(request(), None)
        return second.calls

    assert len(asyncio.run(run())) == 1


def test_once_stopped_nothing_is_sent() -> None:
    """The run's own error comes out, and the inner handler hears nothing."""
    stop, inner = Stop(), Scripted()

    async def run() -> None:
        stop.ask()
        await Sending(inner, InFlight(1, stop))(request(), None)

    with pytest.raises(Cancelled):
        asyncio.run(run())
    assert inner.calls == []
