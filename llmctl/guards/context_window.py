"""Context window: a prompt that cannot fit its model is refused before it is sent, or cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from llmctl.errors import ContextTooLong
from llmctl.protocols import Emit, Handler
from llmctl.tokens import Counter, max_output
from llmctl.truncate import cut
from llmctl.types import Answer, Request


class WindowCheck:
    """Whether requests fit their model's window; with `truncate` they are cut to. `cuts` counts
    the prompts that were cut."""

    def __init__(self, counter: Counter, *, truncate: bool) -> None:
        self._counter = counter
        self._truncate = truncate
        self.cuts = 0

    async def fit(self, request: Request) -> Request:
        """The request as it fits. Raises `ContextTooLong`."""
        window = self._counter.window_to_check(request)
        if window is None:
            return request
        counted = await self._counter.count_async(request)
        try:
            self._counter.check_fits(request, counted, window)
        except ContextTooLong:
            if not self._truncate:
                raise
            return await self._cut(request, window)
        return request

    async def _cut(self, request: Request, window: int) -> Request:
        room = window - (max_output(request) or 0)
        shorter = await asyncio.to_thread(
            cut, request, room, lambda one: self._counter.count(one).tokens
        )
        if shorter is None:
            raise ContextTooLong(
                f"the prompt cannot be cut to fit the {window} tokens of {request.target.model} "
                "(`on_overflow: truncate`): only the text of the last turn and earlier turns are "
                "cut; shorten it, or lower max_tokens",
                sent=False,
            )
        self.cuts += 1
        return shorter


class ContextWindow:
    """The guard: asks `admit` for the request as it may be sent. That raises `ContextTooLong` for
    one that cannot fit the window, and `ProviderDown` while nothing is sent at all."""

    def __init__(self, inner: Handler, admit: Callable[[Request], Awaitable[Request]]) -> None:
        self._inner = inner
        self._admit = admit

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer, when the request fits."""
        return await self._inner(await self._admit(request), emit)
