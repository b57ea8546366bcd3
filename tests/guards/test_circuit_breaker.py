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
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.circuit_breaker import CallPermit, Circuit, ProviderHealth, circuit_breaker
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response


def make(
    inner: Handler, clock: FakeClock, *, patient: bool = False
) -> tuple[Handler, ProviderHealth]:
    """A breaker that opens after two failures, and its health."""
    policy = BreakerPolicy(failures=2, open_for=60)
    health = ProviderHealth(policy, clock, "test", patient=patient)
    return circuit_breaker(inner, health), health


def errors_of(inner: Handler, number: int, *, patient: bool = False) -> list[CallError]:
    """The errors of so many calls after each other."""
    clock, found = FakeClock(), list[CallError]()

    async def run() -> None:
        breaker, _ = make(inner, clock, patient=patient)
        for _ in range(number):
            with pytest.raises(CallError) as caught:
                await breaker(request(), None)
            found.append(caught.value)

    clock.run(run())
    return found


def test_when_it_is_open_calls_are_refused_unsent() -> None:
    """After two failures nothing reaches the provider; the refusal says why, with its type and
    exit code."""
    inner = Scripted(ServerFailed("boom", http_status=500))
    errors = errors_of(inner, 4)
    assert [type(error) for error in errors] == [ServerFailed] * 2 + [ProviderDown] * 2
    assert len(inner.calls) == 2
    last = errors[-1]
    assert (last.exit_code, last.row_type, last.sent) == (5, "server", False)
    assert (last.retry_after, last.http_status) == (60, 500)
    assert "boom" in last.message
    assert ("try again in 60 s" in last.message, last.retryable) == (True, True)


@pytest.mark.parametrize("error", [AuthFailed("no"), RateLimited("slow")])
def test_refusals_are_no_outage(error: CallError) -> None:
    """A refused key, or too many requests, say that the provider is there."""
    assert errors_of(Scripted(error), 20) == [error] * 20


def test_a_quota_that_is_used_up_opens_it_at_once() -> None:
    """Nobody will be served: the fallback is asked without another try."""
    errors = errors_of(Scripted(QuotaExhausted("no credit")), 2)
    assert [type(error) for error in errors] == [QuotaExhausted, ProviderDown]
    assert ("try again" in errors[1].message, errors[1].retryable) == (False, False)


def test_failures_of_an_outage_are_excused_in_a_batch() -> None:
    """What fails while the circuit is open, or opens it, is the provider's own affair."""
    errors = errors_of(Scripted(*[ServerFailed("x") for _ in range(9)]), 4, patient=True)
    assert [error.excused for error in errors] == [False, True, True, True]


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


def test_a_cancelled_look_lets_the_next_one_look() -> None:
    """The call that finds out is cancelled: those who wait are not stuck."""
    clock = FakeClock()
    outage = Outage(clock, back=0)
    breaker, health = make(outage, clock, patient=True)

    async def run() -> None:
        for _ in range(2):
            health.ended(await health.acquire(), ServerFailed("x"))
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


def after(calls: str, circuit: Circuit | None = None, now: float = 0.0) -> Circuit:
    """A circuit that has seen these calls: `x` a failure, anything else a success."""
    circuit = circuit or Circuit(POLICY)
    for call in calls:
        circuit.end(acquire(circuit, now), now, ok=call != "x")
    return circuit


@pytest.mark.parametrize(
    ("calls", "state"),
    [
        ("xxxx", "closed"),
        ("xxxx.xxxx", "closed"),  # a success in between starts the count anew
        ("xxxxx", "open"),
        (".x.x.x.x.x", "open"),  # half of a minute's calls, once there are enough to judge by
        ("..x" * 100, "closed"),
    ],
)
def test_when_it_opens(calls: str, state: str) -> None:
    """After five failures in a row, or when half of the calls fail."""
    assert after(calls).state == state


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """Failures of a minute ago do not count with those of now."""
    circuit = Circuit(POLICY)
    for second in range(4):
        after("x.", circuit, second)
    assert after("..x" * 4, circuit, 70).state == "closed"


def test_one_call_finds_out() -> None:
    """After its time the circuit lets one call through, and no second until that one is back; when
    that one is cancelled, the next one may."""
    circuit = after("xxxxx")
    assert (circuit.acquire(59), circuit.wait(20)) == (None, 40)
    circuit.end(acquire(circuit, 60), 60, ok=None)
    probe = acquire(circuit, 60)
    assert probe.probe
    assert circuit.acquire(61) is None
    circuit.end(probe, 62, ok=False)
    assert circuit.acquire(121) is None
    circuit.end(acquire(circuit, 122), 123, ok=True)
    assert circuit.state == "closed"
    assert acquire(circuit, 123).probe is False


def test_news_from_before_it_opened_is_no_news() -> None:
    """A slow call that was sent before neither closes the circuit nor lengthens its time."""
    circuit = Circuit(POLICY)
    early = acquire(circuit, 0)
    after("xxxxx", circuit)
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


@pytest.mark.parametrize("reached", [True, False])
def test_an_outage_that_others_have_found_opens_it(*, reached: bool) -> None:
    """Nothing is sent then for the policy's time; calls wait for a provider that had answered the
    others, and are refused where it had answered nobody."""
    clock, inner = FakeClock(), Scripted(response())

    async def run() -> float:
        breaker, health = make(inner, clock, patient=True)
        health.open(reached=reached)
        await breaker(request(), None)
        return clock.now - 1000

    if reached:
        assert clock.run(run()) == 60
    else:
        with pytest.raises(ProviderDown):
            clock.run(run())
    assert len(inner.calls) == reached
