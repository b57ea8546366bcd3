"""Budgets: every call is held at its worst case before it is sent, and settled at its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.errors import BudgetExhausted, BudgetRefused, Cancelled, LlmctlError
from llmctl.pricing import HOW_TO_SET
from llmctl.protocols import Budget, BudgetDenied, BudgetUsage, BudgetWindow, Emit, Handler, Hold
from llmctl.shutdown import first_of
from llmctl.storage.ledger import BEAT, SILENCE
from llmctl.storage.ledger_rows import kind_of, matches
from llmctl.types import Answer, CallRecord, Request, Usage

# Seconds between two looks at what other processes have settled meanwhile, at first and at last.
POLL, LONGEST_POLL = 0.1, 5.0
_ZERO = Decimal(0)

Windows = Callable[[float], Sequence[BudgetWindow]]
"""The budget windows of a moment, in seconds since the epoch."""

WorstCase = Callable[[Request], Awaitable[tuple[Usage, Decimal | None]]]
"""The most that a request can use, and cost in US dollars (None: not known)."""


Estimated = tuple[Request, Usage, Decimal | None]
"""A request with the most that it can use and cost."""


class Overshoot(Struct):
    """What providers billed beyond the held worst case: US dollars, and of how many calls."""

    amount: Decimal = _ZERO
    calls: int = 0


class RunBudget:
    """The ledger as one run spends from it, whichever providers it asks. `warn` gets a sentence for
    each share of a budget that is reached, once in all processes. Raises what the ledger does."""

    def __init__(
        self, ledger: Budget, clock: Clock, warn: Callable[[str], None], run_id: str, user: str
    ) -> None:
        self._ledger, self._clock, self._warn = ledger, clock, warn
        self._run_id, self._user = run_id, user
        self._windows_at: Windows = lambda _: ()
        self._windows: tuple[BudgetWindow, ...] = ()
        self._period = (0.0, 0.0)
        self._stopped: Callable[[], bool] = lambda: False
        self._on_wait: Callable[[BudgetDenied], None] = lambda _: None
        self._open: dict[str, tuple[Hold, tuple[BudgetWindow, ...], bool]] = {}
        self._used: set[str] = set()
        self._turn, self._settled = asyncio.Lock(), asyncio.Event()
        self._exhausted: BudgetDenied | None = None
        self._asking = 0
        self._beating: asyncio.Task[None] | None = None
        self._heard: tuple[object, float] = (None, 0.0)  # signs of life of others, and when
        self.in_batch = False  # calls go into a provider's batch
        self.ours = {run_id}  # this run, and those whose batches it waits for
        self.waiting = 0  # calls, until others have settled
        self.limited = 0  # calls that got an output limit, so that there is a worst case
        self.overshoot = Overshoot()

    def limit(
        self,
        windows: Windows,
        stopped: Callable[[], bool] = lambda: False,
        on_wait: Callable[[BudgetDenied], None] = lambda _: None,
    ) -> None:
        """Hold all further calls to `windows`. Once `stopped` nothing waits any more. `on_wait`
        is called for a call that has to wait for others."""
        self._windows_at, self._stopped, self._on_wait = windows, stopped, on_wait
        self._period = (0.0, 0.0)

    def windows_of(self, request: Request) -> tuple[BudgetWindow, ...]:
        """The windows that the request counts towards now."""
        windows = self._current(self._clock.wall())
        if not any(window.match for window in windows):
            return windows
        kind = kind_of(request, self._run_id, self._user)
        return tuple([window for window in windows if matches(window.match, kind)])

    async def usages(self) -> list[tuple[BudgetWindow, BudgetUsage]]:
        """Every present window that calls of this run count towards, and its usage."""
        windows = self._current(self._clock.wall())
        return [(w, await self._ledger.usage(w)) for w in windows if w.key in self._used]

    async def hold(
        self,
        request: Request,
        estimate: Usage,
        cost: Decimal | None,
        windows: tuple[BudgetWindow, ...],
        shorter: Callable[[], Awaitable[Estimated]] | None = None,
    ) -> Request:
        """Return when the call is on record, durably, at its worst case `cost`. `windows` are
        `windows_of(request)`. Gives the request that is held: what `shorter` makes of it where
        there is less left, once it has waited, than there was. Raises `BudgetRefused` for a call
        that no budget would ever let through, `BudgetExhausted` when there is not enough left of
        one, and `Cancelled` once the run is stopped."""
        if request.call_id in self._open and cost is not None:  # asked once more, and billed twice
            held = self._open[request.call_id][0]
            cost = None if held.cost is None else cost + held.cost * held.times
        now, queued = self._clock.wall(), self.in_batch
        hold = Hold(request.call_id, request, estimate, cost, now, in_batch=queued)
        _refuse(hold, windows)
        if not windows or (not self._turn.locked() and self._exhausted is None):
            denied = await self._try(hold, windows, waited=False)
            if denied is None:
                return request
            if not denied.never:
                self._on_wait(denied)
        self.waiting += 1
        try:
            async with self._turn:  # first come, first served
                return await self._wait(hold, shorter)
        finally:
            self.waiting -= 1

    async def limit_output(
        self, request: Request, most: int, windows: Sequence[BudgetWindow], worst: WorstCase
    ) -> Request:
        """The request with an output limit: `most` tokens, or what the budget has left where that
        is less."""

        async def cost(limit: int) -> Decimal:
            return (await worst(replace(request, max_tokens=limit)))[1] or _ZERO

        usages = [(window.limit, await self._ledger.usage(window)) for window in windows]
        left = min(limit - usage.spent for limit, usage in usages)
        whole, least = await cost(most), await cost(1)
        limit = most
        if whole > left:
            each = (whole - least) / (most - 1) if most > 1 else _ZERO
            limit = max(1, min(most, 1 + int((left - least) / each))) if each else 1
        return replace(request, max_tokens=limit)

    async def can_afford(self, request: Request, uncertain: int) -> bool:
        """Hold the call for one attempt more than the `uncertain` ones that may have been billed
        already. False, and nothing has changed, when a budget has no room for that."""
        if request.call_id not in self._open:
            return True
        held, windows, waited = self._open[request.call_id]
        return await self._try(replace(held, times=1 + uncertain), windows, waited=waited) is None

    async def settle(self, record: CallRecord) -> None:
        """Write the call's row and end its hold; durable on return."""
        call_id, cost = record.request.call_id, record.cost or _ZERO
        if call_id in self._open:
            hold, windows, waited = self._open[call_id]
            if waited:
                # It belongs to the day it was let through on, not to that on which it waited.
                record = replace(record, started=hold.at)
            if windows and hold.cost is not None and cost > hold.cost * hold.times:
                self.overshoot.amount += cost - hold.cost * hold.times
                self.overshoot.calls += 1
        try:
            warnings = await self._ledger.settle(record)
        finally:
            self._open.pop(call_id, None)
            self._settled.set()
        for warning in warnings:
            window, percent = warning.window, (warning.share * 100).normalize()
            spent, limit = usd(warning.spent), usd(window.limit)
            self._warn(f"budget {window.name}: {percent:f}% is reached, {spent} of {limit}")

    async def _try(
        self, hold: Hold, windows: tuple[BudgetWindow, ...], *, waited: bool
    ) -> BudgetDenied | None:
        self._asking += 1
        try:
            denied = await self._ledger.hold(hold, windows)
            if denied is None:
                if not hold.in_batch:  # a batch outlives the process, and may have many rows
                    self._open[hold.call_id] = (hold, windows, waited)
                self._used.update([window.key for window in windows])
                self._beating = self._beating or asyncio.create_task(self._beat())
        finally:
            self._asking -= 1
        return denied

    async def _beat(self) -> None:
        while self._open or self.in_batch:
            await asyncio.sleep(BEAT)  # real time: what others see of this process
            if self._open or self.in_batch:  # else the ledger may be closed by now
                with suppress(LlmctlError):
                    await self._ledger.beat()
        self._beating = None

    def close(self) -> None:
        """Beat no more: the ledger is about to be closed."""
        if self._beating is not None:
            self._beating.cancel()

    async def _wait(
        self, hold: Hold, shorter: Callable[[], Awaitable[Estimated]] | None
    ) -> Request:
        pause = POLL
        while True:
            self._settled.clear()
            if self._exhausted is not None:
                raise _exhausted(hold, self._exhausted)
            if self._stopped():
                raise Cancelled("not sent: the run was stopped", sent=False)
            hold = replace(hold, at=self._clock.wall())
            windows = self.windows_of(hold.request)
            _refuse(hold, windows)
            denied = await self._try(hold, windows, waited=True)
            if denied is None:
                return hold.request
            over = denied.never or self._is_silent(denied)
            if over and not self._open and not self._asking:
                if shorter is not None:  # what it was held at was all there was before it waited
                    request, estimate, cost = await shorter()
                    if cost is not None and cost < (hold.cost or _ZERO):
                        hold = replace(hold, request=request, estimate=estimate, cost=cost)
                        continue
                self._exhausted = denied
                raise _exhausted(hold, denied)
            # Until a call of this process has settled, or those of others may have: batches take
            # hours.
            await first_of(self._settled.wait(), self._clock.sleep(pause))
            pause = min(pause * 1.1, LONGEST_POLL)

    def _is_silent(self, denied: BudgetDenied) -> bool:
        """Whether those who hold the budget have given no sign of life while this process waited:
        by its own clock, since clocks differ and machines sleep."""
        signs = tuple(one for one in denied.holders if one.run_id not in self.ours)
        now = self._clock.monotonic()
        if signs != self._heard[0]:
            self._heard = signs, now
        return bool(signs) and now - self._heard[1] >= SILENCE

    def _current(self, now: float) -> tuple[BudgetWindow, ...]:
        if not self._period[0] <= now < self._period[1]:
            self._windows = tuple(self._windows_at(now))
            start = max([w.start / 1000 for w in self._windows], default=0.0)
            self._period = start, min([w.end / 1000 for w in self._windows], default=float("inf"))
        return self._windows


def budget_guard(
    inner: Handler,
    budget: RunBudget,
    bound: WorstCase,
    exact: WorstCase,
    default: Callable[[Request], Awaitable[int | None]],
) -> Handler:
    """The guard: takes a hold at the worst case, durably, before the request is handed on.

    `bound` may be generous; where a budget applies `exact` is asked, which raises `BudgetRefused`
    for what it cannot bound. `default` is the output limit of a request that has none, which is
    sent then. The accounting guard's sink settles the hold; a process that is killed before leaves
    it: that is how the next one knows what may have been billed. Raises as `RunBudget.hold`.
    """

    async def handle(request: Request, emit: Emit | None) -> Answer:
        windows = budget.windows_of(request)
        most = await default(request) if windows else None
        if most is None:
            estimate, cost = await (exact if windows else bound)(request)
            await budget.hold(request, estimate, cost, windows)
            return await inner(request, emit)

        async def limited() -> Estimated:
            shorter = await budget.limit_output(request, most, windows, exact)
            return (shorter, *await exact(shorter))

        held = await budget.hold(*await limited(), windows, limited)
        budget.limited += 1
        return await inner(held, emit)

    return handle


def usd(amount: Decimal) -> str:
    """Dollars, at least cents, to the microdollar: `$0.002`, `$1,200.00`."""
    whole, _, rest = f"{amount:,.6f}".partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"


def held_by(denied: BudgetDenied) -> str:
    """Which other runs hold how much: `run 01J… holds $0.40`."""
    return " and ".join(f"run {one.run_id} holds {usd(one.amount)}" for one in denied.holders)


def _refuse(hold: Hold, windows: Sequence[BudgetWindow]) -> None:
    """Raises `BudgetRefused` for a call that does not fit into a window by itself."""
    target = hold.request.target
    for window in windows:
        if hold.cost is not None and hold.cost <= window.limit:
            continue
        budget = f"the budget of {usd(window.limit)} ({window.name})"
        if hold.cost is not None:
            why = f"the call may cost {usd(hold.cost)}, more than all of {budget}"
            remedy = "lower max_tokens, or raise the budget"
        else:
            why = f"the price of {target.model} is not known, so it cannot be held to {budget}"
            remedy = f"set `price:` in profile {target.profile}, {HOW_TO_SET}"
        raise BudgetRefused(f"{why}: {remedy}", sent=False)


def _exhausted(hold: Hold, denied: BudgetDenied) -> BudgetExhausted:
    window, spent = denied.window, denied.usage.spent
    if not denied.never and any(one.in_batch for one in denied.holders):
        return BudgetExhausted(
            f"{held_by(denied)} of the budget of {usd(window.limit)} ({window.name}) in batches of "
            "the provider, until those are fetched: `llmctl batch --status` says how; then run the "
            "same command again",
            sent=False,
        )
    if not denied.never:
        return BudgetExhausted(
            f"{held_by(denied)} of the budget of {usd(window.limit)} ({window.name}) and gives no "
            f"sign of life: once it has ended, `llmctl cost release --run "
            f"{denied.holders[0].run_id}`, and run the same command again",
            sent=False,
        )
    return BudgetExhausted(
        f"the budget of {usd(window.limit)} ({window.name}) is used up: {usd(spent)} is spent, "
        f"and the next call may cost {usd(hold.cost or _ZERO)}; raise it and run the same "
        "command again",
        sent=False,
    )
