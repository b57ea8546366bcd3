"""Requests and tokens per minute, and the pause a provider asks for: for the whole lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.clock import Clock
from llmctl.errors import CallError, RateLimited
from llmctl.guards.buckets import Bucket
from llmctl.protocols import Emit, Handler
from llmctl.settings import Limits
from llmctl.types import Request, Response

_TOKEN_BURST_SHARE = 1 / 12
"""A bucket of tokens holds five seconds' worth: single requests are large against a minute."""

_PAUSE_WITHOUT_WORD = 1.0
"""Seconds the lane pauses after a 429 that names no wait."""


class Lane:
    """One target's allowance: the buckets, the pause, and what it is waiting for."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._requests = Bucket(limits.rpm) if limits.rpm else None
        self._tokens = (
            Bucket(limits.tpm, max(1.0, limits.tpm * _TOKEN_BURST_SHARE)) if limits.tpm else None
        )
        self._paused_until = 0.0
        self._gate = asyncio.Lock()
        self._waiting_until = 0.0

    @property
    def counts_tokens(self) -> bool:
        """True when calls must say how many tokens they will use."""
        return self._tokens is not None

    async def enter(self, tokens: int) -> None:
        """Return when a request of `tokens` may be sent; first come, first served."""
        if not self._gate.locked() and not self._wait(tokens):
            self._take(tokens)
            return
        async with self._gate:
            while wait := self._wait(tokens):
                self._waiting_until = self._clock.monotonic() + wait
                await self._clock.sleep(wait)
            self._take(tokens)

    def _wait(self, tokens: int) -> float:
        now = self._clock.monotonic()
        wait = self._paused_until - now
        if self._requests:
            wait = max(wait, self._requests.wait(1, now))
        if self._tokens:
            wait = max(wait, self._tokens.wait(tokens, now))
        return max(wait, 0.0)

    def _take(self, tokens: int) -> None:
        now = self._clock.monotonic()
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def used(self, *, estimated: int, really: int) -> None:
        """Correct the tokens held for a call to what it used."""
        if self._tokens:
            self._tokens.correct(estimated - really, self._clock.monotonic())

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def waits(self) -> float:
        """Seconds the lane will still wait; 0 when it does not."""
        return max(0.0, self._waiting_until - self._clock.monotonic())


class Limiter:
    """Takes a permit for every attempt. `tokens` estimates what a request will use in all."""

    def __init__(self, inner: Handler, lane: Lane, tokens: Callable[[Request], int]) -> None:
        self._inner = inner
        self._lane = lane
        self._tokens = tokens

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The inner answer, once the lane lets the attempt through."""
        lane = self._lane
        estimated = self._tokens(request) if lane.counts_tokens else 0
        await lane.enter(estimated)
        try:
            response = await self._inner(request, emit)
        except RateLimited as error:
            lane.used(estimated=estimated, really=0)
            lane.pause(_PAUSE_WITHOUT_WORD if error.retry_after is None else error.retry_after)
            raise
        except CallError as error:
            if error.retry_after is not None and error.retryable:
                lane.pause(error.retry_after)
            raise
        lane.used(estimated=estimated, really=response.usage.input + response.usage.output)
        return response
