"""Trying again, and when not to."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import BreakerPolicy, RetryPolicy
from llmctl.errors import (
    AuthFailed,
    CallError,
    CallTimeout,
    Interrupted,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.retry import Retry, RetryDetails
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Handler
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

POLICY = RetryPolicy(attempts=4, max_wait=60, ambiguous_attempts=1)


class Tried:
    """What a retry guard made of a call to `inner`; `affords` says whether money is left."""

    def __init__(
        self,
        inner: Handler,
        policy: RetryPolicy = POLICY,
        deadline: float = 1000,
        clock: FakeClock | None = None,
        *,
        patient: bool = False,
        affords: bool = True,
    ) -> None:
        self.seen: list[RetryDetails] = []
        self.asked: list[int] = []
        self.answer: Answer | None = None
        self.error: CallError | CancelledAfterSending | None = None
        self.clock = clock or FakeClock()

        async def afford(_: Request, uncertain: int) -> bool:
            self.asked.append(uncertain)
            return affords

        guard = Retry(inner, policy, deadline, self.clock, self.seen.append, afford, patient)
        try:
            self.answer = self.clock.run(guard(request(), None))
        except (CallError, CancelledAfterSending) as error:
            self.error = error

    @property
    def attempts(self) -> int:
        """The attempts that the answer or the error carries."""
        end = self.answer or self.error
        assert end is not None
        return end.attempts


def test_a_passing_failure_is_survived_and_counted() -> None:
    """Two failures and then an answer: the answer says three attempts, each repetition is told."""
    tried = Tried(Scripted(ServerFailed("boom"), Overloaded("busy"), response()))
    assert tried.answer is not None
    assert tried.attempts == 3
    assert [details.attempt for details in tried.seen] == [1, 2]


@pytest.mark.parametrize(
    ("error", "calls", "uncertain"),
    [
        (ServerFailed("boom"), 4, 0),  # as often as the policy says
        (AuthFailed("no"), 1, 0),  # what the codec calls terminal
        (QuotaExhausted("no"), 1, 0),
        (Interrupted(ServerFailed("x")), 1, 1),  # a stream that was seen to break
        (CallTimeout("late"), 2, 2),  # what may have been billed has a smaller allowance
    ],
)
def test_the_last_error_is_raised_with_its_attempts(
    error: CallError, calls: int, uncertain: int
) -> None:
    """The error itself, not the retry library's."""
    inner = Scripted(error)
    tried = Tried(inner)
    assert tried.error is error
    assert (len(inner.calls), error.attempts, error.uncertain) == (calls, calls, uncertain)


def test_the_providers_wait_is_the_least() -> None:
    """A retry never comes before the time the provider named."""
    tried = Tried(Scripted(RateLimited("slow", retry_after=17), response()))
    assert tried.clock.now - 1000 >= 17


def test_pauses_grow_and_are_bounded() -> None:
    """The n-th pause lies in [0, min(2^(n-1), max_wait)): full jitter."""
    policy = RetryPolicy(attempts=9, max_wait=8)
    seen = [d for _ in range(20) for d in Tried(Scripted(ServerFailed("x")), policy).seen]
    for details in seen:
        assert 0 <= details.wait <= min(2 ** (details.attempt - 1), 8)
    assert len({round(details.wait, 6) for details in seen}) > len(seen) // 2


def test_a_cancelled_call_remembers_what_may_have_been_billed() -> None:
    """Cancelling after an uncertain attempt reports both that one and the one in flight."""
    error = Tried(Scripted(CallTimeout("late"), CancelledAfterSending())).error
    assert isinstance(error, CancelledAfterSending)
    assert (error.attempts, error.uncertain) == (2, 2)


def test_a_call_cancelled_in_a_pause_remembers_its_attempts() -> None:
    """A117: a rate limit that was met before is counted; an attempt that was not sent is none."""
    error = Tried(Scripted(RateLimited("slow"), asyncio.CancelledError())).error
    assert isinstance(error, CancelledAfterSending)
    assert (error.attempts, error.uncertain, error.limited) == (1, 0, 1)


def test_in_a_batch_being_told_to_come_back_is_not_held_against_a_row() -> None:
    """Nine 429s are survived by a row that may be tried four times; the attempts are counted."""
    inner = Scripted(*[RateLimited("slow", retry_after=1)] * 9, response())
    assert Tried(inner, patient=True).attempts == 10


def test_a_failure_of_the_whole_provider_is_not_held_against_a_row() -> None:
    """What the breaker has excused is repeated for as long as it takes."""
    down = ServerFailed("boom")
    down.excused = True
    assert Tried(Scripted(*[down] * 30, response()), deadline=0, patient=True).attempts == 31


def test_even_a_batch_ends_its_patience() -> None:
    """After the deadline no further attempt begins, however friendly the refusals are."""
    inner = Scripted(RateLimited("slow", retry_after=30))
    tried = Tried(inner, deadline=300, patient=True)
    assert isinstance(tried.error, RateLimited)
    assert 9 <= len(inner.calls) <= 11
    assert tried.clock.now - 1000 <= 300


def test_no_attempt_begins_after_the_deadline() -> None:
    """A row whose attempts take long is not tried again when its time is up."""
    clock = FakeClock()

    async def slow(_: Request, __: object) -> Answer:
        await clock.sleep(100)
        raise ServerFailed("boom")

    assert Tried(slow, RetryPolicy(attempts=50), 250, clock).attempts == 3


def test_another_attempt_that_may_be_billed_must_be_affordable() -> None:
    """After an ambiguous failure the guard asks whether a second bill is covered; no: it ends."""
    inner = Scripted(CallTimeout("late"), response())
    tried = Tried(inner, affords=False)
    assert isinstance(tried.error, CallTimeout)
    assert (tried.asked, len(inner.calls)) == ([1], 1)


def test_nobody_is_told_of_a_try_that_the_breaker_would_refuse() -> None:
    """The failure that opens the breaker is the last: its own error ends the call, without a pause
    or a word of trying again; a breaker that closes sooner is waited for."""
    for open_for, seen in ((60, 1), (0.0, 3)):
        clock = FakeClock()
        policy = BreakerPolicy(failures=2, open_for=open_for)
        health = ProviderHealth(policy, clock, "test", patient=False)
        failures = [ServerFailed(f"boom {n}") for n in range(4)]
        tried = Tried(circuit_breaker(Scripted(*failures), health), clock=clock)
        assert (tried.error, len(tried.seen)) == (failures[seen], seen)
