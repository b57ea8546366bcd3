"""The ledger as an observer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmctl.protocols import LedgerStore
from llmctl.types import Outcome


@dataclass(frozen=True, slots=True)
class Settling:
    """Settles every call in `ledger`. Raises what that raises."""

    ledger: LedgerStore

    async def __call__(self, outcome: Outcome) -> None:
        """Write the call's row; durable when this returns."""
        await self.ledger.settle(outcome)

    async def many(self, outcomes: Sequence[Outcome]) -> None:
        """Write the rows of kept answers in one transaction; durable when this returns."""
        await self.ledger.settle_kept(outcomes)
