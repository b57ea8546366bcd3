"""Stores that keep everything in memory: for runs without a disk to write to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmctl.protocols import CachedAnswer, Hold
from llmctl.stores.rows import CallRow, HeldCall, call_row, held_call
from llmctl.types import Outcome


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

    def release(self, key: str) -> None:
        """Nothing to give back."""

    def beat(self) -> None:
        """Nobody listens."""

    async def put(self, key: str, answer: CachedAnswer) -> None:
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

    async def hold(self, hold: Hold) -> None:
        """Put the call on record; a second hold of one call takes the place of the first."""
        self._holds[hold.call_id] = held_call(hold, self._run_id, self._user)

    async def settle(self, outcome: Outcome) -> None:
        """Write the call's row and end its hold.

        Raises `ValueError` for a call that is settled already, unless its row says `unknown`.
        """
        call_id = outcome.request.call_id
        old = self._calls.get(call_id)
        if old is not None and old.status != "unknown":
            raise ValueError(f"the row of call {call_id} is final")
        held = self._holds.get(call_id)
        self._calls[call_id] = call_row(outcome, held, self._run_id, self._user)
        self._holds.pop(call_id, None)

    async def settle_kept(self, outcomes: Sequence[Outcome]) -> None:
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


def _size(answer: CachedAnswer) -> int:
    # What Python adds for the object and its fields is about a kilobyte.
    return 1024 + len(answer.text) + len(answer.body or b"")
