"""Every call is on record, durably and within the budgets, before its first byte leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal

from llmctl.guards.purse import Purse
from llmctl.protocols import Emit, Handler
from llmctl.types import Request, Response, Usage

Worst = Callable[[Request], Awaitable[tuple[Usage, Decimal | None]]]
"""The most that a request can use, and cost."""


class Holding:
    """Takes a hold at the worst case out of `purse`; its settling ends it.

    `worst` may be generous, unless a budget applies to the request: then `exactly` is asked.
    A process that is killed in between leaves the hold behind: that is how the next one knows
    what may have been billed.
    """

    def __init__(self, inner: Handler, purse: Purse, worst: Worst, exactly: Worst) -> None:
        self._inner = inner
        self._purse = purse
        self._worst = worst
        self._exactly = exactly

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The inner answer; the hold is durable before the request is handed on. Raises as
        `Purse.hold` does."""
        caps = self._purse.caps_of(request)
        estimate, cost = await (self._exactly if caps else self._worst)(request)
        await self._purse.hold(request, estimate, cost, caps)
        return await self._inner(request, emit)
