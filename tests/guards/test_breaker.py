"""A provider that is down is left alone."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import BreakerPolicy
from llmctl.errors import (
    AuthFailed,
    CallError,
    ConnectionFailed,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.breaker import Breaker, Gate
from llmctl.guards.circuit import Circuit
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

DOWN = ServerFailed("boom", http_status=500)


def make(inner: Handler, clock: FakeClock, *, patient: bool = False) -> tuple[Breaker, Gate]:
    """A breaker that opens after two failures, and its gate."""
    circuit = Circuit(BreakerPolicy(failures=2, open_for=60))
    gate = Gate(circuit, clock, "test", patient=patient)
    return Breaker(inner, gate), gate


async def outcomes(breaker: Breaker, number: int) -> list[str]:
    """What `number` calls after each other end in."""
    found = []
    for _ in range(number):
        try:
            await breaker(request(), None)
            found.append("ok")
        except CallError as error:
            found.append(type(error).__name__)
    return found


def test_when_it_is_open_calls_are_refused_unsent() -> None:
    """After two failures nothing reaches the provider; the refusal says why, with its type and
    exit code."""
    clock = FakeClock()
    inner = Scripted(DOWN)
    breaker, _ = make(inner, clock)

    async def run() -> ProviderDown:
        assert await outcomes(breaker, 4) == ["ServerFailed"] * 2 + ["ProviderDown"] * 2
        with pytest.raises(ProviderDown) as caught:
            await breaker(request(), None)
        return caught.value

    error = clock.run(run())
    assert len(inner.calls) == 2
    assert (error.exit_code, error.row_type, error.sent, error.retry_after) == (
        5,
        "server",
        False,
        60,
    )
    assert "boom" in error.message


@pytest.mark.parametrize("error", [AuthFailed("no"), RateLimited("slow")])
def test_refusals_are_no_outage(error: CallError) -> None:
    """A refused key, or too many requests, say that the provider is there."""
    clock = FakeClock()
    breaker, _ = make(Scripted(error), clock)
    assert "ProviderDown" not in clock.run(outcomes(breaker, 20))


def test_a_quota_that_is_used_up_opens_it_at_once() -> None:
    """Nobody will be served: the fallback is asked without another try."""
    clock = FakeClock()
    breaker, _ = make(Scripted(QuotaExhausted("no credit")), clock)
    assert clock.run(outcomes(breaker, 2)) == ["QuotaExhausted", "ProviderDown"]


class Outage:
    """A provider that is down until `back`."""

    def __init__(self, clock: FakeClock, back: float) -> None:
        self.clock, self.back = clock, back
        self.calls: list[float] = []

    async def __call__(self, _: Request, __: Emit | None) -> Answer:
        """An answer, once it is back."""
        self.calls.append(self.clock.now)
        await self.clock.sleep(0.1)
        if self.clock.now < self.back:
            raise ServerFailed("boom")
        return response()


def test_a_batch_waits_and_one_call_a_minute_looks() -> None:
    """While the provider is down fifty calls wait, one of them looks every 60 s, and all are
    answered within one such interval of its return."""
    clock = FakeClock()
    outage = Outage(clock, back=clock.now + 300)
    breaker, gate = make(outage, clock, patient=True)

    async def row() -> None:
        while True:
            try:
                await breaker(request(), None)
            except ServerFailed:
                continue
            return

    clock.run(_all(row, 50))
    looks = [at for at in outage.calls if 1001 < at < 1300]
    assert len([at for at in outage.calls if at <= 1001]) <= 52
    assert len(looks) <= 5
    assert clock.now - 1300 <= 61
    assert gate.waits() is None


async def _all(row: object, number: int) -> None:
    await asyncio.gather(*(row() for _ in range(number)))  # type: ignore[operator]


def test_failures_of_an_outage_are_excused_in_a_batch() -> None:
    """What fails while the circuit is open, or opens it, is the provider's own affair."""
    clock, errors = FakeClock(), list[ServerFailed]()

    async def run() -> None:
        breaker, _ = make(Scripted(*[ServerFailed("x") for _ in range(9)]), clock, patient=True)
        for _ in range(4):
            with pytest.raises(ServerFailed) as caught:
                await breaker(request(), None)
            errors.append(caught.value)

    clock.run(run())
    assert [error.excused for error in errors] == [False, True, True, True]


def test_an_address_where_nobody_ever_replied_is_not_waited_for() -> None:
    """A batch with a wrong port ends; it does not wait for a server that never was."""
    clock = FakeClock()
    breaker, _ = make(Scripted(ConnectionFailed("refused")), clock, patient=True)
    found = clock.run(outcomes(breaker, 5))
    assert found == ["ConnectionFailed"] * 2 + ["ProviderDown"] * 3


def test_a_cancelled_look_lets_the_next_one_look() -> None:
    """The call that finds out is cancelled: those who wait are not stuck."""
    clock = FakeClock()
    outage = Outage(clock, back=0)
    breaker, gate = make(outage, clock, patient=True)

    async def run() -> None:
        for _ in range(2):
            ticket = await gate.enter()
            gate.ended(ticket, ServerFailed("x"))
        await clock.sleep(60)
        first = asyncio.ensure_future(breaker(request(), None))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(breaker(request(), None))
        await asyncio.sleep(0)
        assert len(outage.calls) == 1
        first.cancel()
        await second

    clock.run(run())
    assert len(outage.calls) == 2
