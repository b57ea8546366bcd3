"""What a run says of itself in the ledger: circuits at once, waiting calls with signs of life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest

from llmctl.config.settings import BreakerPolicy
from llmctl.errors import CallError, ServerFailed
from llmctl.guards.budget import RunBudget
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.protocols import IDLE, BudgetWindow, ProcessStatus
from llmctl.types import Usage
from tests.guards.fakes import FakeLedger
from tests.support import FakeClock, Scripted, request, response

OPEN = ProcessStatus(circuits={"openai/sim": "open"})


async def until(true: Callable[[], bool]) -> None:
    """Return when it is true."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.001)


def test_every_change_of_a_circuit_is_told() -> None:
    """It opens, half opens for the call that finds out, and closes; calls that change nothing tell
    nothing."""
    clock, told = FakeClock(), list[str]()
    failed = ServerFailed("down")
    inner = Scripted(response(), failed, failed, failed, response(), response())

    async def run() -> None:
        health = ProviderHealth(
            BreakerPolicy(failures=2, open_for=60), clock, "sim", patient=False,
            on_change=lambda: told.append(health.state),
        )  # fmt: skip
        breaker = circuit_breaker(inner, health)
        await breaker(request(), None)
        for ends in (False, False, True, False):
            if ends:
                await clock.sleep(60)
                assert health.state == "half-open"  # as whoever calls now finds it
            with suppress(CallError):
                await breaker(request(), None)
        await clock.sleep(60)
        for _ in range(2):
            await breaker(request(), None)

    clock.run(run())
    assert told == ["open", "half-open", "open", "half-open", "closed"]


def test_a_circuit_is_said_at_once_without_a_call_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a gateway whose provider is down all are refused, and nothing is held: others hear of it
    all the same, as long as it lasts, and of its end once."""
    monkeypatch.setattr("llmctl.guards.budget.BEAT", 0.01)
    status = [OPEN]

    async def work() -> FakeLedger:
        ledger = FakeLedger()
        budget = RunBudget(ledger, FakeClock(), lambda _: None, "run", "ann")
        budget.report_status(lambda: status[0])
        budget.status_changed()
        await until(lambda: ledger.said[2:] == [OPEN] * len(ledger.said[2:]) != [])
        status[0] = IDLE
        budget.status_changed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others), 30)
        return ledger

    said = asyncio.run(work()).said
    assert (said[-2], said[-1], said.count(IDLE)) == (OPEN, IDLE, 1)


def test_a_change_is_not_left_to_the_next_sign_of_life() -> None:
    """Those are ten seconds apart."""

    async def work() -> list[ProcessStatus]:
        ledger = FakeLedger()
        budget = RunBudget(ledger, FakeClock(), lambda _: None, "run", "ann")
        budget.report_status(lambda: OPEN)
        budget.status_changed()
        async with asyncio.timeout(5):
            await until(lambda: bool(ledger.said))
        budget.close()
        return ledger.said

    assert asyncio.run(work()) == [OPEN]


def test_calls_that_wait_for_a_budget_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a process that has no call under way itself: others hold what it waits for."""
    monkeypatch.setattr("llmctl.guards.budget.BEAT", 0.01)
    clock, window = FakeClock(), BudgetWindow("k", "team", Decimal(1), 0, 1 << 62)

    async def work() -> list[ProcessStatus]:
        ledger = FakeLedger()
        theirs = RunBudget(ledger, clock, lambda _: None, "run-1", "ann")
        theirs.limit(lambda _: (window,))
        ours = RunBudget(ledger, clock, lambda _: None, "run-2", "ann")
        ours.limit(lambda _: (window,))
        first, second = request(call_id="1"), request(call_id="2")
        await theirs.hold(first, Usage(), Decimal(1), theirs.windows_of(first))
        theirs.close()
        waits = asyncio.create_task(ours.hold(second, Usage(), Decimal(1), ours.windows_of(second)))
        await until(lambda: ProcessStatus(waiting=1) in ledger.said)
        waits.cancel()
        await until(lambda: ledger.said[-1] == IDLE)
        ours.close()
        return ledger.said

    asyncio.run(work())
