"""The end of a run, as those who wait meet it."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import BreakerPolicy, Limits, RetryPolicy
from llmctl.errors import CallError, CallTimeout, Cancelled, QuotaExhausted, RateLimited
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.rate_limit import ProviderLimits, rate_limit
from llmctl.guards.retry import Retry
from llmctl.protocols import Handler
from llmctl.shutdown import Stop
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response


async def afford_all(_: Request, __: int) -> bool:
    """There is money for every attempt."""
    return True


def guarded(
    inner: Handler, clock: FakeClock, stop: Stop, limits: Limits, breaker_failures: int
) -> Retry:
    """Retry, breaker and limiter of a batch that `stop` ends."""
    waiting = stop.clock(clock)
    health = ProviderHealth(BreakerPolicy(failures=breaker_failures), waiting, "test", patient=True)
    provider = ProviderLimits(limits, clock, stop=stop)
    breaker = circuit_breaker(rate_limit(inner, provider, lambda _: 0), health)
    policy = RetryPolicy(attempts=9, ambiguous_attempts=9)
    return Retry(breaker, policy, 9e9, waiting, lambda _: None, afford_all, patient=True)


def stopped_after(
    seconds: float, inner: Scripted, limits: Limits, breaker_failures: int = 1
) -> list[BaseException]:
    """How twenty calls end when the run is told to end after so long."""
    clock = FakeClock()

    async def run() -> list[BaseException]:
        stop = Stop()
        guard = guarded(inner, clock, stop, limits, breaker_failures)
        calls = [asyncio.ensure_future(guard(request(), None)) for _ in range(20)]
        await clock.sleep(seconds)
        stop.ask()
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [end for end in found if isinstance(end, BaseException)]

    ends = clock.run(run())
    assert clock.now - 1000 <= seconds + 0.001
    return ends


@pytest.mark.parametrize(
    ("result", "limits", "unsent"),
    [
        (response(), Limits(rpm=60), 14),  # one a second
        (RateLimited("slow", retry_after=60), Limits(concurrency=2), 20),  # waits for room
        (QuotaExhausted("no credit"), Limits(concurrency=1), 20),  # the provider is down
    ],
)
def test_rows_that_wait_are_not_sent(
    result: Answer | CallError, limits: Limits, unsent: int
) -> None:
    """Whatever they wait for when the run is told to end, they end at once."""
    inner = Scripted(*[result] * 30)
    ends = stopped_after(5.5, inner, limits)
    assert len(ends) == unsent
    assert len(inner.calls) <= max(2, 20 - unsent)
    unsent_ends = [end for end in ends if isinstance(end, Cancelled) and not end.sent]
    assert len(unsent_ends) >= unsent - 2


def test_a_row_in_a_pause_keeps_what_may_have_been_billed() -> None:
    """Its earlier attempt timed out: that is on the error that ends it."""
    ends = stopped_after(
        0.0001, Scripted(CallTimeout("late")), Limits(concurrency=20), breaker_failures=99
    )
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
