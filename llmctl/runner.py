"""The runner: opens everything a call needs, puts its guards together, and closes it in order."""

from __future__ import annotations

import asyncio
import getpass
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from decimal import Decimal
from functools import cache, partial
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl import pricing
from llmctl.clock import AwakeClock, Clock
from llmctl.config.degrade import keeps_for_later
from llmctl.config.settings import Profile
from llmctl.errors import CallError, ContextTooLong, NoKeyError, SetupError
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
from llmctl.protocols import (
    AnswerCache,
    Handler,
    Observer,
    ProcessStatus,
)
from llmctl.providers.registry import codec
from llmctl.reports.amounts import money
from llmctl.request import (
    Question,
    compose,
    require_translated,
    retarget,
    target_for,
    ulid,
)
from llmctl.schemas import Checker
from llmctl.shutdown import Stop
from llmctl.threads import start_executor
from llmctl.tokens import Counter
from llmctl.types import Answer, CallRecord, Message, Price, Request
from llmctl.wiring import Surroundings, located, open_route

if TYPE_CHECKING:
    from llmctl.coordination.shared import Shared
    from llmctl.engines.batch_tools import BatchEndpoint
    from llmctl.guards.prefix_cache import PrefixCache
    from llmctl.guards.queueing import Queueing
    from llmctl.guards.routing import Opened
    from llmctl.guards.semantic_cache import Judge
    from llmctl.privacy.requests import RequestMasker
    from llmctl.semantic.vectors import Embedder
    from llmctl.storage.batch_jobs import BatchJobs
    from llmctl.storage.cipher import StoreCipher
    from llmctl.storage.semantic_index import SemanticIndex

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
        jobs: the providers' batches on record; None where another machine keeps them.
        shared: limits, budget and answers, as other runs have them, too.
        store: encrypts what is kept of questions and answers.
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
    jobs: BatchJobs | None
    shared: Shared
    store: StoreCipher
    stack: AsyncExitStack
    cache_guards: list[Cache] = field(default_factory=list)


class Semantic(Struct, frozen=True):
    """What semantic caches have open: the questions, what makes their vectors, and the judges by
    the name of their profile."""

    index: SemanticIndex | None = None
    embed: Embedder | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)


class Runner(Resources, frozen=True, kw_only=True):
    """How one profile is asked in a run.

    Attributes:
        routes: the way of the profile in use, then those of its fallbacks.
        routed: the ways of the profiles that its route leads to.
        route: where its questions go; None where it has no route.
        cache: the answers that are kept; none where the profile keeps none.
        semantic: answers of questions that mean the same, where a profile wants those.
        masker: masks the requests; None where neither the profile nor a fallback wants that.
        summarisers: how those are asked that summarise what is too long, by the profile they do
            it for.

    """

    routes: tuple[Route, ...]
    cache: AnswerCache
    semantic: Semantic
    masker: RequestMasker | None = None
    routed: tuple[Route, ...] = ()
    route: Opened | None = None
    summarisers: Mapping[str, Runner] = {}

    @property
    def profile(self) -> Profile:
        """The profile in use."""
        return self.routes[0].profile

    @property
    def others(self) -> tuple[Route, ...]:
        """The ways of all other profiles that may be asked."""
        return (*self.routes[1:], *self.routed)

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
        prefix: PrefixCache | None = None,
        text: bool = True,
        queueing: Queueing | None = None,
    ) -> Handler:
        """The whole pipeline. `sink` gets each call's record; `on_retry` hears of attempts that
        are repeated, `on_fallback` why which profile is asked instead. An answer that misses its
        schema is asked for `schema_retries` times more. `prefix` warms the prompt cache of the
        profile in use, not of its fallbacks. `text`: in an outage the profile's static text is an
        answer; `queueing` keeps calls then, where the profile says so.

        `exact` counts every prompt with its vocabulary; otherwise that is done only where
        something depends on it, because loading a vocabulary takes longer than most prompts
        are worth.
        """
        handler, *others = [
            self._target(
                route,
                on_retry,
                schema_retries,
                exact=exact,
                prefix=prefix if route is self.routes[0] else None,
            )
            for route in self.routes
        ]
        targets = self._targets(self.routes[1:], others)

        async def settle_failed(asked: Request, error: CallError, watch: Stopwatch) -> None:
            await self.budget.settle(self.costs.record(asked, error, watch))

        if others:
            handler = Fallback(
                inner=handler,
                others=targets,
                clock=self.stop.clock(self.clock),
                on_error=settle_failed,
                on_fallback=on_fallback,
                overflow=self.profile.on_overflow == "fallback",
                patient=self.patient and not keeps_for_later(self.profile.degrade),
            )
        if self.route is not None:
            from llmctl.guards.routing import Routing

            cheaper = [
                self._target(way, on_retry, schema_retries, exact=exact) for way in self.routed
            ]
            handler = Routing(
                inner=handler,
                targets={one.name: one for one in self._targets(self.routed, cheaper)},
                router=self.route.router,
                checks=self.route.checks,
                clock=self.clock,
                settle=self._settle_leg,
                call_id=self.call_id,
                is_long=self.costs.is_long,
                on_fallback=on_fallback,
            )
        if self.profile.degrade:
            from llmctl.guards.degrade import Degrade

            handler = Degrade(
                inner=handler,
                steps=self.profile.degrade,
                text=text,
                store=self.cache,
                clock=self.clock,
                call_id=self.call_id,
                on_error=settle_failed,
                queueing=queueing,
            )
        handler = accounting(restoring(handler), sink, self.clock, self.costs)
        return handler if self.masker is None else masked(handler, self.masker)

    def _targets(self, ways: Sequence[Route], handlers: Sequence[Handler]) -> list[FallbackTarget]:
        return [
            FallbackTarget(
                way.profile.name,
                partial(self._retargeted, way.profile),
                partial(self._admit, way),
                handler,
            )
            for way, handler in zip(ways, handlers, strict=True)
        ]

    async def _settle_leg(
        self, asked: Request, result: Answer | CallError, watch: Stopwatch
    ) -> Decimal | None:
        """Put a call on record that does not give its row's answer; what it cost."""
        made = self.costs.record(asked, result, watch)
        await self.budget.settle(made)
        return made.cost

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
            looked_up=self.patient and self.route is None,
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
        try:
            return await route.admission.admit(request)
        except ContextTooLong:
            if route.profile.name not in self.summarisers:
                raise
            return request  # its own handler makes it fit

    def _retargeted(self, profile: Profile, request: Request) -> Request:
        return retarget(request, profile, self.call_id())

    async def kept_records(self, requests: Sequence[Request]) -> list[CallRecord | None]:
        """The records of those requests whose answers are in the cache, in the requests' order;
        None for the others."""
        watch, ttl = Stopwatch(self.clock), self.profile.cache.ttl
        if self.route is not None:  # whose answer a row wants is the guard's to say
            return [None] * len(requests)
        found = await kept_answers(self.cache, requests, self.clock.wall(), ttl)
        return [
            None
            if answer is None or (asked.masked and asked.masked.refused)
            else self.costs.record(asked, restored(asked, answer), watch)
            for asked, answer in zip(requests, found, strict=True)
        ]

    def waits(self) -> str | None:
        """What the run is waiting for, such as `rate limit, 12 s`; None when it goes on."""
        if self.shared.is_away():
            return "the coordinator"
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
        prefix: PrefixCache | None = None,
    ) -> Handler:
        policy, waiting = route.profile.retry, self.stop.clock(self.awake)
        # Seconds after which no attempt begins: where a person waits, as long as one may take.
        total = route.profile.timeout.total
        longest = policy.attempts * (total + policy.max_wait) if self.patient else total
        bound = self.costs.worst if exact or route.limits.counts_tokens else self.costs.bound

        summariser = None
        if (other := self.summarisers.get(route.profile.name)) is not None:
            from llmctl.guards.summarise import ChunkCosts, Summariser

            costs = ChunkCosts(self.budget.settle)
            handler = other.handler(costs, exact=exact, on_retry=on_retry)
            summariser = Summariser(handler, other.profile, costs, self.counter, self.call_id)
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
            cache=lambda inner: self._cache(
                self._semantic(inner, route.profile), route.profile.cache.ttl
            ),
            prefix=lambda inner: inner if prefix is None else prefix.around(inner),
            summariser=summariser,
        )

    def _semantic(self, inner: Handler, profile: Profile) -> Handler:
        policy, parts = profile.cache.semantic, self.semantic
        if policy is None or parts.index is None:
            return inner
        from llmctl.guards.semantic_cache import SemanticCache

        return SemanticCache(
            inner, self.cache, parts.index, policy, self.clock, self.warn, profile.cache.ttl,
            parts.embed if policy.mode == "judge" else None,
            parts.judges.get(policy.judge or ""), in_batch=self.patient,
        )  # fmt: skip


class Run(Resources, frozen=True, kw_only=True):
    """One run of the program, open: its profiles are opened as they are asked for.

    Attributes:
        many: the transport for many calls at a time is used.
        routes: the ways opened so far, by the profile's name and interface.
        opening: whoever opens a way holds its lock.
        routes_stack: closes them.
        prices, regions: the own prices, and the regions, of the profiles opened so far, by name.

    """

    around: Surroundings
    many: bool
    routes_stack: AsyncExitStack
    prices: dict[str, Price | None]
    regions: dict[str, str | None]
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    opening: defaultdict[tuple[str, str], asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )

    async def runner(
        self,
        profile: Profile,
        fallbacks: Sequence[Profile] = (),
        routed: Sequence[Profile] = (),
    ) -> Runner:
        """How the profile is asked, and `fallbacks` after it; `routed` are those of its route.
        Limits, breaker, connections and key of a profile are one in the whole run, whoever asks it.
        Nothing has been sent, and no server started, yet. A fallback that cannot be opened is left
        out, with a warning.

        Raises `NoKeyError` and `SetupError`: what is missing shows before the first paid call.
        """
        # What is kept for later does not wait.
        waits = self.patient and not fallbacks and not keeps_for_later(profile.degrade)
        routes = [await self._route(profile, patient=waits)]
        for one in fallbacks:
            try:
                routes.append(await self._route(one, patient=waits))
            except (NoKeyError, SetupError) as error:
                self.warn(f"the fallback {one.name} is left out: {error.message}")
        ways = [await self._route(one, patient=False) for one in routed]
        asked = [route.profile for route in (*routes, *ways)]
        found = {each.name: each.summariser for each in asked if each.summariser is not None}
        # It asks nobody to summarise for itself: what it is given fits.
        summarisers = {
            name: await self._runner(
                [await self._route(located(other, self.around.folders), patient=self.patient)]
            )
            for name, other in found.items()
        }
        route = None
        if routed:
            from llmctl.guards.routing import open_router

            route = open_router(profile, routed, self.counter, self.around.environ, self.warn)
        return replace(
            await self._runner(routes, ways),
            routed=tuple(ways),
            route=route,
            summarisers=summarisers,
        )

    async def _runner(self, routes: Sequence[Route], ways: Sequence[Route] = ()) -> Runner:
        """How the routes' profiles are asked."""
        asked = [route.profile for route in (*routes, *ways)]
        masker = await asyncio.to_thread(open_masker, asked, self.around.environ)
        if any(route.profile.limits.rpm or route.profile.limits.tpm for route in (*routes, *ways)):
            self.shared.limits.open()
        resources = {name: getattr(self, name) for name in Resources.__struct_fields__}
        enabled = asked[0].cache.enabled
        semantic = await self._semantic(asked, enabled=enabled)
        return Runner(
            **resources,
            routes=tuple(routes),
            cache=self.shared.answers(enabled),
            semantic=semantic,
            masker=masker,
        )

    def status(self) -> ProcessStatus:
        """What others may see of the run: calls that wait at a rate limit or for a provider that is
        down, and circuits that are not closed, by `provider/profile`."""
        waiting, circuits = 0, dict[str, str]()
        for route in self.routes.values():
            waiting += route.health.waiting + sum(route.limits.waiting().values())
            lane, state = f"{route.profile.provider}/{route.profile.name}", route.health.state
            if state != "closed" and circuits.get(lane) != "open":  # an interface each has its own
                circuits[lane] = state
        return ProcessStatus(waiting, circuits)

    async def _semantic(self, asked: Sequence[Profile], *, enabled: bool) -> Semantic:
        """What these profiles need for answers of questions that mean the same."""
        policies = [each.cache.semantic for each in asked if each.cache.semantic is not None]
        if not policies:
            return Semantic()
        from llmctl.semantic.vectors import embedder
        from llmctl.storage.semantic_index import SemanticIndex

        if self.shared.kept is None:
            raise SetupError(
                "a semantic cache looks into the answers of one machine, and this run's are "
                "another's: take `semantic:` out of the profile's `cache:`"
            )
        judging = any(policy.mode == "judge" for policy in policies)
        embed = await asyncio.to_thread(embedder) if judging else None
        judges = {name: await self._judge(name) for policy in policies if (name := policy.judge)}
        return Semantic(SemanticIndex(self.shared.kept(enabled)), embed, judges)

    async def _judge(self, name: str) -> Judge:
        """What asks the profile `name`: each verdict is a call of its own, with its own budget,
        ledger row and kept answer."""
        from llmctl.guards.semantic_cache import says_yes

        profile = located(self.around.profiles[name], self.around.folders)
        profile = replace(profile, cache=replace(profile.cache, semantic=None))
        runner = await self.runner(profile)

        async def settle(record: CallRecord) -> None:
            await self.budget.settle(record)

        handler = runner.handler(settle, exact=False, on_retry=lambda _: None)

        async def judge(request: Request, text: str) -> bool:
            question = Question((Message("user", text),), tags=request.tags)
            made = compose(question, profile, id=request.id, call_id=self.call_id())
            made = replace(made, user=request.user, weight=request.weight)
            return says_yes((await handler(made, None)).text)

        return judge

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
                    self.shared.limits,
                    self.stop,
                    self.awake.lost,
                    self.budget.status_changed,
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
    serving: bool = False,
    stop: Stop | None = None,
    shared: Shared | None = None,
) -> AsyncIterator[Run]:
    """Everything that is opened once, whatever is asked: ledger, budget, prices, shared limits.

    `cache_size` is what the cache of answers may grow to, in bytes. `patient`: calls wait for a
    provider rather than fail, and come after a look into the cache (`Runner.kept_records`).
    `many`: calls go over the transport for many at a time. `serving`: they are those of a gateway's
    callers. Nothing that waits is sent once `stop` was asked for. `shared`: what another machine
    keeps for this run; by default it is in this machine's files. Raises `SetupError`, `DiskError`,
    and `NoKeyError` where the audit, what is encrypted, or the coordinator has no key.
    """
    from llmctl.storage.cipher import StoreCipher

    folders, clock, warn = around.folders, around.clock, around.warn
    stop = stop or Stop()
    # Names are resolved, keys read and long prompts counted there.
    start_executor(THREADS)
    store = StoreCipher(around.environ, on=around.encrypt)
    if store.on:
        await asyncio.to_thread(lambda: store.cipher)
    async with AsyncExitStack() as stack:
        own: dict[str, Price | None] = {}
        prices = pricing.Prices(partial(pricing.load, folders.state, warn))
        counter = Counter(prices.window, codec)
        awake = AwakeClock(clock)
        stack.callback(awake.close)
        # Closed after the ledger and the cache: ending connections and servers may take a while.
        routes_stack = await stack.enter_async_context(AsyncExitStack())
        run_id = ulid(clock) if shared is None else shared.run_id
        # Delivered when all else is closed, for that may take a while, too.
        telemetry = await stack.enter_async_context(_telemetry(around, run_id, serving=serving))
        if shared is None:
            shared = await stack.enter_async_context(
                _shared_here(around, run_id, cache_size, store, stop)
            )
        user = shared.user
        checker = Checker()
        stack.push_async_callback(checker.close)
        regions: dict[str, str | None] = {}
        audit = await stack.enter_async_context(_audit(around, run_id, user, regions))
        budget = RunBudget(shared.budget, clock, warn, run_id, user, audit, telemetry, shared.watch)
        stack.callback(budget.close)
        run = Run(
            around=around,
            many=many,
            shared=shared,
            routes_stack=routes_stack,
            prices=own,
            regions=regions,
            clock=clock,
            awake=awake,
            run_id=run_id,
            counter=counter,
            costs=CostCalculator(counter, prices, own, clock),
            budget=budget,
            check=shared.check,
            warn=warn,
            call_id=partial(ulid, clock),
            patient=patient,
            stop=stop,
            checker=checker,
            jobs=shared.jobs,
            store=store,
            stack=stack,
        )
        budget.report_status(run.status)
        try:
            yield run
        finally:
            for guard in run.cache_guards:
                await guard.close()
            if cuts := sum(route.admission.cuts for route in run.routes.values()):
                what = "prompt was" if cuts == 1 else "prompts were"
                warn(f"{cuts:,} {what} cut to fit the model's window (on_overflow: truncate)")
            admissions = [route.admission for route in run.routes.values()]
            if made := sum(admission.summaries for admission in admissions):
                what = "prompt was" if made == 1 else "prompts were"
                costs = [each.summary_cost for each in admissions]
                cost = None if None in costs else sum(filter(None, costs), Decimal(0))
                warn(
                    f"{made:,} {what} summarised to fit the model's window for {money(cost)} "
                    "(on_overflow: summarise)"
                )


@asynccontextmanager
async def open_runner(
    profile: Profile,
    around: Surroundings,
    *,
    cache_size: int | None = None,
    fallbacks: Sequence[Profile] = (),
    routed: Sequence[Profile] = (),
    patient: bool = False,
    stop: Stop | None = None,
    shared: Shared | None = None,
) -> AsyncIterator[Runner]:
    """The runner of a run that asks one profile; many calls at a time where they are `patient`.
    Raises as `open_run` and `Run.runner`."""
    async with open_run(
        around, cache_size=cache_size, patient=patient, many=patient, stop=stop, shared=shared
    ) as run:
        yield await run.runner(profile, fallbacks, routed)


@asynccontextmanager
async def _shared_here(
    around: Surroundings, run_id: str, cache_size: int | None, store: StoreCipher, stop: Stop
) -> AsyncIterator[Shared]:
    """What the run shares with the processes of this machine, in its files, and by the coordinator
    that the configuration names. Raises as `open_run`."""
    from llmctl.coordination.shared import Shared
    from llmctl.storage.answer_cache import SqliteCache
    from llmctl.storage.batch_jobs import BatchJobs
    from llmctl.storage.ledger import open_ledger
    from llmctl.storage.rate_limits import RateLimitStore

    folders, clock, user = around.folders, around.clock, user_name()
    async with AsyncExitStack() as stack:
        limits = stack.enter_context(closing(RateLimitStore(folders.state / "limits.db", clock)))
        opened = open_ledger(folders.state / "ledger.db", run_id, user)
        ledger = stack.enter_context(closing(opened))
        jobs = BatchJobs(ledger.database)

        @cache
        def answers(enabled: bool) -> SqliteCache:  # noqa: FBT001 - as it is called
            file = folders.cache / "cache.db" if enabled else None
            kept = SqliteCache(file, around.warn, clock, size=cache_size, store=store)
            return stack.enter_context(closing(kept))

        here = Shared(
            run_id=run_id,
            user=user,
            limits=limits,
            budget=ledger,
            answers=answers,
            kept=answers,
            check=ledger.check_in_place,
            watch=ledger.watch,
            jobs=jobs,
        )
        if around.coordinator is None:
            yield here
            return
        from llmctl.coordination.redis import open_coordinator

        async with open_coordinator(
            around.coordinator,
            around.environ,
            run_id,
            user,
            store,
            ledger.calls_of,
            around.warn,
            stop,
        ) as coordinator:
            jobs.on_given_back(coordinator.give_back)
            yield here.by(coordinator, lambda: coordinator.is_away)


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


@asynccontextmanager
async def _telemetry(
    around: Surroundings, run_id: str, *, serving: bool
) -> AsyncIterator[Observer | None]:
    """What makes spans of calls; None where the configuration asks for none."""
    if around.telemetry is None:
        yield None
        return
    from llmctl.observers.otel import open_telemetry

    async with open_telemetry(
        around.telemetry,
        around.environ,
        around.clock,
        run_id=run_id,
        warn=around.warn,
        serving=serving,
    ) as observer:
        yield observer


def user_name() -> str:
    """The user who runs the program, for the ledger; `unknown` where nobody knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
