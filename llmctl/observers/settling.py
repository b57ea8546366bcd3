"""The ledger as an observer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from llmctl.types import Outcome


class Settles(Protocol):
    """Where calls are settled: a ledger, or what a run spends from it."""

    async def settle(self, outcome: Outcome, /) -> object:
        """Write the call's row; durable when this returns."""
        ...

    async def settle_kept(self, outcomes: Sequence[Outcome], /) -> None:
        """Write the rows of answers that took no call; durable when this returns."""
        ...


class Settling(Struct, frozen=True):
    """Settles every call in `ledger`. Raises what that raises."""

    ledger: Settles

    async def __call__(self, outcome: Outcome) -> None:
        """Write the call's row; durable when this returns."""
        await self.ledger.settle(outcome)

    async def many(self, outcomes: Sequence[Outcome]) -> None:
        """Write the rows of kept answers in one transaction; durable when this returns."""
        await self.ledger.settle_kept(outcomes)
