"""The breaker's states, as arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmctl.config.settings import BreakerPolicy
from llmctl.guards.circuit import Circuit, Ticket

POLICY = BreakerPolicy(failures=5, error_rate=0.5, window=60, open_for=60)


def enter(circuit: Circuit, now: float) -> Ticket:
    """Leave to call, which there must be."""
    ticket = circuit.enter(now)
    assert ticket is not None
    return ticket


def opened(now: float = 0.0) -> Circuit:
    """A circuit that opened at `now`."""
    circuit = Circuit(POLICY)
    for _ in range(5):
        circuit.failed(enter(circuit, now), now)
    assert circuit.state == "open"
    return circuit


def test_five_failures_in_a_row_open_it() -> None:
    """Four do not, and a success in between starts the count anew."""
    circuit = Circuit(POLICY)
    for _ in range(4):
        circuit.failed(enter(circuit, 0), 0)
    circuit.succeeded(enter(circuit, 0), 0)
    for _ in range(4):
        circuit.failed(enter(circuit, 0), 0)
    assert circuit.enter(0) is not None
    circuit.failed(enter(circuit, 0), 0)
    assert circuit.state == "open"
    assert circuit.enter(59) is None
    assert circuit.wait(20) == 40


def test_half_of_a_minutes_calls_open_it() -> None:
    """Every other call failing opens it once there were enough to judge by; every third does
    not."""
    circuit = Circuit(POLICY)
    for _ in range(5):
        circuit.succeeded(enter(circuit, 0), 0)
        circuit.failed(enter(circuit, 0), 0)
    assert circuit.state == "open"
    third = Circuit(POLICY)
    for _ in range(100):
        third.succeeded(enter(third, 0), 0)
        third.succeeded(enter(third, 0), 0)
        third.failed(enter(third, 0), 0)
    assert third.state == "closed"


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """Failures of a minute ago do not count with those of now."""
    circuit = Circuit(POLICY)
    for second in range(4):
        circuit.failed(enter(circuit, second), second)
        circuit.succeeded(enter(circuit, second), second)
    for _ in range(4):
        circuit.succeeded(enter(circuit, 70), 70)
        circuit.succeeded(enter(circuit, 70), 70)
        circuit.failed(enter(circuit, 70), 70)
    assert circuit.state == "closed"


def test_one_call_finds_out() -> None:
    """After its time the circuit lets one call through, and no second until that one is back."""
    circuit = opened()
    probe = enter(circuit, 60)
    assert probe.probe
    assert circuit.enter(61) is None
    circuit.failed(probe, 62)
    assert circuit.enter(121) is None
    again = enter(circuit, 122)
    circuit.succeeded(again, 123)
    assert circuit.state == "closed"
    assert enter(circuit, 123).probe is False


def test_a_call_given_up_leaves_the_question_open() -> None:
    """When the one that finds out is cancelled, the next one may."""
    circuit = opened()
    circuit.gave_up(enter(circuit, 60))
    assert enter(circuit, 60).probe


def test_news_from_before_it_opened_is_no_news() -> None:
    """A slow call that was sent before neither closes the circuit nor lengthens its time."""
    circuit = Circuit(POLICY)
    early = enter(circuit, 0)
    for _ in range(5):
        circuit.failed(enter(circuit, 0), 0)
    circuit.succeeded(early, 10)
    assert circuit.state == "open"
    circuit.failed(early, 50)
    assert circuit.wait(50) == 10


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30)), max_size=200))
def test_it_always_comes_back(events: list[tuple[bool, float]]) -> None:
    """Whatever happened, after `open_for` seconds one call is let through."""
    circuit, now = Circuit(POLICY), 0.0
    for ok, pause in events:
        now += pause
        ticket = circuit.enter(now)
        if ticket is not None:
            (circuit.succeeded if ok else circuit.failed)(ticket, now)
    assert circuit.enter(now + POLICY.open_for) is not None
