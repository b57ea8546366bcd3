"""Accounting: times and prices every call, and hands its record to the run's observers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

from llmctl.clock import Clock
from llmctl.errors import CallError, Cancelled, Interrupted
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler, Observer
from llmctl.types import Answer, CallRecord, Request, Usage

Price = Callable[[Request, Usage, Decimal | None], Decimal | None]
"""What a usage costs: request, usage, the provider's own figure → US dollars or None."""

Estimate = Callable[[Request, str], Usage]
"""The usage of a call that nobody reported: request, and the text that came back."""

_NO_USAGE = Usage()
_NO_COST = Decimal(0)


class Stopwatch:
    """Stands before the caller's `emit`: when a call began, its first token came, and its text."""

    __slots__ = ("_clock", "_emit", "first", "start", "text", "wall")

    def __init__(self, clock: Clock, emit: Emit | None = None) -> None:
        self._clock = clock
        self._emit = emit
        self.wall = clock.wall()
        self.start = clock.monotonic()
        self.first: float | None = None
        self.text: list[str] = []

    def __call__(self, text: str) -> None:
        """Note the piece and hand it on."""
        if self.first is None:
            self.first = self.elapsed
        self.text.append(text)
        if self._emit is not None:
            self._emit(text)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock.monotonic() - self.start


class CostCalculator:
    """What calls come to. A stream that broke off after its first token, or was interrupted by
    the user, counts what was received, marked as estimated; where nothing at all is known of a
    call's end the ledger takes the whole hold (status `unknown`)."""

    def __init__(self, price: Price, estimate: Estimate) -> None:
        self._price = price
        self._estimate = estimate

    def record(self, request: Request, result: Answer | CallError, watch: Stopwatch) -> CallRecord:
        """The record of a call that has ended."""
        request = result.request or request
        usage, saved = _NO_USAGE, None
        cost: Decimal | None = _NO_COST
        if isinstance(result, Answer):
            usage = result.usage
            price = self._price(request, usage, result.reported_cost)
            if result.cache in {"hit", "shared"}:
                saved = price
            else:
                cost = price
        elif result.usage is not None:  # a refusal, or an answer that does not fit its schema
            usage = result.usage
            cost = self._price(request, usage, result.cost)
        elif isinstance(result, Interrupted | Cancelled) and result.ambiguous:
            usage = self._estimate(request, "".join(watch.text))
            cost = self._price(request, usage, None)
        return CallRecord(
            request=request,
            result=result,
            usage=usage,
            cost=cost,
            saved=saved,
            started=watch.wall,
            elapsed=watch.elapsed,
            first_token=watch.first,
            uncertain=result.uncertain,
        )


class Accounting:
    """The outermost guard: an answer is returned when `sink` has dealt with the call's record.

    Every ending is recorded, a cancelled call's too. What `sink` raises (a full disk) replaces the
    answer.
    """

    def __init__(self, inner: Handler, sink: Observer, clock: Clock, costs: CostCalculator) -> None:
        self._inner = inner
        self._sink = sink
        self._clock = clock
        self._costs = costs

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer."""
        watch = Stopwatch(self._clock, emit)
        result: Answer | CallError
        try:
            result = await self._inner(request, None if emit is None else watch)
        except CallError as error:
            result = error
        except asyncio.CancelledError as stop:
            result = Cancelled("the call was interrupted")
            if isinstance(stop, CancelledAfterSending):
                result.attempts, result.uncertain = stop.attempts, stop.uncertain
                result.ambiguous = True
            await self._hand_over(self._costs.record(request, result, watch))
            raise
        await self._hand_over(self._costs.record(request, result, watch))
        if isinstance(result, CallError):
            raise result
        return result

    async def _hand_over(self, record: CallRecord) -> None:
        """Return when the sink has dealt with the record, even if the call is cancelled meanwhile:
        it may have been paid for."""
        work = asyncio.ensure_future(self._sink(record))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait((work,))
            work.result()
            raise
