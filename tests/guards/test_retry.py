"""Trying again, and when not to."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import RetryPolicy
from llmctl.errors import (
    AuthFailed,
    CallTimeout,
    Interrupted,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.retry import Retry, RetryBudget, RetryDetails
from llmctl.http import CancelledAfterSending
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

POLICY = RetryPolicy(attempts=4, max_wait=60, ambiguous_attempts=1)


async def afford_all(_: Request, __: int) -> bool:
    """There is money for every attempt."""
    return True


def make(inner: Scripted, clock: FakeClock, seen: list[RetryDetails] | None = None) -> Retry:
    """A retry guard around `inner`."""
    return Retry(
        inner,
        RetryBudget(POLICY, 1000),
        clock,
        (seen if seen is not None else []).append,
        afford_all,
    )


def test_a_passing_failure_is_survived_and_counted() -> None:
    """Two failures and then an answer: the answer says three attempts, each repetition is told."""
    clock, seen = FakeClock(), list[RetryDetails]()
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
    clock, seen = FakeClock(), list[RetryDetails]()
    policy = RetryPolicy(attempts=9, max_wait=8)
    for _ in range(20):
        with pytest.raises(ServerFailed):
            clock.run(
                Retry(
                    Scripted(ServerFailed("x")),
                    RetryBudget(policy, 1000),
                    clock,
                    seen.append,
                    afford_all,
                )(request(), None)
            )
    for details in seen:
        assert 0 <= details.wait <= min(2 ** (details.attempt - 1), 8)
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


def patient(inner: Scripted, clock: FakeClock, deadline: float = 1000) -> Retry:
    """A retry guard of a batch around `inner`."""
    return Retry(
        inner, RetryBudget(POLICY, deadline, patient=True), clock, lambda _: None, afford_all
    )


def test_in_a_batch_being_told_to_come_back_is_not_held_against_a_row() -> None:
    """Nine 429s are survived by a row that may be tried four times; the attempts are counted."""
    clock = FakeClock()
    inner = Scripted(*[RateLimited("slow", retry_after=1)] * 9, response())
    answer = clock.run(patient(inner, clock)(request(), None))
    assert answer.attempts == 10


def test_even_a_batch_ends_its_patience() -> None:
    """After the deadline no further attempt begins, however friendly the refusals are."""
    clock = FakeClock()
    inner = Scripted(RateLimited("slow", retry_after=30))
    with pytest.raises(RateLimited):
        clock.run(patient(inner, clock, deadline=300)(request(), None))
    assert 9 <= len(inner.calls) <= 11
    assert clock.now - 1000 <= 300


def test_no_attempt_begins_after_the_deadline() -> None:
    """A row whose attempts take long is not tried again when its time is up."""
    clock = FakeClock()

    class Slow:
        calls = 0

        async def __call__(self, _: Request, __: object) -> Answer:
            self.calls += 1
            await clock.sleep(100)
            raise ServerFailed("boom")

    slow = Slow()
    guard = Retry(
        slow, RetryBudget(RetryPolicy(attempts=50), 250), clock, lambda _: None, afford_all
    )
    with pytest.raises(ServerFailed):
        clock.run(guard(request(), None))
    assert slow.calls == 3


def test_a_failure_of_the_whole_provider_is_not_held_against_a_row() -> None:
    """What the breaker has excused is repeated for as long as it takes."""
    clock = FakeClock()
    down = ServerFailed("boom")
    down.excused = True
    inner = Scripted(*[down] * 30, response())
    assert clock.run(patient(inner, clock, deadline=0)(request(), None)).attempts == 31


def test_another_attempt_that_may_be_billed_must_be_affordable() -> None:
    """After an ambiguous failure the guard asks whether a second bill is covered; no: it ends."""
    clock, asked = FakeClock(), list[int]()

    async def afford(_: Request, uncertain: int) -> bool:
        asked.append(uncertain)
        return False

    inner = Scripted(CallTimeout("late"), response())
    guard = Retry(inner, RetryBudget(POLICY, 1000), clock, lambda _: None, afford)
    with pytest.raises(CallTimeout):
        clock.run(guard(request(), None))
    assert (asked, len(inner.calls)) == ([1], 1)
