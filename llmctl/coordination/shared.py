"""The limits, the budget and the answers of a run that a coordinator keeps for many machines."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import CoordinatorError
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
    Claims,
    Coordinator,
    Hold,
    Lease,
    ProcessStatus,
    Quota,
    SharedLimits,
)
from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.batch_jobs import BatchJobs
from llmctl.storage.ledger_rows import MOST, dollars
from llmctl.token_bucket import Draw
from llmctl.types import CallRecord


class CoordinatedLimits:
    """The `SharedLimits` of a coordinator. Raises `CoordinatorError`."""

    distributed = True

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def open(self) -> None:
        """The coordinator is open."""

    async def draw(self, draw: Draw) -> float:
        """As `SharedLimits.draw`."""
        granted = await self._coordinator.lease(Lease(secrets.token_hex(8), draw))
        if not isinstance(granted, float):
            raise CoordinatorError(f"the coordinator answers a draw with {granted!r}")
        return granted

    async def spend(self, quotas: Sequence[Quota]) -> Quota | None:
        """As `SharedLimits.spend`."""
        lease = Lease(secrets.token_hex(8), quotas=tuple(quotas))
        granted = await self._coordinator.lease(lease)
        return granted if isinstance(granted, Quota) else None

    async def used(self, name: str, window: int) -> int:
        """As `SharedLimits.used`."""
        return await self._coordinator.used(name, window)


class Shared(Struct, frozen=True, kw_only=True):
    """What a run shares with others, on this machine or on many.

    Attributes:
        run_id, user: whose calls they are in the ledger.
        limits, budget: what may be sent, and spent.
        answers: the cache of profiles that keep answers, or (False) of those that keep none.
        kept: of those answers what is in the files of this machine; None: nothing is.
        claims: who does what, where other machines are to see it.
        is_away: what is shared cannot be had at the moment.
        check: raises `DiskError` when the ledger's file was removed or replaced.
        watch: as `Ledger.watch`.
        jobs: the providers' batches on record; None where another machine keeps them.

    """

    run_id: str
    user: str
    limits: SharedLimits
    budget: Budget
    answers: Callable[[bool], AnswerCache]
    kept: Callable[[bool], SqliteCache] | None = None
    claims: Claims | None = None
    is_away: Callable[[], bool] = lambda: False
    check: Callable[[], None] = lambda: None
    watch: Callable[[Sequence[BudgetWindow], int], None] = lambda _, __: None
    jobs: BatchJobs | None = None

    def by(self, coordinator: Coordinator, is_away: Callable[[], bool]) -> Shared:
        """The same where the coordinator keeps for many machines what was this one's alone; the
        calls made here stay in its ledger."""

        def answers(enabled: bool) -> AnswerCache:  # noqa: FBT001 - as it is called
            kept = self.answers(enabled)
            return CoordinatedAnswers(coordinator, kept) if enabled else kept

        return replace(
            self,
            limits=CoordinatedLimits(coordinator),
            budget=CoordinatedBudget(coordinator, self.budget),
            answers=answers,
            claims=CoordinatedAnswers(coordinator),
            is_away=is_away,
        )


_UNLIMITED = dollars(MOST)


class CoordinatedBudget:
    """The `Budget` of a coordinator. `ledger` is this machine's, which keeps the rows of the calls
    made here, where the coordinator has none, and limits nothing. Raises `CoordinatorError` and
    `DiskError`."""

    def __init__(self, coordinator: Coordinator, ledger: Budget | None = None) -> None:
        self._coordinator, self._ledger = coordinator, ledger

    async def hold(self, hold: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """As `Budget.hold`."""
        bare = replace(hold, request=hold.request.without_content())
        # The same call may be held anew, at another amount: that is another lease of it.
        lease = Lease(f"{hold.call_id} {hold.cost} {hold.times}", hold=bare, windows=tuple(windows))
        granted = await self._coordinator.lease(lease)
        if isinstance(granted, BudgetDenied):
            return granted
        if self._ledger is not None:
            counted = [replace(each, limit=_UNLIMITED, warn_at=()) for each in windows]
            await self._ledger.hold(hold, counted)
        return None

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """As `Budget.settle`; the row is on this machine's disk before others may spend the rest of
        what was held."""
        if self._ledger is not None:
            await self._ledger.settle(record)
        return await self._coordinator.settle(record)

    async def beat(self, status: ProcessStatus = IDLE) -> None:
        """As `Budget.beat`."""
        if self._ledger is not None:
            await self._ledger.beat(status)
        await self._coordinator.extend(status)

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """As `Budget.usage`."""
        return await self._coordinator.usage(window)


class CoordinatedAnswers:
    """The `AnswerCache` of a coordinator. `kept` is this machine's, which is asked first, and keeps
    the answers that were got here. Raises `CoordinatorError` and `DiskError`."""

    def __init__(self, coordinator: Coordinator, kept: AnswerCache | None = None) -> None:
        self._coordinator, self._kept = coordinator, kept

    async def get(self, key: str) -> CachedAnswer | None:
        """As `AnswerCache.get`."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """As `AnswerCache.get_many`."""
        found = {} if self._kept is None else {**await self._kept.get_many(keys)}
        if rest := [key for key in keys if key not in found]:
            found |= await self._coordinator.get_many(rest)
        return found

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """As `AnswerCache.put`."""
        if self._kept is not None:
            await self._kept.put(key, answer)
        await self._coordinator.put(key, answer)

    async def claim(self, key: str) -> Claim:
        """As `AnswerCache.claim`."""
        return await self._coordinator.claim(key)

    async def release(self, key: str) -> None:
        """As `AnswerCache.release`."""
        await self._coordinator.release(key)

    async def beat(self) -> None:
        """As `AnswerCache.beat`."""
        await self._coordinator.extend()
