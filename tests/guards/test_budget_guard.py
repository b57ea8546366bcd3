"""Holds within budgets: who waits, who is refused, and when a run is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any

import pytest

from llmctl.errors import BudgetExhausted, BudgetRefused, Cancelled, DiskError
from llmctl.guards.budget import RunBudget, budget_guard, usd
from llmctl.protocols import (
    IDLE,
    BudgetDenied,
    BudgetUsage,
    BudgetWindow,
    Emit,
    Hold,
    Holder,
    ProcessStatus,
)
from llmctl.storage.process import SILENCE
from llmctl.types import Answer, CallRecord, Request, Usage
from tests.guards.fakes import FakeLedger
from tests.support import FakeClock, request, response

CENT = Decimal("0.01")
DAY = 86_400_000


def a_window(limit: str, **changes: Any) -> BudgetWindow:
    """A budget for everything, for ever."""
    values = {"key": "k", "name": "team", "limit": Decimal(limit), "start": 0, "end": 1 << 62}
    return BudgetWindow(**{**values, **changes})


class Run:
    """A purse, and calls that take a second and cost what they say."""

    def __init__(
        self,
        *caps: BudgetWindow,
        stopped: Callable[[], bool] = lambda: False,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.ledger = FakeLedger()
        self.warned: list[str] = []
        self.sent: list[str] = []
        self.waited: list[str] = []
        self.budget = RunBudget(self.ledger, self.clock, self.warned.append, "run-1", "ann")
        if caps:
            self.budget.limit(lambda _: caps, stopped, lambda r: self.waited.append(r.window.name))
        self.worst: Decimal | None = CENT
        self.cost = CENT
        self.handler = budget_guard(
            self._answer, self.budget, self._bound, self._exactly, self._default
        )
        self.asked: list[str] = []

    async def _default(self, _: Request) -> int | None:
        return None

    async def _bound(self, _: Request) -> tuple[Usage, Decimal | None]:
        self.asked.append("bound")
        return Usage(9, 9), None

    async def _exactly(self, _: Request) -> tuple[Usage, Decimal | None]:
        self.asked.append("exactly")
        return Usage(1, 1 if self.worst is None else 0), self.worst

    async def _answer(self, asked: Request, _: Emit | None) -> Answer:
        self.sent.append(asked.call_id)
        await self.clock.sleep(1)
        return response()

    async def call(self, name: str, cost: Decimal | None = None, **changes: Any) -> str:
        """Make a call and settle it, whatever comes of it; how it ended."""
        asked = request(call_id=name, max_tokens=5, **changes)
        started = self.clock.wall()
        result: Answer | BudgetRefused | Cancelled
        try:
            result = await self.handler(asked, None)
        except (BudgetRefused, Cancelled) as error:
            result = error
        paid = Decimal(0) if not isinstance(result, Answer) else cost or self.cost
        outcome = CallRecord(asked, result, Usage(), paid, None, started, 1.0, None)
        await self.budget.settle(outcome)
        return "ok" if isinstance(result, Answer) else type(result).__name__

    def calls(self, number: int, **changes: Any) -> list[str]:
        """So many calls at once; how they ended."""

        async def all_of_them() -> list[str]:
            return await asyncio.gather(*(self.call(f"call {n}", **changes) for n in range(number)))

        return self.clock.run(all_of_them())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it on the clock."""
        return self.clock.run(work)


def test_without_budgets_every_call_is_held_at_its_bound() -> None:
    """Nothing is counted exactly, and nothing waits."""
    run = Run()
    assert run.calls(3) == ["ok"] * 3
    assert run.asked == ["bound"] * 3
    assert run.clock.now == 1001


def test_when_nothing_is_left_the_run_is_over() -> None:
    """As many as fit are sent; those that wait learn it when the last one under way has ended,
    and none of them is sent."""
    run = Run(a_window("0.05"))
    assert run.calls(8) == ["ok"] * 5 + ["BudgetExhausted"] * 3
    assert run.clock.now == 1001
    assert run.do(run.call("later")) == "BudgetExhausted"
    assert len(run.sent) == 5
    assert run.ledger.holds == {}


@pytest.mark.parametrize(
    ("match", "held"),
    [
        ({}, True),
        ({"profile": "test", "provider": "openai", "model": "gpt-5-mini"}, True),
        ({"profile": "other"}, False),
        ({"model": "gpt-5"}, False),
        ({"tag:team": "a"}, True),
        ({"tag:team": "b"}, False),
        ({"user": "ann", "run": "run-1"}, True),
        ({"user": "bob"}, False),
    ],
)
def test_only_requests_that_match_are_held_to_a_budget(
    match: dict[str, str], *, held: bool
) -> None:
    """The others are not even counted exactly."""
    run = Run(a_window("0.001", match=match))
    assert run.calls(1, tags={"team": "a"}) == (["BudgetRefused"] if held else ["ok"])
    assert run.asked == (["exactly"] if held else ["bound"])


def test_a_request_of_another_user_is_held_to_the_budget_of_that_user() -> None:
    """One run asks for many."""
    run = Run(a_window("0.001", match={"user": "bob"}))
    assert run.calls(1) == ["ok"]
    assert run.calls(1, user="bob") == ["BudgetRefused"]


def test_one_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    """The next one takes its place."""
    run = Run(a_window("0.01"))
    run.cost = Decimal("0.001")
    run.worst = Decimal("0.009")

    async def work() -> list[str]:
        tasks = [asyncio.ensure_future(run.call(name)) for name in "abc"]
        await run.clock.sleep(0.5)
        tasks[1].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return ["cancelled" if isinstance(e, BaseException) else e for e in ended]

    assert run.do(work()) == ["ok", "cancelled", "ok"]
    assert (run.sent, run.ledger.holds, run.budget.waiting) == (["a", "c"], {}, False)


def test_nothing_waits_any_more_once_the_run_is_stopped() -> None:
    """What has not been sent is not sent."""
    stopped = False
    run = Run(a_window("0.01"), stopped=lambda: stopped)
    run.cost = Decimal("0.001")

    async def work() -> list[str]:
        nonlocal stopped
        tasks = [asyncio.ensure_future(run.call(name)) for name in "abc"]
        await run.clock.sleep(0.5)
        stopped = True
        return await asyncio.gather(*tasks)

    assert run.do(work()) == ["ok", "Cancelled", "Cancelled"]
    assert run.sent == ["a"]


def test_a_new_day_has_a_new_budget() -> None:
    """Windows are those of the clock on the wall; what had to wait for one counts there."""
    midnight = 1_800_057_600.0
    run = Run(clock=FakeClock(midnight - 2))

    def caps(now: float) -> list[BudgetWindow]:
        start = int(now * 1000) // DAY * DAY
        return [a_window("0.01", key=f"day {start}", start=start, end=start + DAY)]

    run.budget.limit(caps)
    started = run.clock.wall()
    other = RunBudget(run.ledger, run.clock, run.warned.append, "run-1", "ann")
    other.limit(run.budget._current)

    async def work() -> str:
        theirs = request(call_id="theirs")
        await other.hold(theirs, Usage(), CENT, other.windows_of(theirs))
        return await run.call("ours")

    assert run.do(work()) == "ok"
    assert started < midnight <= run.clock.wall() < midnight + 2
    (record,) = run.ledger.records
    assert midnight <= record.started < midnight + 1


@pytest.mark.parametrize("end", ["settled", "closed"])
def test_no_beat_comes_after_the_end(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Case 53: a run beats while calls are under way; once they are settled, or the run is closed,
    it asks no ledger that may be closed by then."""
    monkeypatch.setattr("llmctl.guards.budget.BEAT", 0.01)
    run = Run(a_window("1"))
    beats: list[bool] = []
    over = False

    async def work() -> None:
        beaten = asyncio.Event()

        async def beat(_: ProcessStatus = IDLE) -> None:
            beats.append(over)
            beaten.set()

        run.ledger.beat = beat  # type: ignore[assignment,method-assign]
        asked = request(call_id="a")
        await run.budget.hold(asked, Usage(), CENT, run.budget.windows_of(asked))
        await asyncio.wait_for(beaten.wait(), 30)
        nonlocal over
        over = True
        if end == "settled":
            now = run.clock.wall()
            await run.budget.settle(
                CallRecord(asked, response("x"), Usage(), CENT, None, now, 0.0, None)
            )
        else:
            run.budget.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 30)

    asyncio.run(work())
    assert beats
    assert not any(beats)


@pytest.mark.parametrize(
    ("in_batch", "step"),
    [(False, "`llmctl cost release --run run-9`"), (True, "`llmctl batch --status`")],
)
def test_a_run_that_gives_no_sign_of_life_is_not_waited_for(*, in_batch: bool, step: str) -> None:
    """Case 53: while it beats it is, however long; then the run is over, with who holds what and
    what to do. Of a provider's batch nobody beats: what ends it is another command."""
    run = Run(a_window("0.01"))
    heard = [0.0]

    async def hold(_: Hold, windows: Sequence[BudgetWindow]) -> BudgetDenied:
        if run.clock.now < 1300:  # it beats for five minutes
            heard[0] = run.clock.now // 10
        usage = BudgetUsage(Decimal(0), CENT)
        holder = Holder("run-9", Decimal("0.004"), int(heard[0]), in_batch)
        return BudgetDenied(windows[0], usage, never=False, holders=(holder,))

    run.ledger.hold = hold  # type: ignore[method-assign, assignment]

    async def work() -> str:
        asked = request(call_id="a", max_tokens=5)
        with pytest.raises(BudgetExhausted) as over:
            await run.budget.hold(asked, Usage(), CENT, run.budget.windows_of(asked))
        return over.value.message

    message = run.do(work())
    assert "run run-9 holds $0.004 of the budget of $0.01 (team)" in message
    assert step in message
    assert 1290 + SILENCE <= run.clock.now <= 1300 + SILENCE


@pytest.mark.parametrize(
    ("windows", "affords"),
    [([a_window("0.03")], [True, True, False]), ([], [True, True, True])],
)
def test_another_attempt_is_held_before_it_is_made(
    windows: list[BudgetWindow], affords: list[bool]
) -> None:
    """After a failure that may have been billed; without room for it there is none. It is on
    record without budgets, too: a crash then leaves all attempts in doubt."""
    run = Run(*windows)
    asked = request(call_id="a", max_tokens=5)

    async def work() -> list[bool]:
        await run.budget.hold(asked, Usage(), CENT, run.budget.windows_of(asked))
        return [await run.budget.can_afford(asked, n) for n in (1, 2, 3)]

    assert run.do(work()) == affords
    assert run.ledger.holds["a"][0].times == 1 + sum(affords)


def test_amounts_are_said_as_they_are() -> None:
    """At least cents, at most microdollars."""
    said = [usd(Decimal(a)) for a in ("0", "5", "1200.5", "0.00006", "0.00000004", "2E+3")]
    assert said == ["$0.00", "$5.00", "$1,200.50", "$0.00006", "$0.00", "$2,000.00"]


def test_the_audit_comes_before_the_ledger() -> None:
    """A crash in between must leave a hold, which says that there was a call; an audit that cannot
    be written ends the run, and what was paid is in the ledger all the same."""
    ledger, clock, order = FakeLedger(), FakeClock(), list[int]()

    async def audit(record: CallRecord) -> None:
        order.append(len(ledger.records))
        if record.request.call_id == "second":
            raise DiskError("the disk is full")

    budget = RunBudget(ledger, clock, print, "run-1", "ann", audit)

    async def settle(name: str) -> None:
        asked = request(call_id=name)
        await budget.settle(CallRecord(asked, response(), Usage(), CENT, None, 0.0, 1.0, None))

    clock.run(settle("first"))
    with pytest.raises(DiskError):
        clock.run(settle("second"))
    assert order == [0, 1]
    assert [record.request.call_id for record in ledger.records] == ["first", "second"]
