"""Trying again, and when not to."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.cancellation import CancelledAfterSending
from llmctl.errors import (
    AuthFailed,
    CallTimeout,
    Interrupted,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.retry import Retry, Trouble
from llmctl.settings import RetryPolicy
from tests.support import FakeClock, Scripted, request, response

POLICY = RetryPolicy(attempts=4, max_wait=60, ambiguous_attempts=1)


def make(inner: Scripted, clock: FakeClock, seen: list[Trouble] | None = None) -> Retry:
    """A retry guard around `inner`."""
    return Retry(inner, POLICY, clock, (seen if seen is not None else []).append)


def test_a_passing_failure_is_survived_and_counted() -> None:
    """Two failures and then an answer: the answer says three attempts, each repetition is told."""
    clock, seen = FakeClock(), list[Trouble]()
    inner = Scripted(ServerFailed("boom"), Overloaded("busy"), response())
    answer = clock.run(make(inner, clock, seen)(request(), None))
    assert answer.attempts == 3
    assert [t.attempt for t in seen] == [1, 2]


def test_the_last_error_is_raised_with_its_attempts() -> None:
    """When all attempts fail the caller gets the last error, not the retry library's."""
    clock = FakeClock()
    inner = Scripted(ServerFailed("boom"))
    with pytest.raises(ServerFailed) as caught:
        clock.run(make(inner, clock)(request(), None))
    assert caught.value.attempts == len(inner.calls) == 4


@pytest.mark.parametrize(
    "error", [AuthFailed("no"), QuotaExhausted("no"), Interrupted(ServerFailed("x"))]
)
def test_terminal_errors_are_not_repeated(error: Exception) -> None:
    """What the codec calls terminal, and a stream that was seen to break, is tried once."""
    clock = FakeClock()
    inner = Scripted(error)
    with pytest.raises(type(error)):
        clock.run(make(inner, clock)(request(), None))
    assert len(inner.calls) == 1


def test_a_failure_that_may_have_been_billed_is_repeated_once() -> None:
    """Timeouts after sending have their own, smaller allowance."""
    clock = FakeClock()
    inner = Scripted(CallTimeout("late"))
    with pytest.raises(CallTimeout) as caught:
        clock.run(make(inner, clock)(request(), None))
    assert len(inner.calls) == 2
    assert caught.value.uncertain == 2


def test_the_providers_wait_is_the_least() -> None:
    """A retry never comes before the time the provider named."""
    clock = FakeClock()
    inner = Scripted(RateLimited("slow", retry_after=17), response())
    clock.run(make(inner, clock)(request(), None))
    assert clock.now - 1000 >= 17


def test_pauses_grow_and_are_bounded() -> None:
    """The n-th pause lies in [0, min(2^(n-1), max_wait)): full jitter."""
    clock, seen = FakeClock(), list[Trouble]()
    policy = RetryPolicy(attempts=9, max_wait=8)
    for _ in range(20):
        with pytest.raises(ServerFailed):
            clock.run(
                Retry(Scripted(ServerFailed("x")), policy, clock, seen.append)(request(), None)
            )
    for trouble in seen:
        assert 0 <= trouble.wait <= min(2 ** (trouble.attempt - 1), 8)
    assert len({round(t.wait, 6) for t in seen}) > len(seen) // 2


def test_a_cancelled_call_remembers_what_may_have_been_billed() -> None:
    """Cancelling after an uncertain attempt reports both that one and the one in flight."""
    clock = FakeClock()
    inner = Scripted(CallTimeout("late"), CancelledAfterSending())

    async def run() -> tuple[int, int]:
        with pytest.raises(asyncio.CancelledError) as caught:
            await make(inner, clock)(request(), None)
        stop = caught.value
        return (
            (stop.attempts, stop.uncertain) if isinstance(stop, CancelledAfterSending) else (0, 0)
        )

    assert clock.run(run()) == (2, 2)
