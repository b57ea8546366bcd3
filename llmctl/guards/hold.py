"""Every call is on record, durably and within the budgets, before its first byte leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal

from llmctl.guards.purse import Purse
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request, Usage

_SLICE = 64
"""Calls after which others get their turn: about two milliseconds."""

Worst = Callable[[Request], Awaitable[tuple[Usage, Decimal | None]]]
"""The most that a request can use, and cost."""


class Advance:
    """Takes holds out of `purse` for calls that are made next. `worst` is what a call can use and
    cost where that is known at once, and nothing keeps it from being sent as it is.

    All that is not held here `Holding` does when the call is made. That need not be sent to the
    profile in use: where another one may be asked instead there are no early holds.
    """

    def __init__(
        self,
        purse: Purse,
        worst: Callable[[Request], tuple[Usage, Decimal | None] | None],
    ) -> None:
        self._purse = purse
        self._worst = worst

    async def hold_early(self, requests: Sequence[Request]) -> None:
        """Put them on record, durably, as far as can be. Raises what the ledger does."""
        calls: list[tuple[Request, Usage, Decimal | None]] = []
        for number, request in enumerate(requests, 1):
            worst = self._worst(request)
            if worst is not None:
                calls.append((request, *worst))
            if not number % _SLICE:
                await asyncio.sleep(0)
        await self._purse.hold_early(calls)

    async def give_back(self) -> None:
        """End the holds of calls that are not made. Raises what the ledger does."""
        await self._purse.give_back()


class Holding:
    """Takes a hold at the worst case out of `purse`, unless there is an early one; its settling
    ends it.

    `worst` may be generous, unless a budget applies to the request: then `exactly` is asked.
    A process that is killed in between leaves the hold behind: that is how the next one knows
    what may have been billed.
    """

    def __init__(self, inner: Handler, purse: Purse, worst: Worst, exactly: Worst) -> None:
        self._inner = inner
        self._purse = purse
        self._worst = worst
        self._exactly = exactly

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer; the hold is durable before the request is handed on. Raises as
        `Purse.hold` does."""
        if not self._purse.take_early(request):
            caps = self._purse.caps_of(request)
            estimate, cost = await (self._exactly if caps else self._worst)(request)
            await self._purse.hold(request, estimate, cost, caps)
        return await self._inner(request, emit)
