"""Context window: a prompt that cannot fit its model is refused unsent, cut, or summarised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmctl.errors import CallError, ContextTooLong
from llmctl.guards.circuit_breaker import ProviderHealth
from llmctl.protocols import Emit, Handler
from llmctl.tokens import Counter
from llmctl.truncate import cut
from llmctl.types import Answer, Request, Summary

if TYPE_CHECKING:
    from llmctl.guards.summarise import Summariser


class Admission:
    """Whether requests may be sent to a target. `start` starts its server, where that is ours;
    with `truncate` prompts are cut to their model's window, and `cuts` counts those. `summaries`
    counts the prompts that were summarised, `summary_cost` is what that took, in dollars (None:
    unknown)."""

    def __init__(
        self,
        counter: Counter,
        health: ProviderHealth,
        start: Callable[[], Awaitable[object]] | None,
        *,
        truncate: bool,
    ) -> None:
        self._counter, self._health = counter, health
        self._start, self._truncate = start, truncate
        self.cuts = self.summaries = 0
        self.summary_cost: Decimal | None = Decimal(0)

    def window(self, request: Request) -> int:
        """The window of a request that does not fit it, in tokens."""
        return self._counter.context_window(request.target) or 0

    def add_summary(self, made: Summary) -> None:
        """Count a prompt that was summarised."""
        self.summaries += 1
        if made.cost is None or self.summary_cost is None:
            self.summary_cost = None
        else:
            self.summary_cost += made.cost

    async def admit(self, request: Request) -> Request:
        """The request as it may be sent. Raises `ContextTooLong`, `ProviderDown` and, of a server
        that does not start, `SetupError`."""
        self._health.check()
        window = self._counter.window_to_check(request)
        if window is not None:
            counted = await self._counter.count_async(request)
            try:
                self._counter.check_fits(request, counted, window)
            except ContextTooLong:
                if not self._truncate:
                    raise
                request = await self._cut(request, window)
        if self._start is not None:
            await self._start()
        return request

    async def _cut(self, request: Request, window: int) -> Request:
        def tokens(shorter: Request) -> int:
            return self._counter.count(shorter).tokens

        room = window - (self._counter.max_output(request) or 0)
        shorter = await asyncio.to_thread(cut, request, room, tokens)
        if shorter is None:
            raise ContextTooLong(
                f"the prompt cannot be cut to fit the {window} tokens of {request.target.model} "
                "(`on_overflow: truncate`): only the text of the last turn and earlier turns are "
                "cut; shorten it, or lower max_tokens",
                sent=False,
            )
        self.cuts += 1
        return shorter


def context_window(
    inner: Handler, admission: Admission, summariser: Summariser | None = None
) -> Handler:
    """The guard: hands requests on as they may be sent, and marks answers to prompts that were cut
    or summarised; raises what `Admission.admit` and `Summariser.shorten` do."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        try:
            admitted = await admission.admit(request)
        except ContextTooLong:
            if summariser is None:
                raise
            return await summarise(request, emit, summariser)
        answer = await inner(admitted, emit)
        return answer if admitted is request else replace(answer, cut=True)

    async def summarise(request: Request, emit: Emit | None, summariser: Summariser) -> Answer:
        shorter, made = await summariser.shorten(request, admission.window(request))
        admission.add_summary(made)
        try:
            answer = await inner(await admission.admit(shorter), emit)
        except CallError as error:
            error.summary = made
            raise
        return replace(answer, cut=True, summary=made)

    return handle
