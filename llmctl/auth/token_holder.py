"""A short-lived token that is fetched once for all calls under way, and anew before it expires."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.errors import CallError
from llmctl.redact import forget, remember

EARLY = 300.0
"""Seconds before its end at which a token is fetched anew, as azure-core does (google-auth: 225).
Of a token that lives for less than twice as long, half its life."""

AGAIN = 30.0
"""Seconds between two attempts to renew a token that still holds; and after its fetch, for which a
refused token is not fetched again: the refusal is of what it may do, not of its age."""


class Token(Struct, frozen=True):
    """A token and its end, in seconds since the epoch."""

    value: str
    expires: float

    def __repr__(self) -> str:
        return f"Token([key], expires={self.expires})"


class TokenHolder:
    """The `KeyHolder` of a token that `fetch` gets, `early` seconds before the last one ends;
    `source` names who gives it, for people.

    However many calls are under way, one fetch serves them all, and ends whoever of them is
    cancelled. While a token still holds, a fetch that fails is no failure of the call: it goes on
    with what is known.
    """

    may_change = True

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        clock: Clock,
        source: str,
        early: float = EARLY,
    ) -> None:
        self._fetch, self._clock, self._early = fetch, clock, early
        self.source = source
        self._token: Token | None = None
        self._last: Token | None = None  # the one before; calls under way may still carry it
        self._due = 0.0  # wall time at which it is fetched anew
        self._fetched = 0.0
        self._fetching: asyncio.Task[CallError | None] | None = None

    @property
    def value(self) -> str | None:
        """The token now; None before the first request."""
        return self._token.value if self._token else None

    async def current(self) -> str:
        """The token, fetched where there is none that holds. Raises what `fetch` raises."""
        now = self._clock.wall()
        if (held := self._held(now)) is None or (now >= self._due and not self._busy):
            error = await self._renewed()
            if error is not None and held is None:
                raise error.unbilled() from error
            assert self._token is not None
            held = self._token.value
        return held

    async def refused(self, value: str | None) -> bool:
        """The provider refused this token (None: the one that the call waited for): whether there
        is a newer one to use now."""
        known = self.value
        if value is None or value == known:
            if self._clock.wall() < self._fetched + AGAIN or await self._renewed() is not None:
                return False
            return self.value != known
        return known is not None

    def _held(self, now: float) -> str | None:
        """The token, if it has not ended."""
        return self._token.value if self._token and now < self._token.expires else None

    @property
    def _busy(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    async def _renewed(self) -> CallError | None:
        """Wait for the fetch under way, or for a new one; the error that it failed with."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._renew())
        return await asyncio.shield(self._fetching)

    async def _renew(self) -> CallError | None:
        """Fetch a token; where that fails, the old one is kept, and not renewed for a while."""
        now = self._clock.wall()
        try:
            token = await self._fetch()
        except CallError as error:
            self._due = now + AGAIN
            return error
        remember(token.value)
        if self._last is not None and self._last.value != token.value:
            forget(self._last.value)
        self._last, self._token, self._fetched = self._token, token, now
        self._due = token.expires - min(self._early, max(0.0, token.expires - now) / 2)
        return None
