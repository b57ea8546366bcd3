"""Holds that are taken before their calls are made, many at a time."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.protocols import BudgetWindow, Hold, LedgerStore


class Early:
    """The early holds of one run in `ledger`: a commit costs as much for one as for a hundred.

    They are the first to go where money is short: once some did not fit, or a call is `refused`,
    there are none any more, and each call is held when it is its turn. Raises what the ledger does.
    """

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger
        self._holds: dict[str, Hold] = {}
        self._plenty = True

    @property
    def wanted(self) -> bool:
        """Whether more may be taken."""
        return self._plenty

    def has(self, call_id: str) -> bool:
        """Whether the call has one."""
        return call_id in self._holds

    def take(self, call_id: str) -> Hold | None:
        """The call's hold, which is the caller's from now on; None where it has no early one."""
        return self._holds.pop(call_id, None)

    async def add(self, holds: Sequence[tuple[Hold, Sequence[BudgetWindow]]]) -> None:
        """Take these; durable when this returns. Where a budget has no room for them all, none."""
        if not await self._ledger.hold_all(holds):
            self._plenty = False
            return
        self._holds.update({hold.call_id: hold for hold, _ in holds})
        if not self._plenty:  # a call was refused meanwhile
            await self.give_back()

    async def refused(self) -> None:
        """A call did not fit: give all of them back, and take no more."""
        self._plenty = False
        await self.give_back()

    async def give_back(self) -> None:
        """End those whose calls are not made."""
        holds, self._holds = self._holds, {}
        if holds:
            await self._ledger.give_back(list(holds))
