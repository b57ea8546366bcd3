"""Holds that are taken many at a time, before their calls are made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest

from llmctl.errors import Cancelled
from llmctl.guards.hold import Advance
from llmctl.protocols import BudgetWindow, Hold
from llmctl.types import Request, Usage
from tests.engines.test_source import limited
from tests.guards.test_hold import CENT, Run, a_cap
from tests.support import request


def named(*names: str) -> list[Request]:
    """Requests with these call ids."""
    return [request(call_id=name, max_tokens=5) for name in names]


class Early(Run):
    """A purse that calls are put into before they are made."""

    async def early(self, *names: str, cost: Decimal | None = CENT) -> None:
        """Put them in, at this worst case."""
        await self.purse.hold_early([(one, Usage(1, 1), cost) for one in named(*names)])

    def on_record(self) -> list[str]:
        """The calls that are held."""
        return sorted(held.call_id for held in self.ledger.open_holds())

    def settled(self) -> list[tuple[str, str]]:
        """The calls that have a row, and how they ended."""
        return sorted((row.call_id, row.status) for row in self.ledger.calls())


@pytest.mark.parametrize("caps", [(), (a_cap("1"),)])
def test_what_is_held_early_is_not_held_again(caps: Sequence[BudgetWindow]) -> None:
    """It is on record before it is made, is neither counted nor written once more, and ends as
    any other."""
    run = Early(*caps)
    run.do(run.early("call 0", "call 1"))
    assert run.on_record() == ["call 0", "call 1"]
    first, last = named("call 1", "call 2")
    assert run.purse.is_early(first)
    assert not run.purse.is_early(last)
    assert run.calls(3) == ["ok"] * 3
    assert not run.purse.is_early(first)
    assert len(run.asked) == 1
    assert run.on_record() == []
    assert run.settled() == [(f"call {n}", "ok") for n in range(3)]


def test_where_not_all_fit_none_is_held_early_and_all_are_in_their_turn() -> None:
    """Five of eight fit: those five are sent, in their order, whatever was tried before."""
    run = Early(a_cap("0.05"))
    run.do(run.early(*(f"call {n}" for n in range(8))))
    assert run.on_record() == []
    assert run.calls(8) == ["ok"] * 5 + ["BudgetExhausted"] * 3
    assert run.sent == [f"call {n}" for n in range(5)]


def test_once_money_was_short_nothing_is_held_early() -> None:
    """Not even what would fit: those who wait for room come first."""
    run = Early(a_cap("0.05"))
    run.do(run.early(*(f"call {n}" for n in range(8))))
    run.do(run.early("call 0"))
    assert run.on_record() == []


def test_who_finds_no_room_has_that_of_calls_not_made_yet() -> None:
    """A call before them in the queue is refused because of what they hold: that is given back,
    the call is sent, and they are when it is their turn. Nobody waits for ever."""
    run = Early(a_cap("0.03"))
    run.do(run.early("later 0", "later 1", "later 2"))
    assert run.do(limited(run.call("first"))) == "ok"
    assert run.on_record() == []
    later = [run.do(run.call(f"later {n}")) for n in range(3)]
    assert later == ["ok", "ok", "BudgetExhausted"]


def test_nothing_is_held_early_while_a_call_waits_for_room() -> None:
    """It would take what that one waits for."""
    run = Early(a_cap("0.02"))
    run.cost = Decimal("0.001")

    async def work() -> list[str]:
        calls = [asyncio.ensure_future(run.call(f"call {n}")) for n in range(3)]
        await run.clock.sleep(0.5)
        assert run.purse.waiting
        await run.early("later")
        found = run.on_record()
        await asyncio.gather(*calls)
        return found

    assert run.do(work()) == ["call 0", "call 1"]


def test_a_refusal_while_they_are_written_ends_them() -> None:
    """They were asked for before it, and are given back as soon as they are there."""
    run = Early(a_cap("0.03"))
    hold_all = run.ledger.hold_all

    async def slowly(holds: Sequence[tuple[Hold, Sequence[BudgetWindow]]]) -> bool:
        fits = await hold_all(holds)
        await run.clock.sleep(0.5)
        return fits

    run.ledger.hold_all = slowly  # type: ignore[method-assign]

    async def work() -> list[str]:
        early = asyncio.ensure_future(run.early("later 0", "later 1", "later 2"))
        ended = await asyncio.gather(run.call("first"), run.call("second"))
        await early
        return [*ended]

    assert run.do(limited(work())) == ["ok", "ok"]
    assert run.on_record() == []


def test_what_no_budget_would_let_through_is_left_to_its_turn() -> None:
    """It is refused then, alone; the others of its lot are held."""
    run = Early(a_cap("0.05"))
    costs = (Decimal("0.06"), CENT, None)
    calls = zip(named("dear", "cheap", "unknown"), [Usage(1, 1)] * 3, costs, strict=True)
    run.do(run.purse.hold_early(list(calls)))
    assert run.on_record() == ["cheap"]
    run.worst = Decimal("0.06")
    assert run.do(run.call("dear")) == "BudgetRefused"


def test_those_that_are_not_made_leave_nothing_behind() -> None:
    """Neither a hold nor a row: no provider has heard of them."""
    run = Early(a_cap("1"))
    run.do(run.early("call 0", "call 1"))
    assert run.do(run.call("call 0")) == "ok"
    run.do(run.purse.give_back())
    assert run.on_record() == []
    assert run.settled() == [("call 0", "ok")]
    assert run.do(run.call("call 1")) == "ok"  # it is made after all, and held for that
    assert run.asked == ["exactly"]


def test_one_that_ends_before_it_is_made_ends_its_hold() -> None:
    """Stopped, or answered by another call: the row that says so is the end of it."""
    run = Early(a_cap("1"))

    async def stopped(_: Request, __: object) -> None:
        raise Cancelled("not sent: the run was stopped", sent=False)

    async def work() -> None:
        await run.early("call 0")
        run.handler = stopped  # type: ignore[assignment]
        await run.call("call 0")
        await run.purse.give_back()

    run.do(work())
    assert run.on_record() == []
    assert run.settled() == [("call 0", "cancelled")]


def test_only_what_is_known_at_once_is_held_early() -> None:
    """The others are left to their turn; between many of them everybody else has theirs."""
    run = Early(a_cap("10"))
    turns = 0

    async def work() -> None:
        nonlocal turns

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        busy = asyncio.ensure_future(others())
        advance = Advance(
            run.purse, lambda one: (Usage(1, 1), CENT) if one.call_id < "050" else None
        )
        await advance.hold_early(named(*(f"{n:03}" for n in range(200))))
        busy.cancel()

    run.do(work())
    assert run.on_record() == [f"{n:03}" for n in range(50)]
    assert turns >= 3


def test_another_attempt_of_one_held_early_is_held_too() -> None:
    """It is a call under way as any other: what may be billed twice must fit twice."""
    run = Early(a_cap("0.025"))
    first, second = named("call 0", "call 1")

    async def work() -> list[bool]:
        await run.early("call 0", "call 1")
        made = [run.purse.take_early(one) for one in (first, second)]
        return [*made, run.purse.take_early(first), await run.purse.again(first, 1)]

    assert run.do(work()) == [True, True, False, False]
