"""A profile's way to its provider, open: its lane, its breaker, its connections and its key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import Folders, Profile
from llmctl.connecting import connect, open_address
from llmctl.errors import ContextTooLong
from llmctl.guards.breaker import Gate
from llmctl.guards.circuit import Circuit
from llmctl.guards.lane import Lane
from llmctl.guards.minute import Share
from llmctl.guards.retry import Endurance
from llmctl.keys.live import LiveKey
from llmctl.providers.endpoint import Endpoint
from llmctl.shutdown import Stop
from llmctl.tokens import Counter, max_output
from llmctl.truncate import cut
from llmctl.types import Request


class Route(Struct):
    """One profile's way. `cuts` counts the prompts that were cut to fit the model's window."""

    profile: Profile
    lane: Lane
    gate: Gate
    endpoint: Endpoint
    base_url: Callable[[], Awaitable[str]]
    key: LiveKey | None
    counter: Counter
    cuts: int = 0

    @property
    def longest(self) -> float:
        """The longest a call with these settings takes, in seconds, rate limits of our own
        aside."""
        profile = self.profile
        return profile.retry.attempts * (profile.timeout.total + profile.retry.max_wait)

    def endurance(self, *, patient: bool) -> Endurance:
        """How long a call is tried."""
        return Endurance(self.profile.retry, self.longest, patient=patient)

    async def admit(
        self, request: Request, fits: Callable[[Request], bool] = lambda _: False
    ) -> Request:
        """The request as it may be sent: its provider is not down, its server is up, and it fits
        the model's window, cut if the profile wants that. It is not asked of what is known to be
        one that `fits`.

        Raises `ProviderDown`, `SetupError` or `ContextTooLong`.
        """
        self.gate.check()
        window = None if fits(request) else self.counter.window_to_check(request)
        if window is not None:
            counted = await self.counter.count_async(request)
            try:
                self.counter.check_fits(request, counted, window)
            except ContextTooLong:
                if self.profile.on_overflow != "truncate":
                    raise
                request = await self._cut(request, window)
        await self.base_url()
        return request

    async def _cut(self, request: Request, window: int) -> Request:
        room = window - (max_output(request) or 0)
        shorter = await asyncio.to_thread(
            cut, request, room, lambda one: self.counter.count(one).tokens
        )
        if shorter is None:
            raise ContextTooLong(
                f"the prompt cannot be cut to fit the {window} tokens of {request.target.model} "
                "(`on_overflow: truncate`): only the text of the last turn and earlier turns are "
                "cut; shorten it, or lower max_tokens",
                sent=False,
            )
        self.cuts += 1
        return shorter

    def tokens(self, request: Request) -> int:
        """What the request will use at the most, as an estimate for the lane."""
        return self.counter.count(request).tokens + (max_output(request) or 0)


async def open_route(
    profile: Profile,
    folders: Folders,
    environ: Mapping[str, str],
    clock: Clock,
    stack: AsyncExitStack,
    counter: Counter,
    *,
    share: Share | None,
    patient: bool,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    ask: Callable[[str], str] | None,
    stop: Stop,
) -> Route:
    """Open it; `stack` closes it. `share` shares the lane's limits with other processes,
    `patient` makes calls wait for a provider that is down, but not past `stop`. Nothing is sent, no
    server is started.

    Raises `NoKeyError` and `SetupError`.
    """
    base_url, auth, key = await open_address(
        profile, folders, environ, clock, stack, say, warn, ask
    )
    lane = Lane(profile.limits, clock, share, warn, stop)
    gate = Gate(Circuit(profile.breaker), stop.clock(clock), profile.name, patient=patient)
    return Route(
        profile=profile,
        lane=lane,
        gate=gate,
        endpoint=connect(profile, base_url, auth, counter, clock, stack, lane.heard, many=patient),
        base_url=base_url,
        key=key,
        counter=counter,
    )
