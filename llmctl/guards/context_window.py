"""What cannot be served is refused before it is sent, cut, or held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class Tokens:
    """Asks `admit` for the request as it may be sent; that raises `ContextTooLong` for one that
    cannot fit the window, and `ProviderDown` while nothing is sent at all."""

    def __init__(self, inner: Handler, admit: Callable[[Request], Awaitable[Request]]) -> None:
        self._inner = inner
        self._admit = admit

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer, when the request fits."""
        return await self._inner(await self._admit(request), emit)
