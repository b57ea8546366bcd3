"""What every coordinator does, whoever keeps what machines share.

A coordinator joins the suite by a `Machines` of its own in `test_coordinators.py`. Nothing but time
passes between two machines: a promise that another machine must see in time is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager as Opened
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Protocol, TypeVar

from msgspec.structs import replace

from llmctl.protocols import (
    BudgetDenied,
    BudgetUsage,
    BudgetWindow,
    Coordinator,
    Lease,
    Quota,
)
from llmctl.token_bucket import Draw
from llmctl.types import Request
from tests.conformance.calls import a_cached_answer, a_cap, a_hold, a_request, an_outcome

T = TypeVar("T")

CENT = Decimal("0.01")
KEY = "0f" * 32
_PATIENCE = 20.0  # seconds in which machines find out that another one is dead


class Machines(Protocol):
    """Machines that share one coordinator, each with a run of its own."""

    def machine(self, run_id: str) -> Opened[Coordinator]:
        """The coordinator as one machine more has it."""

    async def kill(self, run_id: str) -> None:
        """Let the machine die: it gives no sign of life any more, and others may find that out."""


async def becomes(wanted: T, look: Callable[[], Awaitable[T]]) -> None:
    """Wait for what `look` finds to be what is wanted."""
    until = time.monotonic() + _PATIENCE
    while (found := await look()) != wanted:
        assert time.monotonic() < until, found
        await asyncio.sleep(0.05)


def a_lease(
    windows: Sequence[BudgetWindow] = (), cost: Decimal = CENT, request: Request | None = None
) -> Lease:
    """A lease of dollars for a call."""
    asked = (request or a_request()).without_content()
    hold = a_hold(asked, cost)
    return Lease(f"{hold.call_id} {cost}", hold=hold, windows=tuple(windows))


class CoordinatorContract:
    """Subclasses provide the fixture `machines`."""

    @staticmethod
    @asynccontextmanager
    async def two(machines: Machines) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
        """Two machines, with the runs `run-1` and `run-2`."""
        async with AsyncExitStack() as stack:
            yield (
                await stack.enter_async_context(machines.machine("run-1")),
                await stack.enter_async_context(machines.machine("run-2")),
            )

    def test_machines_get_exactly_what_a_budget_has(self, machines: Machines) -> None:
        """Of 200 leases of a cent, asked for by two machines at once, $0.77 has room for 77; all
        see the same of it, and the rest of what a call held comes back when it is settled."""
        cap, requests = a_cap("0.77"), [a_request() for _ in range(200)]

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                asked = [
                    (one, two)[n % 2].lease(a_lease([cap], CENT, request))
                    for n, request in enumerate(requests)
                ]
                granted = await asyncio.gather(*asked)
                assert granted.count(0.0) == 77
                refused = next(each for each in granted if isinstance(each, BudgetDenied))
                assert (refused.window, refused.never) == (cap, False)
                everything = BudgetUsage(Decimal(0), Decimal("0.77"))
                assert await one.usage(cap) == await two.usage(cap) == everything
                n = granted.index(0.0)
                await (one, two)[n % 2].settle(an_outcome(requests[n], cost=CENT / 4))
                less = BudgetUsage(CENT / 4, Decimal("0.76"))
                assert await one.usage(cap) == await two.usage(cap) == less

        asyncio.run(scenario())

    def test_verbs_may_be_repeated(self, machines: Machines) -> None:
        """The same lease is drawn, spent and held once; a call that is settled again is charged
        once."""
        cap, request, day = a_cap("1"), a_request(), Quota("rpd", 20_000, 1, 10)
        hold = a_hold(request.without_content(), CENT)
        lease = Lease("lease-1", Draw("lane", rpm=60, requests=1), (day,), hold, (cap,))

        async def scenario() -> None:
            async with self.two(machines) as (one, _):
                first = await one.lease(lease)
                assert [await one.lease(lease) for _ in range(3)] == [first] * 3
                assert await one.used("rpd", 20_000) == 1
                assert await one.usage(cap) == BudgetUsage(Decimal(0), CENT)
                wait = await one.lease(Lease("lease-2", Draw("lane", rpm=60, requests=1)))
                assert isinstance(wait, float)
                assert 0 < wait <= 1  # the second of a minute's sixty, not the fifth
                for _ in range(2):
                    await one.settle(an_outcome(request, cost=CENT / 2))
                assert await one.usage(cap) == BudgetUsage(CENT / 2, Decimal(0))

        asyncio.run(scenario())

    def test_a_lease_is_all_or_nothing(self, machines: Machines) -> None:
        """Two limits and a budget go together: where one has no room nothing of the others is
        taken, whichever it is."""
        cap, day = a_cap("0.01"), Quota("rpd", 20_000, 2, 3)
        draw = Draw("lane", rpm=60, requests=1)

        async def scenario() -> None:
            async with self.two(machines) as (one, two):

                async def stands() -> tuple[object, ...]:
                    usage = await two.usage(cap)
                    # A draw of nothing waits for what was drawn before.
                    wait = await two.lease(Lease(f"look {time.monotonic()}", replace(draw)))
                    assert isinstance(wait, float)
                    probe = replace(draw, requests=0, back=(1.0, 0.0))
                    await two.lease(Lease(f"back {time.monotonic()}", probe))
                    return usage.held, await two.used("rpd", 20_000), wait > 0

                hold = a_hold(a_request().without_content(), CENT)
                whole = Lease("all", draw, (day,), hold, (cap,))
                more = a_hold(a_request().without_content(), CENT)
                dear = replace(more, cost=2 * CENT)
                for n, (lease, why) in enumerate(
                    (
                        (replace(whole, hold=dear), BudgetDenied),
                        (replace(whole, quotas=(replace(day, units=4),)), Quota),
                    )
                ):
                    refused = await one.lease(replace(lease, id=f"refused {n}"))
                    assert isinstance(refused, why)
                    assert await stands() == (0, 0, False)
                assert await one.lease(whole) == 0
                assert await stands() == (CENT, 2, True)
                await one.report("lane", 30)
                paused = await one.lease(Lease("paused", draw, (replace(day, units=1),), more))
                assert isinstance(paused, float)
                assert -30 <= paused < -20
                assert (await two.usage(cap)).held == CENT
                assert await two.used("rpd", 20_000) == 2

        asyncio.run(scenario())

    def test_what_a_dead_machine_held_counts_as_spent_until_it_is_settled(
        self, machines: Machines
    ) -> None:
        """Nobody waits for it any more, and nobody may spend it; once somebody knows what the call
        cost, that counts."""
        cap, request = a_cap("0.015"), a_request()

        async def scenario() -> None:
            async with machines.machine("run-1") as one:
                assert await one.lease(a_lease([cap], CENT, request)) == 0
                await machines.kill("run-1")
            async with machines.machine("run-2") as two:
                await becomes(BudgetUsage(CENT, Decimal(0)), lambda: two.usage(cap))
                refused = await two.lease(a_lease([cap]))
                assert isinstance(refused, BudgetDenied)
                assert refused.never
                await two.settle(an_outcome(request, cost=CENT / 10))
                assert await two.usage(cap) == BudgetUsage(CENT / 10, Decimal(0))
                assert await two.lease(a_lease([cap])) == 0

        asyncio.run(scenario())

    def test_a_second_hold_takes_the_place_of_the_first(self, machines: Machines) -> None:
        """At what it asks for now; where that has no room the first stays."""
        cap, request = a_cap("0.02"), a_request()

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                assert await one.lease(a_lease([cap], CENT, request)) == 0
                assert await one.lease(a_lease([cap], 2 * CENT, request)) == 0
                assert await two.usage(cap) == BudgetUsage(Decimal(0), 2 * CENT)
                assert isinstance(await one.lease(a_lease([cap], 3 * CENT, request)), BudgetDenied)
                assert await two.usage(cap) == BudgetUsage(Decimal(0), 2 * CENT)

        asyncio.run(scenario())

    def test_calls_count_towards_the_budgets_of_other_machines(self, machines: Machines) -> None:
        """A window that one machine has used counts what another one spends, which knows nothing
        of it, and no call that does not match."""
        cap, other = a_cap("1"), a_cap("1", "other", match={"tag:team": "ads"})

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                assert await one.lease(a_lease([cap, other])) == 0
                request = a_request()
                assert await two.lease(a_lease([], CENT, request)) == 0
                assert await one.usage(cap) == BudgetUsage(Decimal(0), 2 * CENT)
                await two.settle(an_outcome(request, cost=CENT / 2))
                assert await one.usage(cap) == BudgetUsage(CENT / 2, CENT)
                assert await one.usage(other) == BudgetUsage(Decimal(0), Decimal(0))

        asyncio.run(scenario())

    def test_a_share_is_told_on_one_machine(self, machines: Machines) -> None:
        """Whose call reaches it hears of it, nobody else."""
        cap = a_cap("0.10", warn_at=(Decimal("0.5"),))

        async def scenario() -> list[int]:
            told = [0, 0]
            async with self.two(machines) as both:
                for _ in range(3):
                    for n, machine in enumerate(both):
                        request = a_request()
                        assert await machine.lease(a_lease([cap], CENT, request)) == 0
                        told[n] += len(await machine.settle(an_outcome(request, cost=CENT)))
            return told

        assert asyncio.run(scenario()) == [1, 0]

    def test_a_pause_is_everybodys(self, machines: Machines) -> None:
        """What one machine reports keeps the others from sending, also over a lane that has no
        limit, and over no other lane."""

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                await one.report("lane", 30)
                waits = [
                    await two.lease(Lease("1", Draw("lane"))),
                    await two.lease(Lease("2", Draw("lane", rpm=60, requests=1))),
                ]
                assert all(isinstance(wait, float) and -30 <= wait < -20 for wait in waits)
                assert await two.lease(Lease("3", Draw("other"))) == 0

        asyncio.run(scenario())

    def test_quotas_are_spent_together(self, machines: Machines) -> None:
        """All or none, by all machines; what is given back may be spent again; a new window begins
        at 0."""

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                day, month = Quota("day", 7, 6, 10), Quota("month", 3, 6, 100)
                assert await one.lease(Lease("1", quotas=(day, month))) == 0
                assert await two.lease(Lease("2", quotas=(month, day))) == day
                assert await two.used("month", 3) == 6
                assert await two.lease(Lease("3", quotas=(replace(day, units=-5),))) == 0
                assert await one.lease(Lease("4", quotas=(day, month))) == 0
                assert (await two.used("day", 7), await two.used("month", 3)) == (7, 12)
                assert await one.lease(Lease("5", quotas=(replace(day, window=8),))) == 0
                assert (await two.used("day", 7), await two.used("day", 8)) == (0, 6)

        asyncio.run(scenario())

    def test_one_machine_gets_an_answer_and_others_have_it(self, machines: Machines) -> None:
        """A claim is one machine's, until it has put the answer, or given it up."""
        other = "1f" * 32

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                assert await one.claim(KEY) == "ours"
                assert await two.claim(KEY) == "theirs"
                assert await one.claim(KEY) == "ours"
                assert await two.get_many([KEY]) == {}
                await one.put(KEY, a_cached_answer())
                assert await two.claim(KEY) == "kept"
                assert await two.get_many([other, KEY]) == {KEY: a_cached_answer()}
                await two.release(KEY)
                assert (await one.claim(other), await two.claim(other)) == ("ours", "theirs")
                await two.release(other)
                assert await two.claim(other) == "theirs"
                await one.release(other)
                assert await two.claim(other) == "ours"

        asyncio.run(scenario())

    def test_a_dead_machines_claim_is_free(self, machines: Machines) -> None:
        """Another one gets the answer."""

        async def scenario() -> None:
            async with machines.machine("run-1") as one:
                assert await one.claim(KEY) == "ours"
                await machines.kill("run-1")
            async with machines.machine("run-2") as two:
                await becomes("ours", lambda: two.claim(KEY))

        asyncio.run(scenario())

    def test_a_living_machine_keeps_what_it_holds(self, machines: Machines) -> None:
        """However long its call takes: it gives signs of life."""
        cap = a_cap("1")

        async def scenario() -> None:
            async with self.two(machines) as (one, two):
                assert await one.lease(a_lease([cap])) == 0
                assert await one.claim(KEY) == "ours"
                until = time.monotonic() + 2 * SIGN
                while time.monotonic() < until:
                    await one.extend()
                    await asyncio.sleep(SIGN / 10)
                    assert await two.usage(cap) == BudgetUsage(Decimal(0), CENT)
                    assert await two.claim(KEY) == "theirs"

        asyncio.run(scenario())


SIGN = 0.5
"""Seconds without a sign of life after which machines of the suite may count as dead."""
