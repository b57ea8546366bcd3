"""Trying again: the only retry layer of the program, on tenacity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from llmctl.cancellation import CancelledAfterSending
from llmctl.clock import Clock
from llmctl.errors import CallError
from llmctl.protocols import Emit, Handler
from llmctl.settings import RetryPolicy
from llmctl.types import Request, Response

FIRST_WAIT = 1.0
"""Seconds: the first pause is drawn from [0, 1), the next from [0, 2), … ("full jitter",
AWS Architecture Blog, "Exponential Backoff And Jitter")."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failed attempt that will be repeated after `wait` seconds."""

    request: Request
    error: CallError
    attempt: int
    wait: float


class Retry:
    """Repeats what the codec called retryable.

    A failure after which the provider may have billed (`ambiguous`) is repeated at most
    `ambiguous_attempts` times. `told` hears of every repetition. The last error, or the
    answer, carries `attempts` and `uncertain`.
    """

    def __init__(
        self,
        inner: Handler,
        policy: RetryPolicy,
        clock: Clock,
        told: Callable[[Trouble], None],
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._clock = clock
        self._told = told
        self._backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=policy.max_wait)

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The answer of the first attempt that has one."""
        attempts = uncertain = 0

        async def once() -> Response:
            nonlocal attempts, uncertain
            attempts += 1
            try:
                return await self._inner(request, emit)
            except CallError as error:
                attempts -= not error.sent
                uncertain += error.ambiguous
                error.attempts, error.uncertain = attempts, uncertain
                raise
            except CancelledAfterSending as stop:
                stop.attempts, stop.uncertain = attempts, uncertain + 1
                raise

        def again(error: BaseException) -> bool:
            return (
                isinstance(error, CallError)
                and error.retryable
                and attempts < self._policy.attempts
                and not (error.ambiguous and uncertain > self._policy.ambiguous_attempts)
            )

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, CallError):
                self._told(Trouble(request, error, attempts, state.upcoming_sleep))

        retrying = AsyncRetrying(
            retry=retry_if_exception(again),
            wait=self._wait,
            sleep=self._clock.sleep,
            before_sleep=tell,
            reraise=True,
        )
        response: Response = await retrying(once)
        return replace(response, attempts=attempts, uncertain=uncertain)

    def _wait(self, state: RetryCallState) -> float:
        """The backoff, and not less than the provider asked for."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, CallError) else None
        return max(self._backoff(state), asked or 0.0)
