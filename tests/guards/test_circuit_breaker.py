"""A provider that is down is left alone."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from llmctl.guards.circuit_breaker import CallPermit, Circuit, ProviderHealth, circuit_breaker
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

DOWN = ServerFailed("boom", http_status=500)


def make(
    inner: Handler, clock: FakeClock, *, patient: bool = False
) -> tuple[Handler, ProviderHealth]:
    """A breaker that opens after two failures, and its health."""
    health = ProviderHealth(BreakerPolicy(failures=2, open_for=60), clock, "test", patient=patient)
    return circuit_breaker(inner, health), health


async def outcomes(breaker: Handler, number: int) -> list[str]:
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
    breaker, health = make(outage, clock, patient=True)

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
    assert health.waits() is None


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
    breaker, health = make(outage, clock, patient=True)

    async def run() -> None:
        for _ in range(2):
            permit = await health.acquire()
            health.ended(permit, ServerFailed("x"))
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


POLICY = BreakerPolicy(failures=5, error_rate=0.5, window=60, open_for=60)


def acquire(circuit: Circuit, now: float) -> CallPermit:
    """Leave to call, which there must be."""
    permit = circuit.acquire(now)
    assert permit is not None
    return permit


def opened(now: float = 0.0) -> Circuit:
    """A circuit that opened at `now`."""
    circuit = Circuit(POLICY)
    for _ in range(5):
        circuit.end(acquire(circuit, now), now, ok=False)
    assert circuit.state == "open"
    return circuit


def test_five_failures_in_a_row_open_it() -> None:
    """Four do not, and a success in between starts the count anew."""
    circuit = Circuit(POLICY)
    for _ in range(4):
        circuit.end(acquire(circuit, 0), 0, ok=False)
    circuit.end(acquire(circuit, 0), 0, ok=True)
    for _ in range(4):
        circuit.end(acquire(circuit, 0), 0, ok=False)
    assert circuit.acquire(0) is not None
    circuit.end(acquire(circuit, 0), 0, ok=False)
    assert circuit.state == "open"
    assert circuit.acquire(59) is None
    assert circuit.wait(20) == 40


def test_half_of_a_minutes_calls_open_it() -> None:
    """Every other call failing opens it once there were enough to judge by; every third does
    not."""
    circuit = Circuit(POLICY)
    for _ in range(5):
        circuit.end(acquire(circuit, 0), 0, ok=True)
        circuit.end(acquire(circuit, 0), 0, ok=False)
    assert circuit.state == "open"
    third = Circuit(POLICY)
    for _ in range(100):
        third.end(acquire(third, 0), 0, ok=True)
        third.end(acquire(third, 0), 0, ok=True)
        third.end(acquire(third, 0), 0, ok=False)
    assert third.state == "closed"


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """Failures of a minute ago do not count with those of now."""
    circuit = Circuit(POLICY)
    for second in range(4):
        circuit.end(acquire(circuit, second), second, ok=False)
        circuit.end(acquire(circuit, second), second, ok=True)
    for _ in range(4):
        circuit.end(acquire(circuit, 70), 70, ok=True)
        circuit.end(acquire(circuit, 70), 70, ok=True)
        circuit.end(acquire(circuit, 70), 70, ok=False)
    assert circuit.state == "closed"


def test_one_call_finds_out() -> None:
    """After its time the circuit lets one call through, and no second until that one is back."""
    circuit = opened()
    probe = acquire(circuit, 60)
    assert probe.probe
    assert circuit.acquire(61) is None
    circuit.end(probe, 62, ok=False)
    assert circuit.acquire(121) is None
    again = acquire(circuit, 122)
    circuit.end(again, 123, ok=True)
    assert circuit.state == "closed"
    assert acquire(circuit, 123).probe is False


def test_a_call_given_up_leaves_the_question_open() -> None:
    """When the one that finds out is cancelled, the next one may."""
    circuit = opened()
    circuit.end(acquire(circuit, 60), 60, ok=None)
    assert acquire(circuit, 60).probe


def test_news_from_before_it_opened_is_no_news() -> None:
    """A slow call that was sent before neither closes the circuit nor lengthens its time."""
    circuit = Circuit(POLICY)
    early = acquire(circuit, 0)
    for _ in range(5):
        circuit.end(acquire(circuit, 0), 0, ok=False)
    circuit.end(early, 10, ok=True)
    assert circuit.state == "open"
    circuit.end(early, 50, ok=False)
    assert circuit.wait(50) == 10


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30)), max_size=200))
def test_it_always_comes_back(events: list[tuple[bool, float]]) -> None:
    """Whatever happened, after `open_for` seconds one call is let through."""
    circuit, now = Circuit(POLICY), 0.0
    for ok, pause in events:
        now += pause
        permit = circuit.acquire(now)
        if permit is not None:
            circuit.end(permit, now, ok=ok)
    assert circuit.acquire(now + POLICY.open_for) is not None
