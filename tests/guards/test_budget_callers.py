"""Budgets of many callers in one process: nobody waits for, or is refused for, another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.errors import BudgetExhausted, BudgetHeld, BudgetRefused
from llmctl.protocols import BudgetDenied, BudgetWindow, Hold
from llmctl.storage.ledger import Ledger, open_ledger
from llmctl.types import Request, Usage
from tests.conformance.calls import DAY, NOW, a_cap, a_hold, a_request
from tests.guards.test_budget_guard import CENT, Run, a_window
from tests.support import request


class Gateway(Run):
    """Calls of callers with caps of their own, and one for all where there is one."""

    def __init__(
        self, *caps: BudgetWindow, longest_wait: float | None = 30.0, **limits: str
    ) -> None:
        super().__init__()
        self.limits = limits

        def own(asked: Request, _: float) -> list[BudgetWindow]:
            name, limit = asked.user, self.limits.get(asked.user)
            return [] if limit is None else [a_window(limit, key=name, name=name)]

        self.budget.limit(lambda _: caps, own=own, longest_wait=longest_wait)

    async def timed(self, name: str, user: str, **changes: Any) -> tuple[str, float]:
        """Make a call; how it ended, and after how many seconds."""
        began = self.clock.now
        ended = await self.call(name, user=user, **changes)
        return ended, round(self.clock.now - began, 3)

    async def hold(self, name: str, user: str) -> BudgetRefused | None:
        """Hold a cent, which nobody settles; why not."""
        asked = request(call_id=name, user=user)
        try:
            await self.budget.hold(asked, Usage(), CENT, self.budget.windows_of(asked))
        except BudgetRefused as error:
            return error
        return None


@pytest.mark.parametrize("longest_wait", [None, 30.0])
def test_a_cap_that_is_used_up_is_no_matter_of_others(longest_wait: float | None) -> None:
    """Ann has spent hers; Bob, and one without a cap, call on as if she were not there."""
    run = Gateway(a_window("9"), longest_wait=longest_wait, ann="0.02", bob="0.03")

    async def work() -> list[str]:
        ended = [await run.call(f"ann {n}", user="ann") for n in range(4)]
        ended += [await run.call(f"bob {n}", user="bob") for n in range(3)]
        return [*ended, await run.call("eve", user="eve")]

    assert run.do(work()) == ["ok"] * 2 + ["BudgetExhausted"] * 2 + ["ok"] * 4


def test_nobody_waits_behind_another_caller() -> None:
    """While calls of Ann wait for what others of hers hold, Bob's go at once."""
    run = Gateway(ann="0.011", bob="0.02")
    run.cost = Decimal("0.001")

    async def work() -> list[tuple[str, float]]:
        hers = [asyncio.ensure_future(run.timed(f"ann {n}", "ann")) for n in range(3)]
        await run.clock.sleep(0.5)
        return [await run.timed("bob", "bob"), *await asyncio.gather(*hers)]

    ended = run.do(work())
    assert ended[0] == ("ok", 1.0)
    assert [seconds for _, seconds in ended[1:]] == [1.0, 2.0, 2.0]


def test_a_run_that_is_used_up_waits_only_for_calls_that_hold_the_same() -> None:
    """In a run without a longest wait, too: a call of Bob's under way keeps nobody of Ann's
    from hearing that hers is gone."""
    run = Gateway(longest_wait=None, ann="0.01", bob="0.01")

    async def work() -> tuple[str, float]:
        assert await run.call("ann 1", user="ann") == "ok"
        under_way = asyncio.ensure_future(run.call("bob", user="bob"))
        await run.clock.sleep(0.5)
        ended = await run.timed("ann 2", "ann")
        assert await under_way == "ok"
        return ended

    assert run.do(work()) == ("BudgetExhausted", 0.0)


def test_what_is_used_up_is_said_at_once_and_not_remembered() -> None:
    """The error has the window; calls under way are not waited for, and a raised limit holds for
    the next call."""
    run = Gateway(ann="0.025")
    hold, asked = run.ledger.hold, list[str]()

    async def counted(one: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        asked.append(one.call_id)
        return await hold(one, windows)

    run.ledger.hold = counted  # type: ignore[method-assign, assignment]

    async def work() -> str:
        assert await run.call("spent", user="ann") == "ok"
        under_way = asyncio.ensure_future(run.timed("a", "ann"))
        await run.clock.sleep(0.5)
        run.limits["ann"] = "0.018"
        over = await run.hold("b", "ann")
        assert isinstance(over, BudgetExhausted)
        assert (over.window.name, over.window.limit) == ("ann", Decimal("0.018"))
        assert await under_way == ("ok", 1.0)
        assert await run.call("c", user="ann") == "BudgetExhausted"
        run.limits["ann"] = "0.03"
        return await run.call("d", user="ann")

    assert run.do(work()) == "ok"
    assert asked == ["spent", "a", "b", "c", "d"], "a refusal costs the ledger one question"


def test_one_that_waits_hears_at_once_when_waiting_does_not_help_any_more() -> None:
    """Though another call of the caller's is still under way; and it is not remembered."""
    run = Gateway(ann="0.03")

    async def work() -> list[tuple[str, float]]:
        first = asyncio.ensure_future(run.timed("a", "ann", cost=Decimal("0.02")))
        await run.clock.sleep(0.5)
        second = asyncio.ensure_future(run.timed("b", "ann"))
        await run.clock.sleep(0.25)
        run.worst = Decimal("0.015")
        ended = [await run.timed("c", "ann"), await first, await second]
        run.limits["ann"] = "0.05"
        return [*ended, await run.timed("d", "ann")]

    assert run.do(work()) == [("BudgetExhausted", 0.25), ("ok", 1.0), ("ok", 1.0), ("ok", 1.0)]


def test_what_is_held_is_waited_for_so_long_and_no_longer() -> None:
    """All that wait end in time, each after its own wait, to be tried again; nothing is left."""
    run = Gateway(longest_wait=5.0, ann="0.015")

    async def work() -> list[tuple[BudgetRefused | None, float]]:
        assert await run.hold("open", "ann") is None

        async def late(number: int) -> tuple[BudgetRefused | None, float]:
            await run.clock.sleep(number)
            began = run.clock.now
            error = await run.hold(f"late {number}", "ann")
            return error, run.clock.now - began

        return await asyncio.gather(*(late(number) for number in range(4)))

    for error, seconds in run.do(work()):
        assert isinstance(error, BudgetHeld)
        assert (error.retryable, error.retry_after, error.sent) == (True, 1.0, False)
        assert error.window.name == "ann"
        assert "calls under way hold $0.01 of the budget of $0.015 (ann)" in error.message
        assert seconds == pytest.approx(5.0)
    assert (run.budget._lines, run.budget.waiting) == ({}, 0)


def test_a_waiter_goes_on_as_soon_as_there_is_room() -> None:
    """Whichever call made it: one of another caller that holds the same window, too."""
    run = Gateway(a_window("0.011", key="team"), ann="1", bob="1")
    run.cost = Decimal("0.001")

    async def work() -> list[tuple[str, float]]:
        first = asyncio.ensure_future(run.timed("ann", "ann"))
        await run.clock.sleep(0.25)
        return [await run.timed("bob", "bob"), await first]

    assert run.do(work()) == [("ok", 1.75), ("ok", 1.0)]


def test_an_output_limit_fits_what_its_caller_has_left() -> None:
    """A request without one gets it from its own windows, as from those of the run."""
    run = Gateway(a_window("9"), ann="0.5")
    asked = request(user="ann")

    async def worst(one: Request) -> tuple[Usage, Decimal]:
        return Usage(), Decimal(one.max_tokens or 0) / 10

    async def limited() -> Request:
        return await run.budget.limit_output(asked, 100, run.budget.windows_of(asked), worst)

    assert run.do(limited()).max_tokens == 5


def test_a_gateway_keeps_no_window_of_past_days(tmp_path: Any) -> None:
    """A process that runs for years remembers as many as are in use, and the run's own sums are
    without its callers' windows."""
    run = Gateway(a_window("9", key="all"), ann="1")
    assert run.calls(1, user="ann") == ["ok"]
    assert [window.key for window, _ in run.do(run.budget.usages())] == ["all"]
    assert run.budget._used == {"all"}

    ledger: Ledger = open_ledger(tmp_path / "ledger.db", "run-1", "ann")
    for day in range(5):
        cap, moved = a_cap("1", key=f"day {day}"), DAY * day
        cap = replace(cap, start=cap.start + moved, end=cap.end + moved)
        at = NOW + moved / 1000
        assert asyncio.run(ledger.hold(a_hold(a_request(), CENT, at=at), [cap])) is None
    ledger.close()
    assert list(ledger._windows) == ["day 3", "day 4"]
