"""Retries: the only retry layer of the program, on tenacity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import RetryPolicy
from llmctl.errors import CallError, Cancelled, ProviderDown, RateLimited
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Billed, Request

if TYPE_CHECKING:
    from tenacity import RetryCallState

FIRST_WAIT = 1.0
"""Seconds: the first pause is drawn from [0, 1), the next from [0, 2), … ("full jitter",
AWS Architecture Blog, "Exponential Backoff And Jitter")."""


class RetryDetails(Struct, frozen=True):
    """A failed attempt that will be repeated.

    Attributes:
        request: what was asked.
        error: how the attempt failed.
        attempt: its number; the first is 1.
        wait: seconds until the next attempt.

    """

    request: Request
    error: CallError
    attempt: int
    wait: float


class Retry(Struct, frozen=True):
    """The guard: repeats what the codec called retryable.

    A failure that the provider billed, or may have (`ambiguous`), is repeated at most
    `ambiguous_attempts` times, and only when `can_afford(request, bills)` holds money for another
    such bill. The last error, or the answer, carries `attempts`, `uncertain`,
    `limited` and `earlier`.

    Attributes:
        deadline: no attempt begins later than so many seconds after the first.
        on_retry: gets the details of every repetition.
        patient: rate limits, and failures of the whole provider, do not count as attempts: a
            batch waits where a person would not.

    """

    inner: Handler
    policy: RetryPolicy
    deadline: float
    clock: Clock
    on_retry: Callable[[RetryDetails], None]
    can_afford: Callable[[Request, int], Awaitable[bool]]
    patient: bool = False

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The answer of the first attempt that has one."""
        call = _Call(self, request, emit)
        try:
            try:
                answer = await call.attempt()
            except CallError as error:
                if not _is_retryable(error):
                    raise
                answer = await call.again(error)
        except CallError as error:  # perhaps of the pause: the run is to end
            error.attempts, error.uncertain, error.held = call.made, call.uncertain, True
            error.limited = call.limited
            error.earlier = tuple(call.billed[: -1 if _is_known(error) else None])
            raise
        except CancelledAfterSending:
            raise
        except asyncio.CancelledError as stop:  # in a pause, or before another attempt was sent
            if not call.made:
                raise
            raise CancelledAfterSending(
                attempts=call.made, uncertain=call.uncertain, limited=call.limited,
                earlier=tuple(call.billed),
            ) from stop  # fmt: skip
        earlier = tuple(call.billed)
        return replace(
            answer, attempts=call.made, uncertain=call.uncertain, earlier=earlier,
            limited=call.limited,
        )  # fmt: skip


class _Call:
    """The attempts of one call: how many were `made`, how many of them may have been billed
    (`uncertain`), what was `billed` without an answer, and how many `count` against the policy."""

    def __init__(self, guard: Retry, request: Request, emit: Emit | None) -> None:
        self._guard, self._request, self._emit = guard, request, emit
        self._end = guard.clock.monotonic() + guard.deadline
        self.made = self.uncertain = self.count = self.limited = 0
        self.billed: list[Billed] = []

    async def attempt(self) -> Answer:
        """Make one."""
        self.made += 1
        try:
            return await self._guard.inner(self._request, self._emit)
        except CallError as error:
            excused = error.excused or isinstance(error, RateLimited)
            free = error.kept_ended or (self._guard.patient and excused)
            self.made -= not error.sent
            self.uncertain += error.ambiguous
            self.limited += isinstance(error, RateLimited)
            if _is_known(error):
                self.billed.append((error.usage, error.cost))
            self.count += not free
            raise
        except CancelledAfterSending as stop:
            stop.attempts, stop.uncertain = self.made, self.uncertain + 1
            stop.limited = self.limited
            stop.earlier = tuple(self.billed)
            raise
        except asyncio.CancelledError:  # before it was sent
            self.made -= 1
            raise

    async def again(self, failure: CallError) -> Answer:
        """The answer of a later attempt than the first, which failed. tenacity takes 30 ms to
        import, and most calls need it not."""
        from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

        first: list[CallError] = [failure]
        backoff = wait_random_exponential(FIRST_WAIT, self._guard.policy.max_wait)

        async def attempt() -> Answer:
            if first:
                raise first.pop()
            return await self.attempt()

        def wait(state: RetryCallState) -> float:
            error = _failure(state)
            return max(min(backoff(state), self._left(error)), error.retry_after or 0.0)

        def tell(state: RetryCallState) -> None:
            error, pause = _failure(state), state.upcoming_sleep
            if error.refused_for > pause:  # nobody is told of a try that is none
                return
            self._guard.on_retry(RetryDetails(self._request, error, self.made, pause))

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_retryable),
            stop=self._is_last,  # type: ignore[arg-type]  # tenacity awaits what it gives
            wait=wait,
            sleep=self._guard.clock.sleep,
            before_sleep=tell,
            reraise=True,
        )
        answer: Answer = await retrying(attempt)
        return answer

    async def _is_last(self, state: RetryCallState) -> bool:
        error, policy = _failure(state), self._guard.policy
        if self.count >= policy.attempts or (error.retry_after or 0.0) > self._left(error):
            return True
        # A patient call is refused then, and waits; another one ends with what it met.
        if error.refused_for > state.upcoming_sleep and not self._guard.patient:
            return True
        if not error.ambiguous and error.usage is None:
            return False
        bills = self.uncertain + len(self.billed)
        may_not = bills > policy.ambiguous_attempts
        return may_not or not await self._guard.can_afford(self._request, bills)

    def _left(self, error: CallError) -> float:
        """Seconds until it is too late for another attempt; without end while the provider is
        down for all."""
        endless = self._guard.patient and error.excused
        return float("inf") if endless else self._end - self._guard.clock.monotonic()


def _is_known(error: CallError) -> bool:
    """Whether the error came with its bill. That of an ambiguous one may not be all."""
    return error.usage is not None and not error.ambiguous


def _is_retryable(error: BaseException) -> bool:
    passes = isinstance(error, CallError) and error.retryable
    return passes and not isinstance(error, (Cancelled, ProviderDown))


def _failure(state: RetryCallState) -> CallError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, CallError)
    return error
