"""The requests and tokens of one minute: a process's own, or shared with others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from llmctl.clock import Clock
from llmctl.config.settings import Limits
from llmctl.guards.buckets import Bucket
from llmctl.protocols import LaneChange, LaneState

Share = Callable[[LaneChange], Awaitable[float]]
"""Makes a change while no other process does, and gives what it gives."""

_TOKEN_BURST_SHARE = 1 / 12
"""A bucket of tokens holds five seconds' worth: single requests are large against a minute."""

_LEASE = 0.05 / 60
"""Share of a minute that a process takes at a time, 50 ms: so 30,000 requests a minute take 20
transactions a second, not 500."""

_KEEPS = 1.0
"""Seconds a process keeps what it has taken; then it is given back."""

_AT_ONCE = 4
"""Processes that may hold a lease of the past when a minute begins, without a request too many."""


class Minute(Protocol):
    """An allowance."""

    def wait(self, tokens: float, now: float) -> float | None:
        """Seconds until a request of `tokens` may go, 0 for now; None: `fetch` tells."""
        ...

    async def fetch(self, tokens: float, pause: float) -> float:
        """Get leave from where it is shared; the seconds until it holds, or until the next try.
        `pause`: until when this process was told to send nothing. Raises `LlmctlError`."""
        ...

    def take(self, tokens: float, now: float) -> None:
        """Spend a request of `tokens`."""
        ...

    def correct(self, tokens: float, now: float) -> None:
        """Give tokens back or, negative, take more: the estimate was off by so much."""
        ...


class Own:
    """An allowance of this process alone."""

    def __init__(self, limits: Limits) -> None:
        self._requests = Bucket(limits.rpm) if limits.rpm else None
        self._tokens = _tokens(limits)

    def wait(self, tokens: float, now: float) -> float:
        """As the protocol says; never None."""
        wait = 0.0
        if self._requests:
            wait = self._requests.wait(1, now)
        if self._tokens:
            wait = max(wait, self._tokens.wait(tokens, now))
        return wait

    async def fetch(self, tokens: float, pause: float) -> float:  # noqa: ARG002 - the seam's
        """There is nothing to fetch."""
        return 0.0

    def take(self, tokens: float, now: float) -> None:
        """As the protocol says."""
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def correct(self, tokens: float, now: float) -> None:
        """As the protocol says."""
        if self._tokens:
            self._tokens.correct(tokens, now)


class Shared:
    """An allowance that several processes draw on, a little at a time."""

    def __init__(self, limits: Limits, share: Share, clock: Clock) -> None:
        self._share = share
        self._clock = clock
        self._rpm = limits.rpm
        self._limits = limits
        self._lot = max(1.0, limits.rpm * _LEASE) // 1 if limits.rpm else 0.0
        self._token_lot = limits.tpm * _LEASE if limits.tpm else 0.0
        self._requests_left = 0.0
        self._tokens_left = 0.0
        self._due = self._until = 0.0

    def wait(self, tokens: float, now: float) -> float | None:
        """As the protocol says."""
        if now >= self._until or (self._rpm and self._requests_left < 1):
            return None
        if self._limits.tpm and self._tokens_left < tokens:
            return None
        return max(0.0, self._due - now)

    async def fetch(self, tokens: float, pause: float) -> float:
        """As the protocol says. Who comes while there is nothing left gets what comes next, so
        that a process that wants little is not starved by one that wants much."""
        old = (self._requests_left, self._tokens_left)
        self._requests_left = self._tokens_left = self._until = 0.0
        many = max(tokens, self._token_lot)
        try:
            wait = await self._share(partial(self._draw, many, old, pause))
        except BaseException:
            self._requests_left, self._tokens_left = old
            raise
        if wait >= 0:
            self._requests_left, self._tokens_left = self._lot, many
            self._due = self._clock.monotonic() + wait
            self._until = self._due + _KEEPS
        return abs(wait)

    def take(self, tokens: float, now: float) -> None:  # noqa: ARG002 - the seam's
        """As the protocol says."""
        self._requests_left -= 1
        self._tokens_left -= tokens

    def correct(self, tokens: float, now: float) -> None:  # noqa: ARG002 - the seam's
        """As the protocol says: it is given back, or owed, when the next lot is fetched."""
        self._tokens_left += tokens

    def _draw(
        self, tokens: float, back: tuple[float, float], pause: float, state: LaneState
    ) -> tuple[LaneState, float]:
        """Give `back` requests and tokens, then take a lot and `tokens`: the seconds until they
        may be used. During a pause nothing is taken: what is left of it, as a negative number."""
        now, quiet = self._clock.monotonic(), max(state[2], pause)
        buckets, wait = self._buckets(state), 0.0
        for bucket, left, wanted in zip(buckets, back, (self._lot, tokens), strict=True):
            if bucket is not None:
                bucket.correct(left, now)
                wait = max(wait, bucket.wait(wanted, now))
                if quiet <= now:
                    bucket.take(wanted, now)
        requests, held = (
            old if bucket is None else bucket.full_at
            for bucket, old in zip(buckets, state[:2], strict=True)
        )
        return (requests, held, quiet), now - quiet if quiet > now else wait

    def _buckets(self, state: LaneState) -> tuple[Bucket | None, Bucket | None]:
        requests = None
        if self._rpm:
            spare = _AT_ONCE * self._lot if self._lot > 1 else 0.0
            requests = Bucket(self._rpm, spare=spare, full_at=state[0])
        return requests, _tokens(self._limits, state[1])


def _tokens(limits: Limits, full_at: float = float("-inf")) -> Bucket | None:
    if not limits.tpm:
        return None
    return Bucket(limits.tpm, max(1.0, limits.tpm * _TOKEN_BURST_SHARE), full_at=full_at)
