"""What a run may spend: its holds stay within its caps, and wait where others' may come to less."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from llmctl.behind import Write
from llmctl.clock import Clock
from llmctl.errors import BudgetRefused, Cancelled
from llmctl.guards.early import Early
from llmctl.guards.refusing import crossed, exhausted, refuse
from llmctl.protocols import (
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    Hold,
    LedgerStore,
)
from llmctl.storage.caps import same_model
from llmctl.types import CallRecord, Request, Usage

POLL = 0.1
"""Seconds between two looks at what other processes have settled meanwhile. One's own are known
at once."""

Caps = Callable[[float], Sequence[BudgetWindow]]
"""The caps of a moment, in seconds since the epoch: each in its window then."""


class Overshoot(Struct, frozen=True):
    """What providers billed beyond the held worst case: dollars, and of how many calls."""

    amount: Decimal = Decimal(0)
    calls: int = 0


class Purse:
    """The ledger as one run spends from it, whichever providers it asks. Without caps every hold
    is simply written.

    `warn` hears of each share of a budget that a person wants to be told of, once in all
    processes. Raises what the ledger does.
    """

    def __init__(self, ledger: LedgerStore, clock: Clock, warn: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._warn = warn
        self._find: Caps | None = None
        self._found: tuple[BudgetWindow, ...] = ()
        self._window = (0.0, 0.0)
        self._stopped: Callable[[], bool] = lambda: False
        self._waits: Callable[[BudgetDenied], None] = lambda _: None
        self._open: dict[str, tuple[Hold, bool]] = {}
        self._early = Early(ledger)
        self._gate = asyncio.Lock()
        self._settled = asyncio.Event()
        self._over: BudgetDenied | None = None
        self._waiting = self._asking = 0
        self.overshoot = Overshoot()

    def limit(
        self,
        caps: Caps,
        stopped: Callable[[], bool] = lambda: False,
        waits: Callable[[BudgetDenied], None] = lambda _: None,
    ) -> None:
        """Hold all further calls to `caps`. Once `stopped` nothing waits any more. `waits` hears
        of a call that has to."""
        self._find, self._stopped, self._waits = caps, stopped, waits

    @property
    def waiting(self) -> bool:
        """Whether calls wait until others have settled."""
        return self._waiting > 0

    def caps_of(self, request: Request) -> tuple[BudgetWindow, ...]:
        """The caps that the request counts towards now."""
        caps = self._caps(self._clock.wall())
        return tuple([cap for cap in caps if not cap.match or _matches(cap.match, request)])

    def _caps(self, now: float) -> tuple[BudgetWindow, ...]:
        if self._find is None:
            return ()
        start, end = self._window
        if not start <= now < end:
            self._found = tuple(self._find(now))
            starts = [cap.start / 1000 for cap in self._found]
            ends = [cap.end / 1000 for cap in self._found]
            self._window = (max(starts, default=0.0), min(ends, default=float("inf")))
        return self._found

    def standing(self) -> list[tuple[BudgetWindow, BudgetUsage]]:
        """Every cap of the present that is in use, and what counts against it."""
        caps = self._caps(self._clock.wall())
        found = ((cap, self._ledger.standing(cap)) for cap in caps)
        return [(cap, standing) for cap, standing in found if standing is not None]

    async def hold_early(self, calls: Sequence[tuple[Request, Usage, Decimal | None]]) -> None:
        """Put calls that are made next on record together, each with what it can use and cost at
        the most. Those that are not, because a budget is short, or would never let them through,
        are held one by one."""
        if not self._early.wanted:
            return
        now, holds = self._clock.wall(), list[tuple[Hold, Sequence[BudgetWindow]]]()
        for request, estimate, cost in calls:
            hold, caps = Hold(request.call_id, request, estimate, cost, now), self.caps_of(request)
            with contextlib.suppress(BudgetRefused):
                refuse(hold, caps)
                holds.append((hold, caps))
        if holds:
            self._asking += 1
            try:
                await self._early.add(holds)
            finally:
                self._asking -= 1

    def is_early(self, request: Request) -> bool:
        """Whether the call has an early hold: then nothing keeps it from being sent as it is."""
        return self._early.has(request.call_id)

    def take_early(self, request: Request) -> bool:
        """Let the call, which is made now, have its early hold; False where it has none."""
        hold = self._early.take(request.call_id)
        if hold is not None:
            self._open[hold.call_id] = (hold, False)
        return hold is not None

    async def give_back(self) -> None:
        """End the early holds of calls that are not made any more."""
        await self._early.give_back()

    async def hold(
        self,
        request: Request,
        estimate: Usage,
        cost: Decimal | None,
        caps: Sequence[BudgetWindow] | None = None,
    ) -> None:
        """Return when the call is on record, durably, at its worst case `cost`. `caps` are
        `caps_of(request)`, for who has them.

        Raises `BudgetRefused` for a call that no cap would ever let through, `BudgetExhausted`
        when there is not enough left of one, and `Cancelled` once the run is stopped.
        """
        hold = Hold(request.call_id, request, estimate, cost, self._clock.wall())
        if caps is None:
            caps = self.caps_of(request)
        if not caps:
            await self._ledger.hold(hold)
            self._open[hold.call_id] = (hold, False)
            return
        refuse(hold, caps)
        if not self._gate.locked() and self._over is None:
            self._asking += 1
            try:
                refused = await self._ledger.hold(hold, caps)
                if refused is None:
                    self._open[hold.call_id] = (hold, False)
                    return
            finally:
                self._asking -= 1
            if not refused.never:
                self._waits(refused)
        self._waiting += 1
        try:
            async with self._gate:  # first come, first served
                await self._early.refused()  # nor may those who come later have had theirs
                await self._wait(hold)
        finally:
            self._waiting -= 1

    async def _wait(self, hold: Hold) -> None:
        while True:
            self._settled.clear()
            if self._over is not None:
                raise exhausted(hold, self._over)
            if self._stopped():
                raise Cancelled("not sent: the run was stopped", sent=False)
            hold = replace(hold, at=self._clock.wall())
            caps = self.caps_of(hold.request)
            refuse(hold, caps)
            refused = await self._ledger.hold(hold, caps)
            if refused is None:
                self._open[hold.call_id] = (hold, True)
                return
            if refused.never and not self._open and not self._asking:
                self._over = refused
                raise exhausted(hold, refused)
            await self._pause()

    async def _pause(self) -> None:
        """Return when a call of this process has settled, or those of others may have."""
        waits = (
            asyncio.ensure_future(self._settled.wait()),
            asyncio.ensure_future(self._clock.sleep(POLL)),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def again(self, request: Request, uncertain: int) -> bool:
        """Hold the call for one attempt more than the `uncertain` ones that may have been billed
        already. False, and nothing has changed, when a cap has no room for that."""
        if request.call_id not in self._open:
            return True
        held, waited = self._open[request.call_id]
        hold = replace(held, times=1 + uncertain)
        caps = [cap for cap in self._caps(hold.at) if _matches(cap.match, request)]
        if await self._ledger.hold(hold, caps) is not None:
            return False
        self._open[request.call_id] = (hold, waited)
        return True

    def settle(
        self, outcome: CallRecord, *, lazily: bool = False
    ) -> Write[Sequence[BudgetWarning]]:
        """Begin to write the call's row and to end its hold; durable when that is done. `lazily`:
        nobody waits for it, but calls that wait for what it leaves of a budget."""
        hold, waited = self._open.get(outcome.request.call_id, (None, False))
        if hold is not None and waited:
            # It belongs to the day it was let through on, not to that on which it had to wait.
            outcome = replace(outcome, started=hold.at)
        warned = [cap for cap in self._caps(self._clock.wall()) if cap.warn_at]
        cost = None if hold is None else hold.cost
        if self._find is not None and cost is not None and (outcome.cost or 0) > cost:
            over = (outcome.cost or 0) - cost
            self.overshoot = Overshoot(self.overshoot.amount + over, self.overshoot.calls + 1)
        writing = self._ledger.settle(outcome, warned, lazily=lazily and not self._waiting)
        call_id = outcome.request.call_id
        self._early.take(call_id)  # it was not made, and its row ends the hold

        def ended(error: BaseException | None) -> None:
            self._open.pop(call_id, None)
            self._settled.set()
            if error is None:
                for crossing in writing.result():
                    self._warn(crossed(crossing))

        writing.then(ended)
        return writing

    def check(self) -> None:
        """Raises what has kept a call from being put on record, where it would every other one."""
        self._ledger.check()

    async def settle_kept(self, outcomes: Sequence[CallRecord]) -> None:
        """Write the rows of answers that took no call; durable when this returns."""
        await self._ledger.settle_kept(outcomes)


def _matches(match: Mapping[str, str], request: Request) -> bool:
    """Whether the request has what a cap matches by; whose run it is, and who runs it, was
    looked at when the caps were made."""
    target = request.target
    for name, wanted in match.items():
        if name == "model":
            found = same_model(wanted, target.model)
        elif name in {"profile", "provider"}:
            found = getattr(target, name) == wanted
        else:
            tag = name.removeprefix("tag:")
            found = tag == name or request.tags.get(tag) == wanted
        if not found:
            return False
    return True
