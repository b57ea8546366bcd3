"""Settings → live objects: opens everything a call needs, puts the chain together, closes it."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from llmctl import price_data
from llmctl.clock import Clock
from llmctl.connecting import connect, estimate, open_address
from llmctl.guards.cache import Cache
from llmctl.guards.chain import Guards, chain
from llmctl.guards.fitting import Fitting
from llmctl.guards.hold import Holding
from llmctl.guards.limiter import Lane, Limiter
from llmctl.guards.observe import Observe
from llmctl.guards.rekey import Rekey
from llmctl.guards.retry import Retry, Trouble
from llmctl.guards.tokens import Tokens
from llmctl.ids import ulid
from llmctl.keys.live import LiveKey
from llmctl.pricing import Prices, terms_of
from llmctl.protocols import CacheStore, Chain, Handler, LedgerStore, Observer, TokenCount
from llmctl.providers.endpoint import Address, Endpoint
from llmctl.settings import Folders, Profile
from llmctl.tokens import Counter, max_output
from llmctl.types import Request, Usage

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Live:
    """The open objects of one run of the program."""

    profile: Profile
    clock: Clock
    run_id: str
    lane: Lane
    counter: Counter
    prices: Prices
    ledger: LedgerStore
    cache: CacheStore
    endpoint: Endpoint
    address: Callable[[], Awaitable[Address]]
    key: LiveKey | None
    warn: Callable[[str], None]

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
    ) -> Chain:
        """The whole chain. Each call's outcome goes to `observers` in their order.

        `exact` counts every prompt with its vocabulary; otherwise that is done only where
        something depends on it, because loading a vocabulary takes longer than most prompts
        are worth.
        """
        counted = partial(estimate, self.counter)
        worst = self.worst if exact or self.lane.counts_tokens else self._bound
        guards = Guards(
            observe=lambda inner, kept: Observe(
                inner, observers, self.clock, self.price, counted, kept
            ),
            cache=lambda inner: Cache(
                inner, self.cache, self.clock, self.warn, self.profile.cache.ttl, self._patience
            ),
            fitting=Fitting,
            tokens=lambda inner: Tokens(inner, self.admit),
            hold=lambda inner: Holding(inner, self.ledger, self.clock, worst),
            rekey=self._rekey(),
            retry=lambda inner: Retry(inner, self.profile.retry, self.clock, told),
            limiter=lambda inner: Limiter(inner, self.lane, self._tokens_of),
        )
        return chain(self.endpoint, guards)

    @property
    def _patience(self) -> float:
        """The longest a call with these settings takes, rate limits of our own aside: so long
        another process may be getting the answer."""
        profile = self.profile
        return profile.retry.attempts * (profile.timeout.total + profile.retry.max_wait)

    def _rekey(self) -> Callable[[Handler], Rekey] | None:
        key = self.key
        return None if key is None else lambda inner: Rekey(inner, key)

    def price(self, request: Request, usage: Usage, reported: Decimal | None) -> Decimal | None:
        """What the usage costs now; the provider's own figure wins."""
        return reported if reported is not None else self._priced(request, usage)

    def _priced(self, request: Request, usage: Usage) -> Decimal | None:
        return self.prices.price(
            request.target, self.profile.price, usage, self.clock.wall(), terms_of(request)
        )

    async def admit(self, request: Request) -> None:
        """Return when the request may be sent: its server is up and it fits the model's window.

        Raises `SetupError` or `ContextTooLong`.
        """
        window = self.counter.window_in_question(request)
        if window is not None:
            counted = await self.counter.count_async(request)
            self.counter.check_fits(request, counted, window)
        await self.address()

    def _tokens_of(self, request: Request) -> int:
        return self.counter.count(request).tokens + (max_output(request) or 0)

    async def _bound(self, request: Request) -> tuple[Usage, Decimal | None]:
        most, output = self.counter.upper_bound(request), max_output(request)
        own, cost = self.profile.price, None
        if own is not None:  # a published one takes 0.2 s to look up, before anything is sent
            cost = self.prices.worst_case(request.target, own, most, output, self.clock.wall())
        return Usage(input=most, output=output or 0, estimated=True), cost

    async def worst(
        self, request: Request, counted: TokenCount | None = None
    ) -> tuple[Usage, Decimal | None]:
        """The most the request can use and cost: its input as counted, and all of the output
        that it, or else the model's window, leaves room for."""
        counted = counted or await self.counter.count_async(request)
        output = self.counter.most_output(request, counted)
        cost = self.prices.worst_case(
            request.target,
            self.profile.price,
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
) -> AsyncIterator[Live]:
    """Everything a call needs, open. Nothing has been sent, and no server started, yet.

    `cache_size` is what the cache of answers may grow to, in bytes.
    `ask` gets a hidden answer from a person (the password of an encrypted keyring file), None
    where nobody can be asked.
    Raises `NoKeyError`, `SetupError` and `DiskError`: what is missing shows before the first
    paid call.
    """
    from llmctl.stores.ledger import open_ledger

    async with AsyncExitStack() as stack:
        address, key = await open_address(profile, folders, environ, clock, stack, say, warn, ask)
        run_id = ulid(clock)
        ledger = open_ledger(folders.state / "ledger.db", run_id, user_name())
        stack.callback(ledger.close)
        cache = _cache(profile, folders, clock, stack, warn, cache_size)
        prices = Prices(partial(price_data.load, folders.state, warn))
        counter = Counter(folders.cache, prices.window)
        lane = Lane(profile.limits, clock)
        endpoint = connect(profile, address, counter, clock, stack)
        yield Live(
            profile,
            clock,
            run_id,
            lane,
            counter,
            prices,
            ledger,
            cache,
            endpoint,
            address,
            key,
            warn,
        )


def _cache(
    profile: Profile,
    folders: Folders,
    clock: Clock,
    stack: AsyncExitStack,
    warn: Callable[[str], None],
    size: int | None,
) -> CacheStore:
    """The cache, closed (and then made small enough) with the stack."""
    from llmctl.stores.limit import SizeLimit
    from llmctl.stores.memory import MemoryCache
    from llmctl.stores.mending import MendingCache

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
