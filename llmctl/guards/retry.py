"""Trying again: the only retry layer of the program, on tenacity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import RetryPolicy
from llmctl.errors import CallError, Cancelled, RateLimited
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.wait import wait_base

FIRST_WAIT = 1.0
"""Seconds: the first pause is drawn from [0, 1), the next from [0, 2), … ("full jitter",
AWS Architecture Blog, "Exponential Backoff And Jitter")."""


class Trouble(Struct, frozen=True):
    """A failed attempt that will be repeated after `wait` seconds."""

    request: Request
    error: CallError
    attempt: int
    wait: float


class Endurance(Struct, frozen=True):
    """How long a call is tried. `deadline`: no attempt begins later than so many seconds after
    the first. `patient`: being told to come back later, and what the whole provider suffers
    from, is not held against the call: a batch waits where a person would not."""

    policy: RetryPolicy
    deadline: float
    patient: bool = False


class Retry:
    """Repeats what the codec called retryable.

    A failure after which the provider may have billed (`ambiguous`) is repeated at most
    `ambiguous_attempts` times, and only when `afford` allows for another such bill. `told` hears
    of every repetition. The last error, or the answer, carries `attempts` and `uncertain`.
    """

    def __init__(
        self,
        inner: Handler,
        endurance: Endurance,
        clock: Clock,
        told: Callable[[Trouble], None],
        afford: Callable[[Request, int], Awaitable[bool]] | None = None,
    ) -> None:
        self.inner = inner
        self.endurance = endurance
        self.clock = clock
        self.told = told
        self.afford = afford

    @cached_property
    def backoff(self) -> wait_base:
        """What draws the pauses."""
        from tenacity import wait_random_exponential

        longest = self.endurance.policy.max_wait
        return wait_random_exponential(multiplier=FIRST_WAIT, max=longest)

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The answer of the first attempt that has one."""
        trial = _Trial(self, request, emit)
        try:
            return await trial.attempt()  # nearly all calls end here: retrying has its price
        except CallError as error:
            if not _is_worth_it(error):
                raise
            trial.first = error
        from tenacity import AsyncRetrying  # slow to load, and most commands repeat nothing

        retrying = AsyncRetrying(
            retry=trial.again,
            wait=trial.pause,
            sleep=self.clock.sleep,
            before_sleep=trial.tell,
            reraise=True,
        )
        try:
            response: Answer = await retrying(trial.attempt)
        except CallError as error:  # perhaps of the pause: the run is to end
            trial.sign(error)
            raise
        except CancelledAfterSending:
            raise
        except asyncio.CancelledError as stop:  # in a pause, or before another attempt was sent
            if not trial.uncertain:
                raise
            raise CancelledAfterSending(
                attempts=trial.attempts, uncertain=trial.uncertain
            ) from stop
        return replace(response, attempts=trial.attempts, uncertain=trial.uncertain)

    def excuses(self, error: CallError) -> bool:
        """Whether the failure is not held against the call."""
        return self.endurance.patient and (error.excused or isinstance(error, RateLimited))

    def left(self, error: CallError, started: float) -> float:
        """Seconds until it is too late for another attempt. While the provider is down for all
        there is no late."""
        if self.endurance.patient and error.excused:
            return float("inf")
        return started + self.endurance.deadline - self.clock.monotonic()


class _Trial:
    """One call and what its attempts have come to: how many, how many may have been billed, and
    how many count `against` it. `first` is a first attempt that was made already."""

    def __init__(self, guard: Retry, request: Request, emit: Emit | None) -> None:
        self._guard = guard
        self._request = request
        self._emit = emit
        self._started = guard.clock.monotonic()
        self.attempts = self.uncertain = self.against = 0
        self.first: CallError | None = None

    async def attempt(self) -> Answer:
        """Make one, or raise the first one's error."""
        if self.first is not None:
            known, self.first = self.first, None
            raise known
        self.attempts += 1
        try:
            return await self._guard.inner(self._request, self._emit)
        except CallError as error:
            self.attempts -= not error.sent
            self.uncertain += error.ambiguous
            self.against += not self._guard.excuses(error)
            self.sign(error)
            raise
        except CancelledAfterSending as stop:
            stop.attempts, stop.uncertain = self.attempts, self.uncertain + 1
            raise

    def sign(self, error: CallError) -> None:
        """Write on the error what the attempts have come to."""
        error.attempts, error.uncertain, error.held = self.attempts, self.uncertain, True

    async def again(self, state: RetryCallState) -> bool:
        """Whether there is to be another attempt."""
        error, policy = _failure(state), self._guard.endurance.policy
        if error is None or not _is_worth_it(error):
            return False
        if error.ambiguous and self.uncertain > policy.ambiguous_attempts:
            return False
        if self.against >= policy.attempts:
            return False
        if (error.retry_after or 0.0) > self._guard.left(error, self._started):
            return False
        if not error.ambiguous or self._guard.afford is None:
            return True
        return await self._guard.afford(self._request, self.uncertain)

    def pause(self, state: RetryCallState) -> float:
        """The backoff, but not beyond the deadline, and not less than the provider asked for."""
        error = _failure(state)
        assert error is not None
        left = self._guard.left(error, self._started)
        return max(min(self._guard.backoff(state), left), error.retry_after or 0.0)

    def tell(self, state: RetryCallState) -> None:
        """There will be another attempt."""
        error = _failure(state)
        if error is not None:
            self._guard.told(Trouble(self._request, error, self.attempts, state.upcoming_sleep))


def _is_worth_it(error: CallError) -> bool:
    """Whether another attempt may end better."""
    return error.retryable and not isinstance(error, Cancelled)


def _failure(state: RetryCallState) -> CallError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, CallError) else None
