"""What cannot be served is refused before it is sent, or held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmctl.protocols import Emit, Handler
from llmctl.types import Request, Response


class Tokens:
    """Asks `admit`, which raises `ContextTooLong` for a request that cannot fit the window."""

    def __init__(self, inner: Handler, admit: Callable[[Request], Awaitable[None]]) -> None:
        self._inner = inner
        self._admit = admit

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The inner answer, when the request fits."""
        await self._admit(request)
        return await self._inner(request, emit)
