"""Budgets: every call is held at its worst case before it is sent, and settled at its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.errors import (
    BudgetExhausted,
    BudgetHeld,
    BudgetRefused,
    Cancelled,
    LlmctlError,
    Unpriced,
)
from llmctl.pricing import HOW_TO_SET
from llmctl.protocols import (
    IDLE,
    Budget,
    BudgetDenied,
    BudgetUsage,
    BudgetWindow,
    Emit,
    Handler,
    Hold,
    Observer,
    ProcessStatus,
)
from llmctl.shutdown import first_of
from llmctl.storage.ledger import BEAT
from llmctl.storage.ledger_rows import kind_of, matches
from llmctl.storage.process import SILENCE
from llmctl.types import Answer, CallRecord, Request, Usage

# Seconds between two looks at what other processes have settled meanwhile, at first and at last.
POLL, LONGEST_POLL = 0.1, 5.0
_ZERO = Decimal(0)

Windows = Callable[[float], Sequence[BudgetWindow]]
"""The budget windows of a moment, in seconds since the epoch."""

OwnWindows = Callable[[Request, float], Sequence[BudgetWindow]]
"""Further windows of a request at a moment, all of which it counts towards."""

WorstCase = Callable[[Request], Awaitable[tuple[Usage, Decimal | None]]]
"""The most that a request can use, and cost in US dollars (None: not known)."""


Estimated = tuple[Request, Usage, Decimal | None]
"""A request with the most that it can use and cost."""


class Overshoot(Struct):
    """What providers billed beyond the held worst case: US dollars, and of how many calls."""

    amount: Decimal = _ZERO
    calls: int = 0


class _Line(Struct):
    """The calls that wait for the same windows: one asks, the others wait for its `turn`.

    `keys` are the windows of the one that asks, `settled` that a call which held one of them has
    ended, `heard` the signs of life of other runs that hold them, and since when. `exhausted`:
    nothing will come back.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    keys: frozenset[str] = frozenset()
    waiting: int = 0
    heard: tuple[object, float] = (None, 0.0)
    exhausted: BudgetDenied | None = None


class RunBudget:
    """The ledger as one run spends from it, whichever providers and for whomever it asks. `warn`
    gets a sentence for each share of a budget that is reached, once in all processes. `audit` gets
    every call's record before the ledger does: a crash in between leaves the ledger a hold.
    `telemetry` gets it last. `watch` is `Ledger.watch`. Raises what they do."""

    def __init__(
        self,
        ledger: Budget,
        clock: Clock,
        warn: Callable[[str], None],
        run_id: str,
        user: str,
        audit: Observer | None = None,
        telemetry: Observer | None = None,
        watch: Callable[[Sequence[BudgetWindow], int], None] = lambda _, __: None,
    ) -> None:
        self._audit, self._telemetry, self._watch = audit, telemetry, watch
        self._ledger, self._clock, self._warn = ledger, clock, warn
        self._run_id, self._user = run_id, user
        self._windows_at: Windows = lambda _: ()
        self._windows: tuple[BudgetWindow, ...] = ()
        self._period = (0.0, 0.0)
        self._stopped: Callable[[], bool] = lambda: False
        self._on_wait: Callable[[BudgetDenied], None] = lambda _: None
        self._own: OwnWindows = lambda _, __: ()
        self._longest_wait: float | None = None
        self._open: dict[str, tuple[Hold, tuple[BudgetWindow, ...], bool]] = {}
        self._asking: dict[str, tuple[BudgetWindow, ...]] = {}
        self._used: set[str] = set()
        self._lines: dict[frozenset[str], _Line] = {}
        self._beating: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._status: Callable[[], ProcessStatus] = lambda: IDLE
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
        *,
        own: OwnWindows = lambda _, __: (),
        longest_wait: float | None = None,
    ) -> None:
        """Hold all further calls to `windows`, and each to those that are its `own`. Once `stopped`
        nothing waits any more. `on_wait` is called for a call that has to wait for others: for as
        long as those take, or for `longest_wait` seconds, and then a budget that is used up ends
        only the call that meets it."""
        self._windows_at, self._stopped, self._on_wait = windows, stopped, on_wait
        self._own, self._longest_wait = own, longest_wait
        self._period = (0.0, 0.0)

    def windows_of(self, request: Request) -> tuple[BudgetWindow, ...]:
        """The windows that the request counts towards now."""
        now = self._clock.wall()
        windows = self._current(now)
        if any(window.match for window in windows):
            kind = kind_of(request, self._run_id, self._user)
            windows = tuple([window for window in windows if matches(window.match, kind)])
        return (*windows, *self._own(request, now))

    async def usages(self) -> list[tuple[BudgetWindow, BudgetUsage]]:
        """Every present window that calls of this run count towards, and its usage; without those
        that are a request's own."""
        windows = self._current(self._clock.wall())
        return [(w, await self._ledger.usage(w)) for w in windows if w.key in self._used]

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """What counts against a window now."""
        return await self._ledger.usage(window)

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
        one, `BudgetHeld` after the longest wait, and `Cancelled` once the run is stopped."""
        if request.call_id in self._open and cost is not None:  # asked once more, and billed twice
            held = self._open[request.call_id][0]
            cost = None if held.cost is None else cost + held.cost * held.times
        now, queued = self._clock.wall(), self.in_batch
        hold = Hold(request.call_id, request, estimate, cost, now, in_batch=queued)
        _refuse(hold, windows)
        begun, keys = self._clock.monotonic(), _keys(windows)
        if keys not in self._lines:
            denied = await self._try(hold, windows, waited=False)
            if denied is None:
                return request
            if not denied.never:
                self._on_wait(denied)
            elif self._longest_wait is not None and shorter is None:
                raise _exhausted(hold, denied)
        with self._line(keys) as line:
            async with line.turn:  # first come, first served
                return await self._wait(line, hold, shorter, begun)

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

    def adopt(self, hold: Hold, *, waited: bool) -> None:
        """Settle here a call of the run that another machine has held; `waited`: it belongs to the
        day it was held on, not to that on which it began to wait."""
        windows = self.windows_of(hold.request)
        self._watch(windows, round(hold.at * 1000))
        self._open[hold.call_id] = (hold, windows, waited)
        self._used.update([window.key for window in self._windows if window in windows])

    async def settle(self, record: CallRecord) -> None:
        """Write the call's row and end its hold; durable on return."""
        call_id, cost = record.request.call_id, record.cost or _ZERO
        whole = record
        if call_id in self._open:
            hold, windows, waited = self._open[call_id]
            if waited:
                # It belongs to the day it was let through on, not to that on which it waited.
                record = replace(record, started=hold.at)
            if windows and hold.cost is not None and cost > hold.cost * hold.times:
                self.overshoot.amount += cost - hold.cost * hold.times
                self.overshoot.calls += 1
        try:
            try:
                if self._audit is not None:
                    await self._audit(record)
            finally:  # what was paid is on record, though the audit's disk is full
                warnings = await self._ledger.settle(record)
        finally:
            _, windows, _ = self._open.pop(call_id, (None, (), False))
            for line in self._lines.values():
                if any(window.key in line.keys for window in windows):
                    line.settled.set()
        if self._telemetry is not None:
            await self._telemetry(whole)
        for warning in warnings:
            window, percent = warning.window, (warning.share * 100).normalize()
            spent, limit = usd(warning.spent), usd(window.limit)
            self._warn(f"budget {window.name}: {percent:f}% is reached, {spent} of {limit}")

    async def _try(
        self, hold: Hold, windows: tuple[BudgetWindow, ...], *, waited: bool
    ) -> BudgetDenied | None:
        self._asking[hold.call_id] = windows
        try:
            denied = await self._ledger.hold(hold, windows)
            if denied is None:
                if not hold.in_batch:  # a batch outlives the process, and may have many rows
                    self._open[hold.call_id] = (hold, windows, waited)
                self._used.update([window.key for window in self._windows if window in windows])
                self._start_beat()
        finally:
            self._asking.pop(hold.call_id, None)
        return denied

    def report_status(self, status: Callable[[], ProcessStatus]) -> None:
        """Let the signs of life say what `status` gives, besides the calls that wait here."""
        self._status = status

    def status_changed(self) -> None:
        """Say it now, not with the next sign of life."""
        self._news.set()
        self._start_beat()

    def _start_beat(self) -> None:
        self._beating = self._beating or asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        said = IDLE
        while self._is_busy(said):
            with suppress(TimeoutError):  # real time: what others see of this process
                await asyncio.wait_for(self._news.wait(), BEAT)
            self._news.clear()
            if self._is_busy(said):  # else the ledger may be closed by now
                status = self._status()
                said = replace(status, waiting=status.waiting + self.waiting)
                with suppress(LlmctlError):
                    await self._ledger.beat(said)
        self._beating = None

    def _is_busy(self, said: ProcessStatus) -> bool:
        """Whether others should hear of this process, or what it has `said` is over."""
        under_way = self._open or self.in_batch or self.waiting
        return bool(under_way) or said != IDLE or self._status() != IDLE

    async def beat(self) -> None:
        """Say in the ledger that this process lives, which finds out whether it can be written."""
        await self._ledger.beat()

    def close(self) -> None:
        """Beat no more: the ledger is about to be closed."""
        if self._beating is not None:
            self._beating.cancel()

    @contextmanager
    def _line(self, keys: frozenset[str]) -> Iterator[_Line]:
        """The line of those that wait for the windows, while the block is in it."""
        line = self._lines.setdefault(keys, _Line())
        line.waiting += 1
        self.waiting += 1
        self._start_beat()
        try:
            yield line
        finally:
            line.waiting -= 1
            self.waiting -= 1
            if not line.waiting and line.exhausted is None:
                del self._lines[keys]

    async def _wait(
        self,
        line: _Line,
        hold: Hold,
        shorter: Callable[[], Awaitable[Estimated]] | None,
        begun: float,
    ) -> Request:
        pause = POLL
        while True:
            line.settled.clear()
            if line.exhausted is not None:
                raise _exhausted(hold, line.exhausted)
            if self._stopped():
                raise Cancelled("not sent: the run was stopped", sent=False)
            hold = replace(hold, at=self._clock.wall())
            windows = self.windows_of(hold.request)
            line.keys = _keys(windows)
            _refuse(hold, windows)
            denied = await self._try(hold, windows, waited=True)
            if denied is None:
                return hold.request
            if self._is_over(line, denied):
                if shorter is not None:  # what it was held at was all there was before it waited
                    request, estimate, cost = await shorter()
                    if cost is not None and cost < (hold.cost or _ZERO):
                        hold = replace(hold, request=request, estimate=estimate, cost=cost)
                        continue
                line.exhausted = denied if self._longest_wait is None else None
                raise _exhausted(hold, denied)
            if (left := self._left(begun)) <= 0:
                raise _held(hold, denied)
            # Until a call of this process has settled, or those of others may have: batches take
            # hours.
            await first_of(line.settled.wait(), self._clock.sleep(min(pause, left)))
            pause = min(pause * 1.1, LONGEST_POLL)

    def _left(self, begun: float) -> float:
        """Seconds that a call which has waited since `begun` may still wait."""
        if self._longest_wait is None:
            return float("inf")
        return begun + self._longest_wait - self._clock.monotonic()

    def _is_over(self, line: _Line, denied: BudgetDenied) -> bool:
        """Whether to wait for nobody any more. A run, which then ends, waits for its own calls
        under way, and for others while they give signs of life."""
        if self._longest_wait is not None:
            return denied.never
        over = denied.never or self._is_silent(line, denied)
        return over and not self._is_under_way(line)

    def _is_under_way(self, line: _Line) -> bool:
        """Whether a call of this process holds a window that the line waits for, or asks for it."""
        others = [*(windows for _, windows, _ in self._open.values()), *self._asking.values()]
        return any(window.key in line.keys for windows in others for window in windows)

    def _is_silent(self, line: _Line, denied: BudgetDenied) -> bool:
        """Whether those who hold the budget have given no sign of life while this process waited:
        by its own clock, since clocks differ and machines sleep."""
        signs = tuple(one for one in denied.holders if one.run_id not in self.ours)
        now = self._clock.monotonic()
        if signs != line.heard[0]:
            line.heard = signs, now
        return bool(signs) and now - line.heard[1] >= SILENCE

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


def _keys(windows: Sequence[BudgetWindow]) -> frozenset[str]:
    return frozenset([window.key for window in windows])


def _refuse(hold: Hold, windows: Sequence[BudgetWindow]) -> None:
    """Raises `BudgetRefused` for a call that does not fit into a window by itself."""
    target = hold.request.target
    for window in windows:
        if hold.cost is not None and hold.cost <= window.limit:
            continue
        budget = f"the budget of {usd(window.limit)} ({window.name})"
        refused: BudgetRefused
        if hold.cost is not None:
            why = f"the call may cost {usd(hold.cost)}, more than all of {budget}"
            refused = BudgetRefused(f"{why}: lower max_tokens, or raise the budget", sent=False)
        else:
            why = f"the price of {target.model} is not known, so it cannot be held to {budget}"
            remedy = f"set `price:` in profile {target.profile}, {HOW_TO_SET}"
            refused = Unpriced(f"{why}: {remedy}", sent=False)
        refused.window = window
        raise refused


def _exhausted(hold: Hold, denied: BudgetDenied) -> BudgetExhausted:
    window = denied.window
    budget = f"the budget of {usd(window.limit)} ({window.name})"
    if not denied.never and any(one.in_batch for one in denied.holders):
        said = (
            f"{held_by(denied)} of {budget} in batches of the provider, until those are fetched: "
            "`llmctl batch --status` says how; then run the same command again"
        )
    elif not denied.never:
        said = (
            f"{held_by(denied)} of {budget} and gives no sign of life: once it has ended, "
            f"`llmctl cost release --run {denied.holders[0].run_id}`, and run the same command "
            "again"
        )
    else:
        said = (
            f"{budget} is used up: {usd(denied.usage.spent)} is spent, and the next call may cost "
            f"{usd(hold.cost or _ZERO)}; raise it and run the same command again"
        )
    error = BudgetExhausted(said, sent=False)
    error.window = window
    return error


def _held(hold: Hold, denied: BudgetDenied) -> BudgetHeld:
    window, usage = denied.window, denied.usage
    error = BudgetHeld(
        f"calls under way hold {usd(usage.held)} of the budget of {usd(window.limit)} "
        f"({window.name}), of which {usd(usage.spent)} is spent, and this one may cost "
        f"{usd(hold.cost or _ZERO)}: not sent; try again when one of them has ended",
        retry_after=1.0,
        sent=False,
    )
    error.window = window
    return error
