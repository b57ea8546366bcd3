"""Seams of the storage room in memory: what guards need of a ledger and of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from llmctl.clock import Clock
from llmctl.errors import (
    CallTimeout,
    ConnectionFailed,
    DiskError,
    Overloaded,
    ProviderDown,
    ServerFailed,
)
from llmctl.guards.accounting import CostCalculator
from llmctl.pricing import Prices
from llmctl.protocols import (
    IDLE,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    CachedAnswer,
    Claim,
    Hold,
    ProcessStatus,
)
from llmctl.tokens import Counter
from llmctl.types import CallRecord, Request, Usage

OUTAGES = (
    DOWN := ServerFailed("it fails", http_status=503),
    Overloaded("busy"),
    ConnectionFailed("refused"),
    CallTimeout("no connection in time", ambiguous=False),
    ProviderDown("sim", DOWN, 10.0),
)
"""A provider that fails, is overloaded, cannot be reached or is down by the breaker."""


class FakeCosts(CostCalculator):
    """A dollar for a token of output; a character is a token."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Counter(), Prices(), {}, clock)

    def price(self, _: Request, usage: Usage, reported: Decimal | None) -> Decimal | None:
        """The provider's own figure wins."""
        return reported or Decimal(usage.output)

    def estimate(self, _: Request, text: str) -> Usage:
        """The text."""
        return Usage(output=len(text), estimated=True)


class FakeLedger:
    """A `Budget` without a disk: sums by window key, holds by call."""

    def __init__(self) -> None:
        self.holds: dict[str, tuple[Hold, tuple[BudgetWindow, ...]]] = {}
        self.spent: dict[str, Decimal] = {}
        self.warned: set[tuple[str, Decimal]] = set()
        self.records: list[CallRecord] = []
        self.said: list[ProcessStatus] = []

    async def hold(self, hold: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """As the seam says."""
        wanted = (hold.cost or 0) * hold.times
        for window in windows:
            usage = self._usage(window, hold.call_id)
            if usage.spent + usage.held + wanted > window.limit:
                return BudgetDenied(window, usage, usage.spent + wanted > window.limit)
        self.holds[hold.call_id] = (hold, tuple(windows))
        return None

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """As the seam says."""
        self.records.append(record)
        _, windows = self.holds.pop(record.request.call_id, (None, ()))
        found = []
        for window in windows:
            spent = self.spent.get(window.key, Decimal(0)) + (record.cost or 0)
            self.spent[window.key] = spent
            for share in window.warn_at:
                if spent >= share * window.limit and (window.key, share) not in self.warned:
                    self.warned.add((window.key, share))
                    found.append(BudgetWarning(window, share, spent))
        return found

    async def beat(self, status: ProcessStatus = IDLE) -> None:
        """As the seam says."""
        self.said.append(status)

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """As the seam says."""
        return self._usage(window)

    def _usage(self, window: BudgetWindow, without: str = "") -> BudgetUsage:
        held = sum(
            (
                (hold.cost or Decimal(0)) * hold.times
                for hold, windows in self.holds.values()
                if hold.call_id != without and any(one.key == window.key for one in windows)
            ),
            Decimal(0),
        )
        return BudgetUsage(self.spent.get(window.key, Decimal(0)), held)


class FakeCache:
    """An `AnswerCache` without a disk. Processes that share one share `answers` and `owners`."""

    def __init__(self, other: FakeCache | None = None) -> None:
        self.answers: dict[str, CachedAnswer] = {} if other is None else other.answers
        self.owners: dict[str, object] = {} if other is None else other.owners
        self.claims = 0
        self.beats = 0
        self.broken = False

    async def get(self, key: str) -> CachedAnswer | None:
        """As the seam says."""
        return self.answers.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """As the seam says."""
        self._check()
        return {key: self.answers[key] for key in keys if key in self.answers}

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """As the seam says."""
        self._check()
        self.answers[key] = answer
        self.owners.pop(key, None)

    async def claim(self, key: str) -> Claim:
        """As the seam says."""
        self._check()
        self.claims += 1
        if self.owners.setdefault(key, self) is not self:
            return "theirs"
        return "kept" if key in self.answers else "ours"

    async def release(self, key: str) -> None:
        """As the seam says."""
        if self.owners.get(key) is self:
            del self.owners[key]

    async def beat(self) -> None:
        """As the seam says."""
        self.beats += 1

    def _check(self) -> None:
        if self.broken:
            raise DiskError("the disk is full")
