"""The runner: opens everything a call needs, puts its guards together, and closes it in order."""

from __future__ import annotations

import asyncio
import getpass
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl import pricing
from llmctl.clock import AwakeClock, Clock
from llmctl.config.settings import Profile
from llmctl.errors import CallError, NoKeyError, SetupError
from llmctl.guards.accounting import CostCalculator, Stopwatch, accounting
from llmctl.guards.budget import RunBudget, budget_guard
from llmctl.guards.cache import Cache, kept_answers
from llmctl.guards.context_window import context_window
from llmctl.guards.data_place import data_place, placed
from llmctl.guards.fallback import Fallback, FallbackTarget
from llmctl.guards.masking import masked, open_masker, restored, restoring
from llmctl.guards.pipeline import Route, target_handler
from llmctl.guards.retry import Retry, RetryDetails
from llmctl.guards.schema import schema_validation
from llmctl.http import HttpClient
from llmctl.protocols import AnswerCache, Handler, Observer
from llmctl.providers.registry import codec
from llmctl.request import require_translated, retarget, target_for, ulid
from llmctl.schemas import Checker
from llmctl.shutdown import Stop
from llmctl.threads import start_executor
from llmctl.tokens import Counter
from llmctl.types import CallRecord, Price, Request
from llmctl.wiring import Surroundings, open_route

if TYPE_CHECKING:
    from llmctl.engines.batch_tools import BatchEndpoint
    from llmctl.privacy.requests import RequestMasker
    from llmctl.storage.batch_jobs import BatchJobs
    from llmctl.storage.rate_limits import RateLimitStore

SLOW = 3600.0  # seconds that the file of a batch may take, up or down
THREADS = 6  # of asyncio's executor; Python's own choice for two processors


class Resources(Struct, frozen=True, kw_only=True):
    """What one run of the program has open, whichever profiles it asks.

    Attributes:
        awake: the same clock, but for the times when the program was stopped.
        costs: what calls cost, or may cost.
        budget: what the run may spend, and the ledger it spends from.
        check: raises `DiskError` when the ledger's file was removed or replaced.
        call_id: a new call's id.
        patient: calls wait for a provider rather than fail (a batch).
        checker: holds answers to their schemas.
        jobs: the providers' batches on record.
        stack: closes what is opened later.
        cache_guards: the cache guards of the handlers made so far.

    """

    clock: Clock
    awake: AwakeClock
    run_id: str
    counter: Counter
    costs: CostCalculator
    budget: RunBudget
    check: Callable[[], None]
    warn: Callable[[str], None]
    call_id: Callable[[], str]
    patient: bool
    stop: Stop
    checker: Checker
    jobs: BatchJobs
    stack: AsyncExitStack
    cache_guards: list[Cache] = field(default_factory=list)


class Runner(Resources, frozen=True, kw_only=True):
    """How one profile is asked in a run.

    Attributes:
        routes: the way of the profile in use, then those of its fallbacks.
        cache: the answers that are kept; none where the profile keeps none.
        masker: masks the requests; None where neither the profile nor a fallback wants that.

    """

    routes: tuple[Route, ...]
    cache: AnswerCache
    masker: RequestMasker | None = None

    @property
    def profile(self) -> Profile:
        """The profile in use."""
        return self.routes[0].profile

    def stamp(self, request: Request) -> Request:
        """The request with a call id of its own."""
        return replace(request, call_id=self.call_id())

    def handler(
        self,
        sink: Observer,
        *,
        exact: bool,
        on_retry: Callable[[RetryDetails], None],
        on_fallback: Callable[[CallError, str], None] = lambda _, __: None,
        schema_retries: int = 1,
    ) -> Handler:
        """The whole pipeline. `sink` gets each call's record; `on_retry` hears of attempts that
        are repeated, `on_fallback` why which profile is asked instead. An answer that misses its
        schema is asked for `schema_retries` times more.

        `exact` counts every prompt with its vocabulary; otherwise that is done only where
        something depends on it, because loading a vocabulary takes longer than most prompts
        are worth.
        """
        handler, *others = [
            self._target(route, on_retry, schema_retries, exact=exact) for route in self.routes
        ]
        if others:

            async def settle_failed(asked: Request, error: CallError, watch: Stopwatch) -> None:
                await self.budget.settle(self.costs.record(asked, error, watch))

            handler = Fallback(
                inner=handler,
                others=[
                    FallbackTarget(
                        route.profile.name,
                        partial(self._retargeted, route.profile),
                        partial(self._admit, route),
                        other,
                    )
                    for route, other in zip(self.routes[1:], others, strict=True)
                ],
                clock=self.stop.clock(self.clock),
                on_error=settle_failed,
                on_fallback=on_fallback,
                overflow=self.profile.on_overflow == "fallback",
                patient=self.patient,
            )
        handler = accounting(restoring(handler), sink, self.clock, self.costs)
        return handler if self.masker is None else masked(handler, self.masker)

    def admission(self, inner: Handler) -> Handler:
        """The guards of a row that goes into a provider's batch, around what takes it: where it may
        go, its window, and its hold at the price of batches. No fallback, and no rate limit: a
        batch has none."""
        route, costs = self.routes[0], self.costs.of_batches()
        default = partial(costs.limit_to_add, most=route.profile.default_max_tokens)
        handler = budget_guard(inner, self.budget, costs.worst, costs.bounded, default)
        handler = restoring(context_window(handler, route.admission))
        return data_place(handler, self.profile, self.profile.tags, in_batch=True)

    def settling(self, inner: Handler, sink: Observer) -> Handler:
        """The guards of a row that comes out of a provider's batch, around what has its answer."""
        handler = schema_validation(inner, self.checker)
        handler = self._cache(handler, self.routes[0].profile.cache.ttl)
        return accounting(restoring(handler), sink, self.clock, self.costs.of_batches())

    def batch_endpoint(self) -> BatchEndpoint:
        """Where the profile's batches are asked for: files go up while they are read, which only
        the transport for one call at a time does."""
        from llmctl.engines.batch_tools import BatchEndpoint

        route, profile = self.routes[0], self.profile
        client = HttpClient(proxy=profile.proxy, lost=self.awake.lost)
        self.stack.push_async_callback(client.close)
        slow = replace(
            profile.timeout, first_byte=max(300.0, profile.timeout.first_byte), total=SLOW
        )
        endpoint = replace(route.endpoint, http=client, timeouts=slow)
        return BatchEndpoint(endpoint, target_for(profile))

    def _cache(self, inner: Handler, ttl: float | None) -> Cache:
        guard = Cache(
            inner, self.cache, self.clock, self.warn, ttl, self.stop.clock(self.awake),
            looked_up=self.patient,
        )  # fmt: skip
        self.cache_guards.append(guard)
        return guard

    def placed(self, request: Request) -> Request:
        """The request as the profile in use may be sent it, also for questions that are no calls.
        Raises `DataRefused`."""
        return placed(request, self.profile, self.profile.tags)

    async def _admit(self, route: Route, request: Request) -> Request:
        """The request as a fallback can be asked now. Raises as `Admission.admit`, and
        `InvalidRequest` and `DataRefused`."""
        require_translated(request)
        placed(request, route.profile, self.profile.tags)
        return await route.admission.admit(request)

    def _retargeted(self, profile: Profile, request: Request) -> Request:
        return retarget(request, profile, self.call_id())

    async def kept_records(self, requests: Sequence[Request]) -> list[CallRecord | None]:
        """The records of those requests whose answers are in the cache, in the requests' order;
        None for the others."""
        watch, ttl = Stopwatch(self.clock), self.profile.cache.ttl
        found = await kept_answers(self.cache, requests, self.clock.wall(), ttl)
        return [
            None
            if answer is None or (asked.masked and asked.masked.refused)
            else self.costs.record(asked, restored(asked, answer), watch)
            for asked, answer in zip(requests, found, strict=True)
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

    def today(self) -> tuple[int, int] | None:
        """Requests of this day that are used, and how many may be; None: any."""
        return self.routes[0].limits.of(self.profile.model).today

    def _target(
        self,
        route: Route,
        on_retry: Callable[[RetryDetails], None],
        schema_retries: int,
        *,
        exact: bool,
    ) -> Handler:
        policy, waiting = route.profile.retry, self.stop.clock(self.awake)
        # Seconds after which no attempt begins: where a person waits, as long as one may take.
        total = route.profile.timeout.total
        longest = policy.attempts * (total + policy.max_wait) if self.patient else total
        bound = self.costs.worst if exact or route.limits.counts_tokens else self.costs.bound

        return target_handler(
            route,
            lambda request: (
                self.counter.count(request).tokens + (self.counter.output_limit(request) or 0)
            ),
            retry=lambda inner: Retry(
                inner, policy, longest, waiting, on_retry, self.budget.can_afford, self.patient
            ),
            budget=lambda inner: budget_guard(
                inner,
                self.budget,
                bound,
                self.costs.bounded,
                partial(self.costs.limit_to_add, most=route.profile.default_max_tokens),
            ),
            schema=lambda inner: schema_validation(inner, self.checker, schema_retries),
            place=lambda inner: data_place(inner, route.profile, self.profile.tags),
            cache=lambda inner: self._cache(inner, route.profile.cache.ttl),
        )


class Run(Resources, frozen=True, kw_only=True):
    """One run of the program, open: its profiles are opened as they are asked for.

    Attributes:
        many: the transport for many calls at a time is used.
        shared: the limits that the processes of this machine share.
        routes: the ways opened so far, by the profile's name and interface.
        opening: whoever opens a way holds its lock.
        routes_stack: closes them.
        prices, regions: the own prices, and the regions, of the profiles opened so far, by name.
        answers: the cache of profiles that keep answers, or (False) of those that keep none.

    """

    around: Surroundings
    many: bool
    shared: RateLimitStore
    routes_stack: AsyncExitStack
    prices: dict[str, Price | None]
    regions: dict[str, str | None]
    answers: Callable[[bool], AnswerCache]
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    opening: defaultdict[tuple[str, str], asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )

    async def runner(self, profile: Profile, fallbacks: Sequence[Profile] = ()) -> Runner:
        """How the profile is asked, and `fallbacks` after it. Limits, breaker, connections and key
        of a profile are one in the whole run, whoever asks it. Nothing has been sent, and no server
        started, yet. A fallback that cannot be opened is left out, with a warning.

        Raises `NoKeyError` and `SetupError`: what is missing shows before the first paid call.
        """
        waits = self.patient and not fallbacks
        routes = [await self._route(profile, patient=waits)]
        for one in fallbacks:
            try:
                routes.append(await self._route(one, patient=waits))
            except (NoKeyError, SetupError) as error:
                self.warn(f"the fallback {one.name} is left out: {error.message}")
        asked = [route.profile for route in routes]
        masker = await asyncio.to_thread(open_masker, asked, self.around.environ)
        if any(route.profile.limits.rpm or route.profile.limits.tpm for route in routes):
            self.shared.open()
        resources = {name: getattr(self, name) for name in Resources.__struct_fields__}
        answers = self.answers(profile.cache.enabled)
        return Runner(**resources, routes=tuple(routes), cache=answers, masker=masker)

    async def _route(self, profile: Profile, *, patient: bool) -> Route:
        """The profile's way, opened when it is first asked for; `patient` counts then."""
        key = profile.name, profile.api
        async with self.opening[key]:
            if key not in self.routes:
                self.routes[key] = await open_route(
                    profile,
                    self.around,
                    self.routes_stack,
                    self.counter,
                    self.shared,
                    self.stop,
                    self.awake.lost,
                    patient=patient,
                    many=self.many,
                )
                self.prices[profile.name] = profile.price
                self.regions[profile.name] = profile.region
        route = self.routes[key]
        # The same way, but the model of whoever asks: fallbacks are asked for their profile's.
        return route if route.profile == profile else replace(route, profile=profile)


@asynccontextmanager
async def open_run(
    around: Surroundings,
    *,
    cache_size: int | None = None,
    patient: bool = False,
    many: bool = False,
    stop: Stop | None = None,
) -> AsyncIterator[Run]:
    """Everything that is opened once, whatever is asked: ledger, budget, prices, shared limits.

    `cache_size` is what the cache of answers may grow to, in bytes. `patient`: calls wait for a
    provider rather than fail, and come after a look into the cache (`Runner.kept_records`).
    `many`: calls go over the transport for many at a time. Nothing that waits is sent once `stop`
    was asked for. Raises `SetupError`, `DiskError`, and `NoKeyError` where the audit has no key.
    """
    from llmctl.storage.answer_cache import SqliteCache
    from llmctl.storage.batch_jobs import BatchJobs
    from llmctl.storage.ledger import open_ledger
    from llmctl.storage.rate_limits import RateLimitStore

    folders, clock, warn = around.folders, around.clock, around.warn
    stop, user, run_id = stop or Stop(), user_name(), ulid(clock)
    # Names are resolved, keys read and long prompts counted there.
    start_executor(THREADS)
    async with AsyncExitStack() as stack:
        own: dict[str, Price | None] = {}
        prices = pricing.Prices(partial(pricing.load, folders.state, warn))
        counter = Counter(prices.window, codec)
        shared = RateLimitStore(folders.state / "limits.db", clock)
        stack.callback(shared.close)
        awake = AwakeClock(clock)
        stack.callback(awake.close)
        # Closed after the ledger and the cache: ending connections and servers may take a while.
        routes_stack = await stack.enter_async_context(AsyncExitStack())
        ledger = open_ledger(folders.state / "ledger.db", run_id, user)
        stack.callback(ledger.close)
        checker = Checker()
        stack.push_async_callback(checker.close)
        regions: dict[str, str | None] = {}
        audit = await stack.enter_async_context(_audit(around, run_id, user, regions))
        budget = RunBudget(ledger, clock, warn, run_id, user, audit)
        stack.callback(budget.close)

        @cache
        def answers(enabled: bool) -> AnswerCache:  # noqa: FBT001 - as it is called
            file = folders.cache / "cache.db" if enabled else None
            store = SqliteCache(file, warn, clock, size=cache_size)
            stack.callback(store.close)
            return store

        run = Run(
            around=around,
            many=many,
            shared=shared,
            routes_stack=routes_stack,
            prices=own,
            regions=regions,
            answers=answers,
            clock=clock,
            awake=awake,
            run_id=run_id,
            counter=counter,
            costs=CostCalculator(counter, prices, own, clock),
            budget=budget,
            check=ledger.check_in_place,
            warn=warn,
            call_id=partial(ulid, clock),
            patient=patient,
            stop=stop,
            checker=checker,
            jobs=BatchJobs(ledger.database),
            stack=stack,
        )
        try:
            yield run
        finally:
            for guard in run.cache_guards:
                await guard.close()
            if cuts := sum(route.admission.cuts for route in run.routes.values()):
                what = "prompt was" if cuts == 1 else "prompts were"
                warn(f"{cuts:,} {what} cut to fit the model's window (on_overflow: truncate)")


@asynccontextmanager
async def open_runner(
    profile: Profile,
    around: Surroundings,
    *,
    cache_size: int | None = None,
    fallbacks: Sequence[Profile] = (),
    patient: bool = False,
    stop: Stop | None = None,
) -> AsyncIterator[Runner]:
    """The runner of a run that asks one profile; many calls at a time where they are `patient`.
    Raises as `open_run` and `Run.runner`."""
    async with open_run(
        around, cache_size=cache_size, patient=patient, many=patient, stop=stop
    ) as run:
        yield await run.runner(profile, fallbacks)


@asynccontextmanager
async def _audit(
    around: Surroundings, run_id: str, user: str, regions: Mapping[str, str | None]
) -> AsyncIterator[Observer | None]:
    """What puts calls into the audit log; None where the configuration asks for none."""
    if around.audit is None:
        yield None
        return
    from llmctl.keys.store_key import store_key
    from llmctl.observers.audit import open_audit

    key = await asyncio.to_thread(store_key, around.environ, "audit")
    async with open_audit(
        around.audit,
        around.folders.state,
        key,
        around.clock,
        run_id=run_id,
        user=user,
        regions=regions,
        warn=around.warn,
    ) as observer:
        yield observer


def user_name() -> str:
    """The user who runs the program, for the ledger; `unknown` where nobody knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
