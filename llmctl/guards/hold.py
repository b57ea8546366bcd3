"""Every call is on record, durably, before its first byte leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal

from llmctl.clock import Clock
from llmctl.protocols import Emit, Handler, Hold, LedgerStore
from llmctl.types import Request, Response, Usage


class Holding:
    """Writes a hold at the worst case; the ledger's settling ends it.

    A process that is killed in between leaves the hold behind: that is how the next one knows
    what may have been billed.
    """

    def __init__(
        self,
        inner: Handler,
        ledger: LedgerStore,
        clock: Clock,
        worst: Callable[[Request], Awaitable[tuple[Usage, Decimal | None]]],
    ) -> None:
        self._inner = inner
        self._ledger = ledger
        self._clock = clock
        self._worst = worst

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The inner answer; the hold is durable before the request is handed on."""
        estimate, cost = await self._worst(request)
        await self._ledger.hold(Hold(request.call_id, request, estimate, cost, self._clock.wall()))
        return await self._inner(request, emit)
