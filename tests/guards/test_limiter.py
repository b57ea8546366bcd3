"""The lane that every attempt goes through."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import Limits
from llmctl.errors import RateLimited
from llmctl.guards.lane import Lane
from llmctl.guards.limiter import Limiter
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response


def tokens(_: Request) -> int:
    """Every request is taken to use 100 tokens."""
    return 100


def test_requests_per_minute_hold() -> None:
    """120 requests at 60 a minute take two minutes, less the first one's head start."""
    clock = FakeClock()

    async def run() -> float:
        limiter = Limiter(Scripted(response()), Lane(Limits(rpm=60), clock), tokens)
        await asyncio.gather(*(limiter(request(), None) for _ in range(120)))
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(119, abs=0.01)


def test_tokens_are_corrected_to_the_real_usage() -> None:
    """Estimates of 100 tokens that turn out as 5 slow the run down by 5, not by 100."""
    clock = FakeClock()

    async def run() -> float:
        limiter = Limiter(Scripted(response()), Lane(Limits(tpm=1200), clock), tokens)
        for _ in range(60):
            await limiter(request(), None)
        return clock.now - 1000

    assert clock.run(run()) < 20  # 300 without the correction, 15 in theory


def test_a_429_pauses_the_whole_lane() -> None:
    """After one row was told to wait, no row is sent until the wait is over."""
    clock = FakeClock()
    sent: list[float] = []

    class Endpoint:
        async def __call__(self, _: Request, __: object) -> Answer:
            sent.append(clock.now - 1000)
            if len(sent) == 1:
                raise RateLimited("slow down", retry_after=30)
            return response()

    async def run() -> None:
        limiter = Limiter(Endpoint(), Lane(Limits(), clock), tokens)
        with pytest.raises(RateLimited):
            await limiter(request(), None)
        await asyncio.gather(*(limiter(request(), None) for _ in range(5)))

    clock.run(run())
    assert sent[0] == 0
    assert all(at >= 30 for at in sent[1:])


def test_cancelled_waiters_leave_no_slot_taken() -> None:
    """Requests cancelled while they wait do not delay the ones that stay."""
    clock = FakeClock()

    async def run() -> float:
        lane = Lane(Limits(rpm=60), clock)
        limiter = Limiter(Scripted(response()), lane, tokens)
        await limiter(request(), None)
        waiting = [asyncio.ensure_future(limiter(request(), None)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await limiter(request(), None)
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(1.0, abs=0.01)
