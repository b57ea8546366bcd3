"""The ledger as an observer, and observers one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmctl.protocols import Observer
from llmctl.types import CallRecord


class LedgerObserver:
    """Settles every call by `settle` (a run's budget, or a ledger); raises what that raises."""

    def __init__(self, settle: Callable[[CallRecord], Awaitable[object]]) -> None:
        self._settle = settle

    async def __call__(self, record: CallRecord) -> None:
        """Write the call's row; durable on return."""
        await self._settle(record)


class InOrder:
    """Hands each record to `observers` in their order, which is the order of durability: first
    the output, then the ledger, then counts."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    async def __call__(self, record: CallRecord) -> None:
        """Return when the last observer has dealt with the record."""
        for observer in self._observers:
            await observer(record)
