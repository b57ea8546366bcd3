"""Stores that keep everything in memory: for runs without a disk to write to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TypeVar

from msgspec.structs import replace

from llmctl.behind import Write
from llmctl.protocols import (
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    CachedAnswer,
    Hold,
)
from llmctl.storage.caps import counts, gravest, newly_reached, refusal, standing
from llmctl.storage.rows import CallRow, HeldCall, call_row, held_call
from llmctl.types import CallRecord

T = TypeVar("T")


class MemoryCache:
    """A `CacheStore` that ends with the process. It keeps the answers used last, about
    `max_bytes` of them."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, CachedAnswer] = OrderedDict()

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def get_all(self, keys: Sequence[str]) -> dict[str, CachedAnswer]:
        """The answers to those of the keys that have one."""
        return {key: answer for key in keys if (answer := self.get(key)) is not None}

    async def claim(self, key: str) -> bool:  # noqa: ARG002 - nobody else can be at it
        """True: no other process sees this memory."""
        return True

    async def claim_all(self, keys: Sequence[str]) -> set[str]:
        """Those for which no answer is kept."""
        return {key for key in keys if key not in self._answers}

    def release(self, key: str) -> None:
        """Nothing to give back."""

    def beat(self) -> None:
        """Nobody listens."""

    def put(self, key: str, answer: CachedAnswer) -> Write[None]:
        """Keep the answer, instead of an older one."""
        answer = replace(answer, asked="")
        old = self._answers.pop(key, None)
        if old is not None:
            self._bytes -= _size(old)
        self._answers[key] = answer
        self._bytes += _size(answer)
        while self._bytes > self._max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= _size(oldest)
        return _done(None)

    def hurry(self) -> None:
        """Everything is kept already."""

    def close(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._bytes = 0


class MemoryLedger:
    """A `LedgerStore` that ends with the process. `run_id` and `user` go into every row."""

    def __init__(self, run_id: str, user: str) -> None:
        self._run_id = run_id
        self._user = user
        self._calls: dict[str, CallRow] = {}
        self._holds: dict[str, HeldCall] = {}
        self._asked: dict[str, str] = {}
        self._told: dict[str, Decimal] = {}

    async def hold(self, hold: Hold, caps: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """Put the call on record, if all `caps` have room for it, and say which has not
        otherwise; a second hold of one call takes the place of the first."""
        held = held_call(hold, self._run_id, self._user)
        before = self._holds.pop(hold.call_id, None)
        amount = held.amount_pico or 0
        refused = gravest(refusal(cap, *self._sums(cap), amount) for cap in caps)
        kept = held if refused is None else before
        if kept is not None:
            self._holds[hold.call_id] = kept
        return refused

    async def hold_all(self, holds: Sequence[tuple[Hold, Sequence[BudgetWindow]]]) -> bool:
        """Put many calls on record, or none where they do not all fit."""
        before = dict(self._holds)
        for hold, caps in holds:
            if await self.hold(hold, caps) is not None:
                self._holds = before
                return False
        return True

    async def give_back(self, call_ids: Sequence[str]) -> None:
        """Forget the holds of calls that were not made."""
        for call_id in call_ids:
            self._holds.pop(call_id, None)

    def standing(self, cap: BudgetWindow) -> BudgetUsage | None:
        """What counts against the cap now."""
        return standing(*self._sums(cap))

    def check(self) -> None:
        """Nothing keeps a call from being put on record."""

    def _sums(self, cap: BudgetWindow) -> tuple[int, int]:
        """Picodollars spent and held."""
        spent = held = 0
        for row in self._calls.values():
            if cap.start <= row.started_ms < cap.end and self._counts(cap, row):
                spent += (row.cost_pico or 0) + (row.uncertain_pico or 0)
        for hold in self._holds.values():
            if cap.start <= hold.at_ms < cap.end and counts(cap.match, hold):
                held += hold.amount_pico or 0
        return spent, held

    def _counts(self, cap: BudgetWindow, row: CallRow) -> bool:
        asked = replace(row, model=self._asked.get(row.call_id, row.model))
        return counts(cap.match, row) or counts(cap.match, asked)

    def settle(
        self,
        outcome: CallRecord,
        caps: Sequence[BudgetWindow] = (),
        *,
        lazily: bool = False,  # noqa: ARG002 - the seam's
    ) -> Write[Sequence[BudgetWarning]]:
        """Write the call's row and end its hold; gives the shares of `caps` to warn at that are
        reached now.

        Raises `ValueError` for a call that is settled already, unless its row says `unknown`.
        """
        call_id = outcome.request.call_id
        old = self._calls.get(call_id)
        if old is not None and old.status != "unknown":
            raise ValueError(f"the row of call {call_id} is final")
        held = self._holds.pop(call_id, None)
        if held is not None:
            self._asked[call_id] = held.model
        self._calls[call_id] = call_row(outcome, held, self._run_id, self._user)
        return _done(list(self._crossings(caps)))

    def _crossings(self, caps: Sequence[BudgetWindow]) -> Iterator[BudgetWarning]:
        for cap in caps:
            spent, _ = self._sums(cap)
            share = newly_reached(cap, spent, self._told.get(cap.key, Decimal(0)))
            if share is not None:
                self._told[cap.key] = share
                yield BudgetWarning(cap, share, standing(spent, 0).spent)

    def hurry(self) -> None:
        """Everything is settled already."""

    async def settle_kept(self, outcomes: Sequence[CallRecord]) -> None:
        """Write the rows of answers that took no call."""
        for outcome in outcomes:
            await self.settle(outcome)

    def calls(self, since: float | None = None, until: float | None = None) -> Iterator[CallRow]:
        """Ended calls in the order they were started, from `since` to before `until` (seconds
        since the epoch; None: no bound)."""
        for row in sorted(self._calls.values(), key=lambda row: (row.started_ms, row.call_id)):
            if since is not None and row.started_ms < round(since * 1000):
                continue
            if until is not None and row.started_ms >= round(until * 1000):
                continue
            yield row

    def open_holds(self) -> list[HeldCall]:
        """The calls under way, oldest first."""
        return sorted(self._holds.values(), key=lambda held: (held.at_ms, held.call_id))

    def close(self) -> None:
        """Nothing to give back."""


def _done(value: T) -> Write[T]:
    write: Write[T] = Write()
    write.set_result(value)
    return write


def _size(answer: CachedAnswer) -> int:
    # What Python adds for the object and its fields is about a kilobyte.
    return 1024 + len(answer.text) + len(answer.body or b"")
