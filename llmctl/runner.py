"""Settings → live objects: opens everything a call needs, puts the chain together, closes it."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl import pricing
from llmctl.behind import Behind
from llmctl.clock import Clock
from llmctl.config.settings import Folders, Profile
from llmctl.connecting import estimate
from llmctl.errors import CallError, NoKeyError, SetupError
from llmctl.guards.accounting import Accounts, Observe
from llmctl.guards.breaker import Breaker
from llmctl.guards.cache import Cache
from llmctl.guards.context_window import Tokens
from llmctl.guards.fallback import Alternative, Failed, Fallback
from llmctl.guards.hold import Advance, Holding
from llmctl.guards.key_failover import Rekey
from llmctl.guards.lane import Lane
from llmctl.guards.limiter import Limiter
from llmctl.guards.minute import Share
from llmctl.guards.pipeline import Guards, chain
from llmctl.guards.purse import Purse
from llmctl.guards.retry import Retry, Trouble
from llmctl.guards.schema import Fitting
from llmctl.guards.sending import Sending
from llmctl.ids import ulid
from llmctl.inflight import InFlight
from llmctl.pricing import Prices, terms_of
from llmctl.protocols import CacheStore, Chain, Handler, LedgerStore, Observer, TokenCount
from llmctl.providers.endpoint import Endpoint
from llmctl.request import retarget
from llmctl.routes import Route, open_route
from llmctl.shutdown import Stop
from llmctl.tokens import Counter, max_output
from llmctl.types import Request, Usage

if TYPE_CHECKING:
    from llmctl.storage.rate_limits import Minutes


class Live(Struct, frozen=True):
    """The open objects of one run of the program. `routes`: the way of the profile in use, then
    those of its fallbacks. `patient`: calls wait for a provider rather than fail (a batch).
    `behind`: what calls leave to be written."""

    routes: tuple[Route, ...]
    clock: Clock
    run_id: str
    counter: Counter
    prices: Prices
    ledger: LedgerStore
    purse: Purse
    cache: CacheStore
    warn: Callable[[str], None]
    patient: bool = False
    stop: Stop = field(default_factory=Stop)
    behind: Behind = field(default_factory=Behind)

    @property
    def profile(self) -> Profile:
        """The profile in use."""
        return self.routes[0].profile

    @property
    def lane(self) -> Lane:
        """The lane of the profile in use."""
        return self.routes[0].lane

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of the profile in use."""
        return self.routes[0].endpoint

    def call_id(self) -> str:
        """A new call's id."""
        return ulid(self.clock)

    def stamp(self, request: Request) -> Request:
        """The request with a call id of its own."""
        return replace(request, call_id=ulid(self.clock))

    def handler(
        self,
        observers: Sequence[Observer],
        *,
        exact: bool,
        told: Callable[[Trouble], None],
        switched: Callable[[CallError, str], None] = lambda _, __: None,
        in_flight: InFlight | None = None,
    ) -> Chain:
        """The whole chain. Each call's outcome goes to `observers` in their order; `told` hears of
        attempts that are repeated, `switched` why which profile is asked instead. Rows take a
        place `in_flight` before they are sent.

        `exact` counts every prompt with its vocabulary; otherwise that is done only where
        something depends on it, because loading a vocabulary takes longer than most prompts
        are worth.
        """
        accounts = Accounts(self.price, partial(estimate, self.counter))

        async def handed_over(failed: Failed) -> None:
            await self.purse.settle(
                accounts.outcome(
                    failed.request, failed.error, started=failed.started, elapsed=failed.elapsed
                )
            )
            if in_flight is not None:
                # It may have to wait for the budget, for what those hold who wait for its place.
                in_flight.leave()

        def fallback(first: Handler, others: Sequence[Handler]) -> Fallback:
            ways = zip(self.routes[1:], others, strict=True)
            return Fallback(
                first,
                [self._alternative(route, handler) for route, handler in ways],
                self.stop.clock(self.clock),
                handed_over,
                switched,
                overflow=self.profile.on_overflow == "fallback",
                patient=self.patient,
            )

        targets = [
            (route.endpoint, self._guards(route, in_flight, exact=exact, told=told))
            for route in self.routes
        ]
        early = Advance(self.purse, self._worst_at_once) if len(self.routes) == 1 else None
        return chain(
            targets,
            fallback,
            lambda inner, kept: Observe(
                inner,
                observers,
                self.clock,
                accounts,
                self.behind,
                kept,
                lambda _: None,
                early,
            ),
        )

    def waits(self) -> str | None:
        """What the run is waiting for, such as `rate limit, 12 s`; None when it goes on."""
        down = [wait for route in self.routes if (wait := route.gate.waits()) is not None]
        if down:
            return f"the provider is down, next look in {min(down):.0f} s"
        if self.purse.waiting:
            return "what calls under way leave of the budget"
        wait = min(route.lane.waits() for route in self.routes)
        return f"rate limit, {wait:.0f} s" if wait >= 1 else None

    def _alternative(self, route: Route, handler: Handler) -> Alternative:
        def readdressed(request: Request) -> Request:
            return retarget(request, route.profile, self.call_id())

        return Alternative(route.profile.name, readdressed, route.admit, handler)

    def _guards(
        self,
        route: Route,
        in_flight: InFlight | None,
        *,
        exact: bool,
        told: Callable[[Trouble], None],
    ) -> Guards:
        profile, key, waiting = route.profile, route.key, self.stop.clock(self.clock)
        worst = self.worst if exact or route.lane.counts_tokens else self._bound
        return Guards(
            cache=lambda inner: Cache(
                inner,
                self.cache,
                self.clock,
                self.warn,
                self.behind,
                profile.cache.ttl,
                route.longest,
                waiting,
            ),
            fitting=Fitting,
            tokens=lambda inner: Tokens(inner, partial(route.admit, fits=self.purse.is_early)),
            hold=lambda inner: Holding(inner, self.purse, worst, self.worst),
            sending=None if in_flight is None else lambda inner: Sending(inner, in_flight),
            rekey=None if key is None else lambda inner: Rekey(inner, key),
            retry=lambda inner: Retry(
                inner, route.endurance(patient=self.patient), waiting, told, self.purse.again
            ),
            breaker=lambda inner: Breaker(inner, route.gate),
            limiter=lambda inner: Limiter(inner, route.lane, route.tokens),
        )

    def _profile_of(self, request: Request) -> Profile:
        name = request.target.profile
        for route in self.routes:
            if route.profile.name == name:
                return route.profile
        return self.profile

    def price(self, request: Request, usage: Usage, reported: Decimal | None) -> Decimal | None:
        """What the usage costs now; the provider's own figure wins."""
        return reported if reported is not None else self._priced(request, usage)

    def _priced(self, request: Request, usage: Usage) -> Decimal | None:
        own = self._profile_of(request).price
        return self.prices.price(request.target, own, usage, self.clock.wall(), terms_of(request))

    async def _bound(self, request: Request) -> tuple[Usage, Decimal | None]:
        most, output = self.counter.upper_bound(request), max_output(request)
        own, cost = self._profile_of(request).price, None
        if own is not None:  # a published one takes 0.2 s to look up, before anything is sent
            cost = self.prices.worst_case(request.target, own, most, output, self.clock.wall())
        return Usage(input=most, output=output or 0, estimated=True), cost

    async def worst(
        self, request: Request, counted: TokenCount | None = None
    ) -> tuple[Usage, Decimal | None]:
        """The most the request can use and cost: its input as counted, and all of the output
        that it, or else the model's window, leaves room for."""
        return self._worst(request, counted or await self.counter.count_async(request))

    def _worst_at_once(self, _: Request) -> tuple[Usage, Decimal | None] | None:
        return None

    def _worst(self, request: Request, counted: TokenCount) -> tuple[Usage, Decimal | None]:
        output = self.counter.output_bound(request, counted)
        cost = self.prices.worst_case(
            request.target,
            self._profile_of(request).price,
            counted.tokens,
            output,
            self.clock.wall(),
            terms_of(request),
        )
        return Usage(counted.tokens, output or 0, estimated=not counted.exact), cost


@asynccontextmanager
async def open_runner(
    profile: Profile,
    folders: Folders,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    ask: Callable[[str], str] | None = None,
    cache_size: int | None = None,
    fallbacks: Sequence[Profile] = (),
    patient: bool = False,
    stop: Stop | None = None,
) -> AsyncIterator[Live]:
    """Everything a call needs, open. Nothing has been sent, and no server started, yet.

    `cache_size` is what the cache of answers may grow to, in bytes.
    `ask` gets a hidden answer from a person (the password of an encrypted keyring file), None
    where nobody can be asked. Nothing that waits is sent once `stop` was asked for. A fallback
    that cannot be opened is left out, with a warning.
    Raises `NoKeyError`, `SetupError` and `DiskError`: what is missing shows before the first
    paid call.
    """
    from llmctl.storage.inbox import GATHER_HOLDS
    from llmctl.storage.ledger import open_ledger
    from llmctl.storage.rate_limits import Minutes

    stop = stop or Stop()

    async with AsyncExitStack() as stack:
        prices = Prices(partial(pricing.load, folders.state, warn))
        counter = Counter(prices.window)
        minutes = Minutes(folders.state / "limits.db", clock)
        stack.callback(minutes.close)

        async def route(one: Profile) -> Route:
            return await open_route(
                one,
                folders,
                environ,
                clock,
                stack,
                counter,
                share=_share(minutes, one),
                patient=patient and not fallbacks,
                say=say,
                warn=warn,
                ask=ask,
                stop=stop,
            )

        routes = [await route(profile)]
        for other in fallbacks:
            try:
                routes.append(await route(other))
            except (NoKeyError, SetupError) as error:
                warn(f"the fallback {other.name} is left out: {error.message}")
        run_id = ulid(clock)
        gather = GATHER_HOLDS if patient else 0.0
        ledger = open_ledger(folders.state / "ledger.db", run_id, user_name(), gather)
        stack.callback(ledger.close)
        purse = Purse(ledger, clock, warn)
        cache = _cache(profile, folders, clock, stack, warn, cache_size)
        stack.callback(_tell_cuts, routes, warn)
        yield Live(
            routes=tuple(routes),
            clock=clock,
            run_id=run_id,
            counter=counter,
            prices=prices,
            ledger=ledger,
            purse=purse,
            cache=cache,
            behind=Behind(ledger.hurry, cache.hurry),
            warn=warn,
            patient=patient,
            stop=stop,
        )


def _share(minutes: Minutes, profile: Profile) -> Share:
    """A lane is that of a profile at an address: where it leads is what limits it."""
    return partial(minutes.change, f"{profile.name} {profile.base_url}")


def _tell_cuts(routes: Sequence[Route], warn: Callable[[str], None]) -> None:
    cuts = sum(route.cuts for route in routes)
    if cuts:
        what = "prompt was" if cuts == 1 else "prompts were"
        warn(f"{cuts:,} {what} cut to fit the model's window (on_overflow: truncate)")


def _cache(
    profile: Profile,
    folders: Folders,
    clock: Clock,
    stack: AsyncExitStack,
    warn: Callable[[str], None],
    size: int | None,
) -> CacheStore:
    """The cache, closed (and then made small enough) with the stack."""
    from llmctl.storage.limit import SizeLimit
    from llmctl.storage.memory import MemoryCache
    from llmctl.storage.mending import MendingCache

    if not profile.cache.enabled:
        return MemoryCache()
    path = folders.cache / "cache.db"
    if size is None:
        cache = MendingCache(path, warn, clock)
    else:
        limit = SizeLimit(path, size, warn)
        stack.callback(limit.close)
        cache = MendingCache(path, warn, clock, limit.grown)
    stack.callback(cache.close)
    return cache


def user_name() -> str:
    """Who runs the program, for the ledger; `unknown` where nobody knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
