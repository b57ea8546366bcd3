"""One provider's lane: requests and tokens a minute, calls at a time, and the pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.clock import Clock
from llmctl.config.settings import Limits
from llmctl.errors import LlmctlError
from llmctl.guards.minute import Minute, Own, Share, Shared
from llmctl.guards.told import Told
from llmctl.guards.window import Window
from llmctl.protocols import NO_RATE_HEADERS, RateHeaders
from llmctl.shutdown import Stop

_PAUSE_WITHOUT_WORD = 1.0
"""Seconds the lane pauses after a 429 that names no wait."""


class Lane:
    """Everyone who calls one provider goes through here, first come, first served.

    `share` makes changes to what other processes on this machine know of the same lane; without
    it, or when it fails (which is told to `warn`), the limits are those of this process alone.
    Nobody gets through once `stop` was asked for.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        share: Share | None = None,
        warn: Callable[[str], None] = lambda _: None,
        stop: Stop | None = None,
    ) -> None:
        self._limits = limits
        self._stop = stop or Stop()
        self._clock = self._stop.clock(clock)
        self._warn = warn
        self._minute: Minute | None = None
        if limits.rpm or limits.tpm:
            self._minute = Own(limits) if share is None else Shared(limits, share, clock)
        self._window = Window(limits.concurrency)
        self._requests, self._tokens = Told(), Told()
        self._paused_until = 0.0
        self._waiting_until = 0.0
        self._in_flight = 0
        self._tokens_in_flight = 0
        self._gate = asyncio.Lock()
        self._room = asyncio.Event()

    @property
    def counts_tokens(self) -> bool:
        """True when calls must say how many tokens they will use."""
        return self._limits.tpm is not None or self._tokens.speaks

    async def enter(self, tokens: int) -> int:
        """Return when a request of `tokens` may be sent; what is returned is given to `refused`.

        Whoever has entered says `leave`. Raises the run's own error once it is to end.
        """
        self._stop.check()
        if not self._gate.locked() and self._has_room() and self._wait(tokens) == 0:
            return self._take(tokens)
        async with self._gate:
            while True:
                self._stop.check()
                if not self._has_room():
                    self._room.clear()
                    await self._room.wait()
                    continue
                wait = self._wait(tokens)
                if wait is None:
                    wait = await self._fetch(tokens)
                    if not wait:
                        continue  # there is leave, but a pause may have come meanwhile
                if not wait:
                    return self._take(tokens)
                self._waiting_until = self._clock.monotonic() + wait
                await self._clock.sleep(wait)

    def leave(self, *, estimated: int, really: int) -> None:
        """A call has ended that used `really` tokens where `estimated` were taken."""
        self._in_flight -= 1
        self._tokens_in_flight -= estimated
        self._room.set()
        if self._minute is not None and estimated != really:
            self._minute.correct(estimated - really, self._clock.monotonic())

    def answered(self) -> None:
        """A call was served."""
        self._window.answered()

    def refused(self, era: int, retry_after: float | None) -> None:
        """The provider would not serve a call: peace for `retry_after` seconds, for all."""
        self._window.refused(era, told_when=retry_after is not None)
        self.pause(_PAUSE_WITHOUT_WORD if retry_after is None else retry_after)

    def shrink(self, era: int) -> None:
        """The provider has too much to do: fewer at a time."""
        self._window.refused(era, told_when=False)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def heard(self, said: RateHeaders) -> None:
        """What a reply's headers say of the provider's own limits."""
        if said is NO_RATE_HEADERS or said == NO_RATE_HEADERS:
            return
        now, others = self._clock.monotonic(), max(0, self._in_flight - 1)
        self._requests.heard(
            said.remaining_requests,
            said.limit_requests,
            said.reset_requests,
            on_the_way=others,
            now=now,
        )
        mine = self._tokens_in_flight / max(1, self._in_flight)
        self._tokens.heard(
            said.remaining_tokens,
            said.limit_tokens,
            said.reset_tokens,
            on_the_way=mine * others,
            now=now,
        )

    def waits(self) -> float:
        """Seconds the lane will still wait; 0 when it does not."""
        return max(0.0, self._waiting_until - self._clock.monotonic())

    def _has_room(self) -> bool:
        return self._in_flight + 1 <= self._window.size

    def _wait(self, tokens: int) -> float | None:
        now = self._clock.monotonic()
        wait = max(
            0.0,
            self._paused_until - now,
            self._requests.wait(1, now),
            self._tokens.wait(tokens, now),
        )
        if self._minute is None:
            return wait
        asked = self._minute.wait(tokens, now)
        # While it must wait anyway, it takes nothing from the others.
        return max(wait, asked) if asked is not None else wait or None

    async def _fetch(self, tokens: int) -> float:
        assert self._minute is not None
        try:
            return await self._minute.fetch(tokens, self._paused_until)
        except LlmctlError as error:
            self._warn(f"the rate limits are not shared with other processes: {error.message}")
            self._minute = Own(self._limits)
            return 0.0

    def _take(self, tokens: int) -> int:
        if self._minute is not None:
            self._minute.take(tokens, self._clock.monotonic())
        self._requests.take(1)
        self._tokens.take(tokens)
        self._in_flight += 1
        self._tokens_in_flight += tokens
        return self._window.era
