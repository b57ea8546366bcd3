"""The coordinator of one machine: its ledger, its limits and its answers, in SQLite files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from llmctl.protocols import (
    IDLE,
    AnswerCache,
    Budget,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    CachedAnswer,
    Claim,
    Lease,
    ProcessStatus,
    Quota,
    SharedLimits,
)
from llmctl.token_bucket import Draw
from llmctl.types import CallRecord

_REMEMBERED = 10_000  # leases, and calls, whose results are known, should they come again

Granted = float | Quota | BudgetDenied


T = TypeVar("T")


def _keep(results: dict[str, T], key: str, result: T) -> None:
    """Keep a result, and forget the oldest of too many."""
    if len(results) >= _REMEMBERED:
        del results[next(iter(results))]
    results[key] = result


class SqliteCoordinator:
    """The `Coordinator` over the files of this machine. Dollars are leased by call id: the hold of
    the ledger is the lease. Raises `DiskError`."""

    def __init__(self, ledger: Budget, limits: SharedLimits, answers: AnswerCache) -> None:
        self._ledger, self._limits, self._answers = ledger, limits, answers
        self._granted: dict[str, Granted] = {}
        self._settled: dict[str, Sequence[BudgetWarning]] = {}

    async def lease(self, lease: Lease) -> Granted:
        """As `Coordinator.lease`. Dollars come last, for a hold that is denied leaves nothing: what
        was drawn and spent for it before is given back."""
        if (known := self._granted.get(lease.id)) is not None:
            return known
        wait = 0.0 if lease.draw is None else await self._limits.draw(lease.draw)
        if wait < 0:
            return wait
        refused: Granted | None = await self._limits.spend(lease.quotas) if lease.quotas else None
        if refused is None and lease.hold is not None:
            refused = await self._ledger.hold(lease.hold, lease.windows)
            if refused is not None and lease.quotas:
                back = [replace(quota, units=-quota.units) for quota in lease.quotas]
                await self._limits.spend(back)
        if refused is not None:
            if (draw := lease.draw) is not None:
                units = draw.requests, draw.tokens
                await self._limits.draw(replace(draw, requests=0, tokens=0, back=units, pause=0))
            return refused
        _keep(self._granted, lease.id, wait)
        return wait

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """As `Coordinator.settle`: the call's row is written."""
        call_id = record.request.call_id
        if (known := self._settled.get(call_id)) is not None:
            return known
        warnings = await self._ledger.settle(record)
        _keep(self._settled, call_id, warnings)
        return warnings

    async def extend(self, status: ProcessStatus = IDLE) -> None:
        """As `Coordinator.extend`."""
        await self._ledger.beat(status)
        await self._answers.beat()

    async def report(self, lane: str, pause: float) -> None:
        """As `Coordinator.report`."""
        await self._limits.draw(Draw(lane, pause=pause))

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """As `Coordinator.usage`."""
        return await self._ledger.usage(window)

    async def used(self, name: str, window: int) -> int:
        """As `Coordinator.used`."""
        return await self._limits.used(name, window)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """As `Coordinator.get_many`."""
        return await self._answers.get_many(keys)

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """As `Coordinator.put`."""
        await self._answers.put(key, answer)

    async def claim(self, key: str) -> Claim:
        """As `Coordinator.claim`."""
        return await self._answers.claim(key)

    async def release(self, key: str) -> None:
        """As `Coordinator.release`."""
        await self._answers.release(key)
