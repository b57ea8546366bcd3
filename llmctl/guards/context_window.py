"""Context window: a prompt that cannot fit its model is refused before it is sent, or cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from llmctl.errors import ContextTooLong
from llmctl.guards.circuit_breaker import ProviderHealth
from llmctl.protocols import Emit, Handler
from llmctl.tokens import Counter
from llmctl.truncate import cut
from llmctl.types import Answer, Request


class Admission:
    """Whether requests may be sent to a target. `start` starts its server, where that is ours;
    with `truncate` prompts are cut to their model's window, and `cuts` counts those."""

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
        self.cuts = 0

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


def context_window(inner: Handler, admission: Admission) -> Handler:
    """The guard: hands requests on as they may be sent, and marks answers to prompts that were cut;
    raises what `Admission.admit` does."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        admitted = await admission.admit(request)
        answer = await inner(admitted, emit)
        return answer if admitted is request else replace(answer, cut=True)

    return handle
