"""The outermost guard: times every call, prices it, and tells the observers how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Protocol

from llmctl.behind import Behind
from llmctl.clock import Clock
from llmctl.errors import CallError, Cancelled, Interrupted
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler, ManyObserver, Observer
from llmctl.types import Answer, CallRecord, Request, Usage

Price = Callable[[Request, Usage, Decimal | None], Decimal | None]
"""What a usage costs: request, usage, the provider's own figure → dollars or None."""


class Answers(Protocol):
    """Where answers are kept, as far as they are had many at a time."""

    def kept(self, requests: Sequence[Request], /) -> Sequence[Answer | None]:
        """The kept answers, in the requests' order; None for what must be asked."""
        ...

    async def claim(self, requests: Sequence[Request], /) -> None:
        """These are asked next."""
        ...

    def to_ask(self, requests: Sequence[Request], /) -> Sequence[Request]:
        """Those that a provider is asked, as far as that is known."""
        ...

    def give_back(self) -> None:
        """What was claimed and is not asked is anybody's."""
        ...


_NOTHING = Usage()
_NO_COST = Decimal(0)


class Holds(Protocol):
    """Where calls are put on record many at a time."""

    async def hold_early(self, requests: Sequence[Request], /) -> None:
        """These are made next."""
        ...

    async def give_back(self) -> None:
        """What was put on record and is not made is nobody's."""
        ...


class Accounts:
    """What calls come to. `price` knows what tokens cost; `estimate` counts what the provider did
    not report: input and the text so far."""

    def __init__(self, price: Price, estimate: Callable[[Request, str], Usage]) -> None:
        self._price = price
        self._estimate = estimate

    def outcome(
        self,
        request: Request,
        result: Answer | CallError,
        *,
        started: float,
        elapsed: float,
        first_token: float | None = None,
        text: Callable[[], str] = str,
    ) -> CallRecord:
        """How the call ended. Times are as in `CallRecord`; `text` is what was heard of an answer
        that broke off."""
        request = result.request or request
        cost: Decimal | None = _NO_COST
        saved: Decimal | None = None
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
            usage = self._estimate(request, text())
            cost = self._price(request, usage, None)
        else:
            usage = _NOTHING
        return CallRecord(
            request=request,
            result=result,
            usage=usage,
            cost=cost,
            saved=saved,
            started=started,
            elapsed=elapsed,
            first_token=first_token,
            uncertain=result.uncertain,
        )


class Observe:
    """Tells `observers`, in their order, of every call; an answer is handed on only when the
    last of them has dealt with it. That order is the order of durability: first the output,
    then the ledger. `behind` has what calls leave to be written; `expect` hears of requests that
    are made soon. Without `holds` calls are put on record one by one.
    """

    def __init__(
        self,
        inner: Handler,
        observers: Sequence[Observer],
        clock: Clock,
        accounts: Accounts,
        behind: Behind,
        answers: Answers | None = None,
        expect: Callable[[Sequence[Request]], None] = lambda _: None,
        holds: Holds | None = None,
    ) -> None:
        self._inner = inner
        self._observers = observers
        self._clock = clock
        self._accounts = accounts
        self._behind = behind
        self._answers = answers
        self._expect = expect
        self._holds = holds

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer. Every ending is reported, a cancelled call's too."""
        watch = _Watch(self._clock, emit)
        result: Answer | CallError
        try:
            result = await self._inner(request, watch if emit is not None else None)
        except CallError as error:
            result = error
        except asyncio.CancelledError as stop:
            given_up = Cancelled("the call was interrupted")
            if isinstance(stop, CancelledAfterSending):
                given_up.attempts, given_up.uncertain = stop.attempts, stop.uncertain
                given_up.ambiguous = True
            await asyncio.shield(self._report(request, given_up, watch))
            raise
        await self._report(request, result, watch)
        if isinstance(result, CallError):
            raise result
        return result

    def take(self, requests: Sequence[Request]) -> tuple[Sequence[CallRecord], Sequence[Request]]:
        """The outcomes of the requests whose answers are kept, and the other requests."""
        if self._answers is None:
            return (), requests
        watch = _Watch(self._clock, None)
        outcomes: list[CallRecord] = []
        rest: list[Request] = []
        for request, found in zip(requests, self._answers.kept(requests), strict=True):
            if found is None:
                rest.append(request)
            else:
                outcomes.append(self._outcome(request, found, watch))
        return outcomes, rest

    async def claim(self, requests: Sequence[Request]) -> None:
        """These requests, that `take` left over, are made next."""
        self._expect(requests)
        if self._answers is not None:
            await self._answers.claim(requests)

    async def prepare(self, requests: Sequence[Request]) -> None:
        """These requests, that were claimed, are made next: put them on record together, as far as
        it is known that they are sent."""
        if self._holds is not None:
            asked = requests if self._answers is None else self._answers.to_ask(requests)
            await self._holds.hold_early(asked)

    async def finish(self) -> None:
        """No more requests are made: what was claimed or held for those that were not is given
        back, and what calls have left `behind` them is written. Raises what kept that from being
        done."""
        if self._answers is not None:
            self._answers.give_back()
        try:
            if self._holds is not None:
                await self._holds.give_back()
        finally:
            await self._behind.done()

    async def deal(self, outcomes: Sequence[CallRecord]) -> None:
        """Tell the observers, in their order, of calls that `take` found to be answered."""
        for observer in self._observers:
            if isinstance(observer, ManyObserver):
                await observer.many(outcomes)
            else:
                for outcome in outcomes:
                    await observer(outcome)

    async def _report(self, request: Request, result: Answer | CallError, watch: _Watch) -> None:
        outcome = self._outcome(request, result, watch)
        for observer in self._observers:
            await observer(outcome)

    def _outcome(self, request: Request, result: Answer | CallError, watch: _Watch) -> CallRecord:
        return self._accounts.outcome(
            request,
            result,
            started=watch.wall,
            elapsed=self._clock.monotonic() - watch.start,
            first_token=watch.first,
            text=lambda: "".join(watch.text),
        )


class _Watch:
    """Stands before the caller's `emit` and remembers what passed, and when the first did."""

    __slots__ = ("_clock", "_emit", "first", "start", "text", "wall")

    def __init__(self, clock: Clock, emit: Emit | None) -> None:
        self._clock = clock
        self._emit = emit
        self.wall = clock.wall()
        self.start = clock.monotonic()
        self.first: float | None = None
        self.text: list[str] = []

    def __call__(self, text: str) -> None:
        if self.first is None:
            self.first = self._clock.monotonic() - self.start
        self.text.append(text)
        if self._emit is not None:
            self._emit(text)
