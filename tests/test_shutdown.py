"""The end of a run, as those who wait meet it."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import BreakerPolicy, Limits, RetryPolicy
from llmctl.errors import CallTimeout, Cancelled, QuotaExhausted, RateLimited
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.rate_limit import ProviderLimits, rate_limit
from llmctl.guards.retry import Retry
from llmctl.protocols import Handler
from llmctl.shutdown import Stop
from llmctl.types import Request
from tests.support import FakeClock, Scripted, request, response


async def afford_all(_: Request, __: int) -> bool:
    """There is money for every attempt."""
    return True


def guarded(inner: Handler, clock: FakeClock, stop: Stop, limits: Limits) -> Retry:
    """Retry, breaker and limiter of a batch that `stop` ends."""
    waiting = stop.clock(clock)
    health = ProviderHealth(BreakerPolicy(failures=1), waiting, "test", patient=True)
    provider = ProviderLimits(limits, clock, stop=stop)
    breaker = circuit_breaker(rate_limit(inner, provider, lambda _: 0), health)
    policy = RetryPolicy(attempts=9, ambiguous_attempts=9)
    return Retry(breaker, policy, 9e9, waiting, lambda _: None, afford_all, patient=True)


def stopped_after(seconds: float, inner: Scripted, limits: Limits) -> list[BaseException]:
    """How twenty calls end when the run is told to end after so long."""
    clock = FakeClock()

    async def run() -> list[BaseException]:
        stop = Stop()
        guard = guarded(inner, clock, stop, limits)
        calls = [asyncio.ensure_future(guard(request(), None)) for _ in range(20)]
        await clock.sleep(seconds)
        stop.ask()
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [end for end in found if isinstance(end, BaseException)]

    ends = clock.run(run())
    assert clock.now - 1000 <= seconds + 0.001
    return ends


def test_rows_that_wait_for_the_rate_limit_are_not_sent() -> None:
    """Two of twenty were let through within a second at 60 a minute; the others end at once."""
    inner = Scripted(response())
    ends = stopped_after(1.5, inner, Limits(rpm=60))
    assert len(inner.calls) == 2
    assert len(ends) == 18
    assert all(isinstance(end, Cancelled) and not end.sent for end in ends)


def test_rows_that_wait_for_room_are_not_sent() -> None:
    """Of two at a time, 429 for 60 s: nobody is sent when the others leave."""
    inner = Scripted(RateLimited("slow", retry_after=60))
    ends = stopped_after(5, inner, Limits(concurrency=2))
    assert len(inner.calls) <= 2
    assert len(ends) == 20


def test_rows_that_wait_for_a_provider_that_is_down_end() -> None:
    """Nobody looks again whether it is back."""
    inner = Scripted(*[QuotaExhausted("no credit")] * 30)
    inner.calls.clear()
    ends = stopped_after(5, inner, Limits(concurrency=1))
    assert len(ends) == 20
    assert len(inner.calls) <= 2


def test_a_row_in_a_pause_keeps_what_may_have_been_billed() -> None:
    """Its earlier attempt timed out: that is on the error that ends it."""
    ends = stopped_after(0.0001, Scripted(CallTimeout("late")), Limits(concurrency=20))
    kept = [(end.attempts, end.uncertain, end.held) for end in ends if isinstance(end, Cancelled)]
    assert kept
    assert set(kept) == {(1, 1, True)}


def test_the_reason_is_the_runs_own() -> None:
    """Who ends the run says what becomes of the rows that are not sent."""

    async def run() -> None:
        stop = Stop()
        stop.ask(lambda: QuotaExhausted("not sent: no credit", sent=False))
        stop.ask()
        with pytest.raises(QuotaExhausted):
            stop.check()
        with pytest.raises(QuotaExhausted):
            await stop.clock(FakeClock()).sleep(1)

    asyncio.run(run())


def test_being_cancelled_is_not_being_stopped() -> None:
    """A task that is cancelled while it sleeps is cancelled, and leaves no sleeper behind."""
    clock = FakeClock()

    async def run() -> None:
        stop = Stop()
        sleeping = asyncio.ensure_future(stop.clock(clock).sleep(5))
        await asyncio.sleep(0)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert len(asyncio.all_tasks()) == 2  # this one, and the clock's

    clock.run(run())
