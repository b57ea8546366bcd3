"""Accounting: times and prices every call, and hands its record to the run's observers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from decimal import Decimal
from typing import TypeGuard

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.errors import BudgetRefused, CallError, Cancelled, Interrupted
from llmctl.http import CancelledAfterSending
from llmctl.pricing import BATCH, Prices, Terms, terms_of
from llmctl.protocols import Emit, Handler, Observer, TokenCount
from llmctl.tokens import Counter
from llmctl.types import KEPT, Answer, CallRecord, Price, Request, StreamChunk, Usage

_FREE = Decimal(0)


class Stopwatch:
    """Stands before the caller's `emit`: when a call began, its first token came, and its text."""

    def __init__(self, clock: Clock, emit: Emit | None = None) -> None:
        self._clock, self._emit = clock, emit
        self.wall, self.start = clock.wall(), clock.monotonic()
        self.first: float | None = None
        self.text: list[str] = []

    def __call__(self, piece: StreamChunk) -> None:
        """Note the piece and hand it on."""
        if self.first is None:
            self.first = self._clock.monotonic() - self.start
        self.text.append(piece.text)
        if self._emit is not None:
            self._emit(piece)


class CostCalculator:
    """What calls cost, or may cost, in US dollars; None: not known. `own` are the profiles' own
    prices, by the profile's name; `in_batch`: in the providers' batches."""

    def __init__(
        self,
        counter: Counter,
        prices: Prices,
        own: Mapping[str, Price | None],
        clock: Clock,
        *,
        in_batch: bool = False,
    ) -> None:
        self._counter, self._prices, self._own, self._clock = counter, prices, own, clock
        self._in_batch = in_batch

    def of_batches(self) -> CostCalculator:
        """The same at the prices of the providers' batches."""
        return CostCalculator(self._counter, self._prices, self._own, self._clock, in_batch=True)

    def _terms(self, request: Request) -> Terms:
        return BATCH if self._in_batch else terms_of(request)

    def price(self, request: Request, usage: Usage, reported: Decimal | None) -> Decimal | None:
        """What the usage costs now; OpenRouter's own figure wins. Any other server that speaks
        OpenAI's language may say 0, or its own units."""
        if reported is not None and request.target.adapter == "openrouter":
            return reported
        own, terms = self._own.get(request.target.profile), self._terms(request)
        return self._prices.price(request.target, own, usage, self._clock.wall(), terms)

    def _saved(self, request: Request, usage: Usage, cost: Decimal | None) -> Decimal | None:
        """What a provider's batch cost less than a single call would have."""
        if not self._in_batch or cost is None:
            return None
        own, terms = self._own.get(request.target.profile), terms_of(request)
        usual = self._prices.price(request.target, own, usage, self._clock.wall(), terms)
        return None if usual is None else max(_FREE, usual - cost)

    def _routed_saved(
        self, result: Answer | CallError, request: Request, usage: Usage, cost: Decimal | None
    ) -> Decimal | None:
        """What the strong model would have cost for the same tokens, less what all calls of the
        row did; None where there was no choice, a kept answer was given, or a price is unknown."""
        route = result.route
        kept = isinstance(result, Answer) and result.cache in KEPT
        if route is None or route.cost is None or (kept and not route.cost):
            return None
        if route.strong is None or kept or not isinstance(result, Answer):
            return -route.cost
        usual = self.price(replace(request, target=route.strong), usage, None)
        return None if usual is None or cost is None else usual - cost - route.cost

    def _saved_by_provider(self, request: Request, usage: Usage) -> Decimal | None:
        """What the usage would have cost more without the provider's prompt cache, by published
        prices, or the profile's own."""
        if not usage.cached_input and not usage.cache_write:
            return _FREE
        anew = replace(usage, cached_input=0, cache_write=0, cache_write_1h=0)
        without, cost = self.price(request, anew, None), self.price(request, usage, None)
        return None if without is None or cost is None else without - cost

    @property
    def prices(self) -> Prices:
        """The published prices."""
        return self._prices

    def estimate(self, request: Request, text: str) -> Usage:
        """See `Counter.usage`."""
        return self._counter.usage(request, text)

    def is_long(self, request: Request) -> bool:
        """See `Counter.is_long`."""
        return self._counter.is_long(request)

    async def worst(
        self, request: Request, counted: TokenCount | None = None
    ) -> tuple[Usage, Decimal | None]:
        """The most the request can use and cost: its input as counted, and all of the output
        that it, or else the model's window, leaves room for."""
        return self._worst(request, counted or await self._counter.count_async(request))

    def _worst(self, request: Request, counted: TokenCount) -> tuple[Usage, Decimal | None]:
        output = self._counter.output_bound(request, counted)
        own, terms = self._own.get(request.target.profile), self._terms(request)
        cost = self._prices.worst_case(
            request.target, own, counted.tokens, output, self._clock.wall(), terms,
            media=self._counter.has_media(request),
        )  # fmt: skip
        return Usage(counted.tokens, output or 0, estimated=not counted.exact), cost

    async def limit_to_add(self, request: Request, most: int) -> int | None:
        """See `Counter.limit_to_add`."""
        counted = await self._counter.count_async(request)
        return self._counter.limit_to_add(request, most, counted)

    async def bounded(self, request: Request) -> tuple[Usage, Decimal | None]:
        """As `worst`. Raises `BudgetRefused` where nothing bounds what the request may use."""
        if why := self._counter.uncountable(request):
            raise BudgetRefused(
                f"{why}, so what the call may cost cannot be held to a budget: correct it, or "
                "leave it out",
                sent=False,
            )
        counted = await self._counter.count_async(request)
        if self._counter.output_bound(request, counted) is None:
            target = request.target
            raise BudgetRefused(
                f"nothing limits the answers of {target.model}, so what they may cost cannot be "
                "held to a budget: give max_tokens (`params: {max_tokens: …}` in profile "
                f"{target.profile})",
                sent=False,
            )
        return await self.worst(request, counted)

    async def bound(self, request: Request) -> tuple[Usage, Decimal | None]:
        """As `worst`, more generous and without a vocabulary. A published price takes 0.2 s to
        look up, so only the profile's own is used."""
        most, output = self._counter.upper_bound(request), self._counter.output_limit(request)
        own, cost = self._own.get(request.target.profile), None
        if own is not None and not self._in_batch:
            cost = self._prices.worst_case(request.target, own, most, output, self._clock.wall())
        return Usage(most, output or 0, estimated=True), cost

    def record(self, request: Request, result: Answer | CallError, watch: Stopwatch) -> CallRecord:
        """The record of a call that has ended. A stream that broke off, or was interrupted by the
        user, counts what was received, marked as estimated; the model may have written more that
        nobody saw, up to its `worst`."""
        asked, request = request, result.request or request
        usage: Usage = result.usage or Usage()
        cost: Decimal | None = _FREE
        saved = worst = None
        if isinstance(result, Answer):
            price = self.price(request, usage, result.reported_cost)
            if result.degraded:  # nothing could be had for money
                cost, saved = _FREE, _FREE
            elif result.cache in KEPT:
                cost, saved = _FREE, price
            else:
                cost, saved = price, self._saved(request, usage, price)
        elif _is_estimated(result):
            # What a stream says of its usage before its end is not all of it.
            seen = self.estimate(request, "".join(watch.text))
            read, wrote = max(usage.input, seen.input), max(usage.output, seen.output)
            usage = replace(usage, input=read, output=wrote, estimated=True)
            cost = self.price(request, usage, result.cost)
            worst = self._worst(request, self._counter.count(request))[1]
        elif result.usage is not None:  # a refusal, or an answer that does not fit its schema
            cost = self.price(request, usage, result.cost)
        for used, reported in result.earlier:
            usage, each = usage + used, self.price(request, used, reported)
            cost = None if cost is None or each is None else cost + each
        kept = isinstance(result, Answer) and result.cache in KEPT
        elapsed = self._clock.monotonic() - watch.start
        routed = self._routed_saved(result, request, usage, cost)
        return CallRecord(
            request, result, usage, cost, saved, watch.wall, elapsed, watch.first,
            result.uncertain, worst, self._in_batch, None if asked is request else asked, routed,
            _FREE if kept else self._saved_by_provider(request, usage),
        )  # fmt: skip


def _is_estimated(result: Answer | CallError) -> TypeGuard[Interrupted | Cancelled]:
    """Whether nobody has said what the call used, or not all of it."""
    return isinstance(result, Interrupted | Cancelled) and result.ambiguous


async def recorded(writing: Awaitable[None]) -> None:
    """Write a call's record, also when the call is cancelled meanwhile: it may have been paid
    for."""
    work = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        work.result()
        raise


async def _counted_apart(
    sink: Observer, costs: CostCalculator, request: Request, result: CallError, watch: Stopwatch
) -> None:
    """Write the record of a call whose prompt takes a while to count."""
    await sink(await asyncio.to_thread(costs.record, request, result, watch))


def accounting(inner: Handler, sink: Observer, clock: Clock, costs: CostCalculator) -> Handler:
    """The outermost guard: an answer is returned when `sink` has dealt with the call's record. A
    cancelled call has one, too. What `sink` raises (a full disk) replaces the answer."""

    async def account(request: Request, emit: Emit | None) -> Answer:
        watch = Stopwatch(clock, emit)
        result: Answer | CallError
        raised: BaseException | None = None
        try:
            result = await inner(request, None if emit is None else watch)
        except CallError as error:
            raised = result = error
        except asyncio.CancelledError as stop:
            raised, result = stop, Cancelled("the call was interrupted")
            if isinstance(stop, CancelledAfterSending):
                result.attempts, result.uncertain = stop.attempts, stop.uncertain
                result.limited, result.elsewhere = stop.limited, stop.elsewhere
                result.request, result.route = stop.request, stop.route
                result.earlier, result.ambiguous = stop.earlier, stop.uncertain > 0
        if _is_estimated(result) and costs.is_long(request):  # the loop has other calls
            await recorded(_counted_apart(sink, costs, request, result, watch))
        else:
            await recorded(sink(costs.record(request, result, watch)))
        if raised is not None:
            raise raised
        assert isinstance(result, Answer)
        return result

    return account
