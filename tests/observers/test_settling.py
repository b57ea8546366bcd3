"""The ledger as an observer, waited for and not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from llmctl.behind import Behind, Write
from llmctl.errors import DiskError
from llmctl.observers.ledger_observer import Settling, SettlingBehind
from llmctl.types import CallRecord, Usage
from tests.support import request, response

OUTCOME = CallRecord(request(), response(), Usage(), Decimal(0), None, 0.0, 1.0, None)


class Slow:
    """A ledger whose writes end when the test says so."""

    def __init__(self) -> None:
        self.writes: list[Write[Any]] = []
        self.broken: DiskError | None = None

    def settle(self, _: CallRecord, /, *, lazily: bool = False) -> Write[Any]:  # noqa: ARG002
        """Begin."""
        self.writes.append(Write())
        return self.writes[-1]

    async def settle_kept(self, _: Sequence[CallRecord]) -> None:
        """Nothing is kept here."""

    def check(self) -> None:
        """As the test says."""
        if self.broken is not None:
            raise self.broken


def test_a_call_waits_for_its_row() -> None:
    """`Settling` returns when the row is durable, and raises what kept it from that."""

    async def run() -> None:
        ledger = Slow()
        call = asyncio.ensure_future(Settling(ledger)(OUTCOME))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not call.done()
        ledger.writes[0].set_exception(DiskError("full"))
        with pytest.raises(DiskError, match="full"):
            await call

    asyncio.run(run())


def test_a_row_does_not_wait_and_the_next_one_hears() -> None:
    """`SettlingBehind` returns at once; after a failure nothing more is begun."""

    async def run() -> None:
        ledger, behind = Slow(), Behind()
        settle = SettlingBehind(ledger, behind)
        await settle(OUTCOME)
        await settle(OUTCOME)
        ledger.writes[0].set_exception(DiskError("full"))
        ledger.writes[1].set_result(None)
        await asyncio.sleep(0)
        with pytest.raises(DiskError, match="full"):
            await settle(OUTCOME)
        assert len(ledger.writes) == 2
        with pytest.raises(DiskError, match="full"):
            await behind.done()

    asyncio.run(run())


def test_nothing_is_sent_that_could_not_be_settled() -> None:
    """`check` says so when the ledger's disk is known to have failed, before any write has ended,
    and when an earlier row could not be settled for another reason."""

    async def run() -> None:
        ledger = Slow()
        settle = SettlingBehind(ledger, Behind())
        await settle(OUTCOME)
        settle.check()
        ledger.broken = DiskError("full")
        with pytest.raises(DiskError, match="full"):
            settle.check()
        ledger.broken = None
        ledger.writes[0].set_exception(ValueError("final"))
        with pytest.raises(ValueError, match="final"):
            settle.check()

    asyncio.run(run())
