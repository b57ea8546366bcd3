"""The runner: opens everything a call needs, puts its guards together, and closes it in order."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl import pricing
from llmctl.clock import Clock, ulid
from llmctl.config.settings import Folders, Profile
from llmctl.errors import CallError, NoKeyError, SetupError
from llmctl.guards.accounting import Accounting, CostCalculator, Stopwatch
from llmctl.guards.budget import BudgetGuard, RunBudget
from llmctl.guards.cache import Cache, kept_answers
from llmctl.guards.circuit_breaker import CircuitBreaker
from llmctl.guards.context_window import ContextWindow
from llmctl.guards.fallback import FailedAttempt, Fallback, FallbackTarget
from llmctl.guards.key_failover import KeyFailover
from llmctl.guards.pipeline import TargetGuards, pipeline
from llmctl.guards.rate_limit import RateLimit
from llmctl.guards.retry import Retry, RetryDetails
from llmctl.guards.schema import SchemaValidation
from llmctl.pricing import Prices, terms_of
from llmctl.protocols import AnswerCache, Handler, Observer, TokenCount
from llmctl.providers.endpoint import Endpoint
from llmctl.request import retarget
from llmctl.shutdown import Stop
from llmctl.tokens import Counter, max_output
from llmctl.types import CallRecord, Request, Usage
from llmctl.wiring import Route, Surroundings, estimate, open_route


class Runner(Struct, frozen=True):
    """The open objects of one run of the program.

    Attributes:
        routes: the way of the profile in use, then those of its fallbacks.
        budget: what the run may spend, and the ledger it spends from.
        cache: kept answers.
        patient: calls wait for a provider rather than fail (a batch).
        cache_guards: the cache guards of the handlers made so far.

    """

    routes: tuple[Route, ...]
    clock: Clock
    run_id: str
    counter: Counter
    prices: Prices
    budget: RunBudget
    cache: AnswerCache
    warn: Callable[[str], None]
    patient: bool = False
    stop: Stop = field(default_factory=Stop)
    cache_guards: list[Cache] = field(default_factory=list)

    @property
    def profile(self) -> Profile:
        """The profile in use."""
        return self.routes[0].profile

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
        sink: Observer,
        *,
        exact: bool,
        on_retry: Callable[[RetryDetails], None],
        on_fallback: Callable[[CallError, str], None] = lambda _, __: None,
    ) -> Handler:
        """The whole pipeline. `sink` gets each call's record; `on_retry` hears of attempts that
        are repeated, `on_fallback` why which profile is asked instead.

        `exact` counts every prompt with its vocabulary; otherwise that is done only where
        something depends on it, because loading a vocabulary takes longer than most prompts
        are worth.
        """
        costs = self._costs()

        async def settle_failed(failed: FailedAttempt) -> None:
            await self.budget.settle(costs.record(failed.request, failed.error, failed.watch))

        def fallback(first: Handler, others: Sequence[Handler]) -> Fallback:
            pairs = zip(self.routes[1:], others, strict=True)
            return Fallback(
                first,
                [self._fallback_target(route, handler) for route, handler in pairs],
                self.stop.clock(self.clock),
                settle_failed,
                on_fallback,
                overflow=self.profile.on_overflow == "fallback",
                patient=self.patient,
            )

        return pipeline(
            [self._guards(route, on_retry, exact=exact) for route in self.routes],
            fallback,
            lambda inner: Accounting(inner, sink, self.clock, costs),
        )

    async def kept_records(self, requests: Sequence[Request]) -> list[CallRecord | None]:
        """The records of those requests whose answers are in the cache, in the requests' order;
        None for the others."""
        watch, costs = Stopwatch(self.clock), self._costs()
        ttl = self.profile.cache.ttl
        found = await kept_answers(self.cache, requests, self.clock.wall(), ttl)
        pairs = zip(requests, found, strict=True)
        return [
            None if answer is None else costs.record(request, answer, watch)
            for request, answer in pairs
        ]

    def waits(self) -> str | None:
        """What the run is waiting for, such as `rate limit, 12 s`; None when it goes on."""
        down = [wait for route in self.routes if (wait := route.health.waits()) is not None]
        if down:
            return f"the provider is down, next look in {min(down):.0f} s"
        if self.budget.waiting:
            return "what calls under way leave of the budget"
        wait = min(route.limits.waits() for route in self.routes)
        return f"rate limit, {wait:.0f} s" if wait >= 1 else None

    def price(self, request: Request, usage: Usage, reported: Decimal | None) -> Decimal | None:
        """What the usage costs now; the provider's own figure wins."""
        if reported is not None:
            return reported
        own = self._profile_of(request).price
        return self.prices.price(request.target, own, usage, self.clock.wall(), terms_of(request))

    async def worst(
        self, request: Request, counted: TokenCount | None = None
    ) -> tuple[Usage, Decimal | None]:
        """The most the request can use and cost: its input as counted, and all of the output
        that it, or else the model's window, leaves room for."""
        counted = counted or await self.counter.count_async(request)
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

    async def _bound(self, request: Request) -> tuple[Usage, Decimal | None]:
        """As `worst`, more generous and without a vocabulary."""
        most, output = self.counter.upper_bound(request), max_output(request)
        own, cost = self._profile_of(request).price, None
        if own is not None:  # a published one takes 0.2 s to look up, before anything is sent
            cost = self.prices.worst_case(request.target, own, most, output, self.clock.wall())
        return Usage(input=most, output=output or 0, estimated=True), cost

    def _costs(self) -> CostCalculator:
        return CostCalculator(self.price, partial(estimate, self.counter))

    def _guards(
        self, route: Route, on_retry: Callable[[RetryDetails], None], *, exact: bool
    ) -> TargetGuards:
        profile, key, waiting = route.profile, route.key, self.stop.clock(self.clock)
        bound = self.worst if exact or route.limits.counts_tokens else self._bound
        budget = route.retry_budget(patient=self.patient)

        def cache(inner: Handler) -> Cache:
            ttl, longest = profile.cache.ttl, route.longest
            guard = Cache(inner, self.cache, self.clock, self.warn, ttl, longest, waiting)
            self.cache_guards.append(guard)
            return guard

        return TargetGuards(
            endpoint=route.endpoint,
            rate_limit=lambda inner: RateLimit(inner, route.limits, route.tokens),
            circuit_breaker=lambda inner: CircuitBreaker(inner, route.health),
            retry=lambda inner: Retry(inner, budget, waiting, on_retry, self.budget.can_afford),
            key_failover=None if key is None else lambda inner: KeyFailover(inner, key),
            budget=lambda inner: BudgetGuard(inner, self.budget, bound, self.worst),
            context_window=lambda inner: ContextWindow(inner, route.admit),
            schema=SchemaValidation,
            cache=cache,
        )

    def _fallback_target(self, route: Route, handler: Handler) -> FallbackTarget:
        def retargeted(request: Request) -> Request:
            return retarget(request, route.profile, self.call_id())

        return FallbackTarget(route.profile.name, retargeted, route.admit, handler)

    def _profile_of(self, request: Request) -> Profile:
        name = request.target.profile
        for route in self.routes:
            if route.profile.name == name:
                return route.profile
        return self.profile


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
) -> AsyncIterator[Runner]:
    """Everything a call needs, open. Nothing has been sent, and no server started, yet.

    `cache_size` is what the cache of answers may grow to, in bytes. `ask` gets a hidden answer from
    a person (the password of an encrypted keyring file), None where nobody can be asked. `patient`:
    many calls, which wait for a provider rather than fail. Nothing that waits is sent once `stop`
    was asked for. A fallback that cannot be opened is left out, with a warning.
    Raises `NoKeyError`, `SetupError` and `DiskError`: what is missing shows before the first
    paid call.
    """
    from llmctl.storage.answer_cache import open_cache
    from llmctl.storage.ledger import open_ledger
    from llmctl.storage.rate_limits import RateLimitStore

    stop = stop or Stop()
    around = Surroundings(folders, environ, clock, say, warn, ask)
    async with AsyncExitStack() as stack:
        prices = Prices(partial(pricing.load, folders.state, warn))
        counter = Counter(prices.window)
        shared = RateLimitStore(folders.state / "limits.db", clock)
        stack.callback(shared.close)

        async def route(one: Profile) -> Route:
            return await open_route(
                one,
                around,
                stack,
                counter,
                shared=shared,
                stop=stop,
                patient=patient and not fallbacks,
                many=patient,
            )

        routes = [await route(profile)]
        for other in fallbacks:
            try:
                routes.append(await route(other))
            except (NoKeyError, SetupError) as error:
                warn(f"the fallback {other.name} is left out: {error.message}")
        run_id = ulid(clock)
        ledger = open_ledger(folders.state / "ledger.db", run_id, user_name())
        stack.callback(ledger.close)
        cache = open_cache(
            folders.cache / "cache.db" if profile.cache.enabled else None,
            clock,
            warn,
            size=cache_size,
        )
        stack.callback(cache.close)
        runner = Runner(
            routes=tuple(routes),
            clock=clock,
            run_id=run_id,
            counter=counter,
            prices=prices,
            budget=RunBudget(ledger, clock, warn, run_id, user_name()),
            cache=cache,
            warn=warn,
            patient=patient,
            stop=stop,
        )
        stack.callback(_warn_of_cuts, routes, warn)
        try:
            yield runner
        finally:
            for guard in runner.cache_guards:
                await guard.close()


def _warn_of_cuts(routes: Sequence[Route], warn: Callable[[str], None]) -> None:
    cuts = sum(route.window.cuts for route in routes)
    if cuts:
        what = "prompt was" if cuts == 1 else "prompts were"
        warn(f"{cuts:,} {what} cut to fit the model's window (on_overflow: truncate)")


def user_name() -> str:
    """The user who runs the program, for the ledger; `unknown` where nobody knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
