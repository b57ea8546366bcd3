"""The ledger as an observer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from llmctl.behind import Behind, Write
from llmctl.types import CallRecord


class Settles(Protocol):
    """Where calls are settled: a ledger, or what a run spends from it."""

    def settle(self, outcome: CallRecord, /, *, lazily: bool = False) -> Write[Any]:
        """Begin to write the call's row; durable when that is done. `lazily`: nobody waits."""
        ...

    async def settle_kept(self, outcomes: Sequence[CallRecord], /) -> None:
        """Write the rows of answers that took no call; durable when this returns."""
        ...

    def check(self) -> None:
        """Raises what keeps calls from being put on record."""
        ...


class Settling(Struct, frozen=True):
    """Settles every call in `ledger`. Raises what that raises."""

    ledger: Settles

    async def __call__(self, outcome: CallRecord) -> None:
        """Write the call's row; durable when this returns."""
        await self.ledger.settle(outcome)

    async def many(self, outcomes: Sequence[CallRecord]) -> None:
        """Write the rows of kept answers in one transaction; durable when this returns."""
        await self.ledger.settle_kept(outcomes)


class SettlingBehind(Settling, frozen=True):
    """Settles every call `behind` it: a row that is in the output need not wait for the ledger,
    and a call whose hold is on record is not forgotten. The next row hears of a failure."""

    behind: Behind

    def check(self) -> None:
        """Raises when what is sent now could not be settled."""
        self.ledger.check()
        self.behind.check()

    async def __call__(self, outcome: CallRecord) -> None:
        """Begin to write the call's row. Raises what kept an earlier one from being written."""
        self.behind.check()
        self.behind.add(self.ledger.settle(outcome, lazily=True), _must)


def _must(error: BaseException | None) -> None:
    if error is not None:
        raise error
