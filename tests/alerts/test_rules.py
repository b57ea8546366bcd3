"""Rules of alerts: when one fires, when it is resolved, and when nobody is told anything."""

from __future__ import annotations

import pytest

from llmctl.alerts.rules import Event, Measured, crossed, is_back, step
from llmctl.config.alerts import BUILT_IN
from llmctl.config.settings import AlertRule
from llmctl.storage.alert_state import AlertState, Phase

ERRORS = AlertRule("errors", "error_rate", above=0.05)
HITS = AlertRule("hits", "hit_rate", below=0.3)


def walk(rule: AlertRule, *looks: Measured | float | None, every: float = 30) -> list[str]:
    """What a rule comes to, and what is told, at looks of so many seconds' distance."""
    state, found = AlertState(), list[str]()
    for number, look in enumerate(looks):
        measured = look if isinstance(look, Measured) else Measured(look, 1000)
        event: Event | None
        state, event = step(rule, state, measured, 1000 + number * every)
        found.append(event or state.phase)
    return found


def test_one_firing_and_one_end() -> None:
    """However often a figure is looked at, its crossing and its return are told once."""
    found = walk(ERRORS, 0.0, 0.5, 0.6, 0.4, 0.0, 0.0, 0.5)
    assert found == ["quiet", "firing", "firing", "firing", "resolved", "quiet", "firing"]


def test_a_figure_that_wavers_is_told_once() -> None:
    """Between the threshold and what resolves it nothing changes, in either direction."""
    assert walk(ERRORS, 0.06, 0.045, 0.055, 0.045, 0.04) == [
        "firing", "firing", "firing", "firing", "resolved",
    ]  # fmt: skip
    assert walk(ERRORS, 0.045, 0.05) == ["quiet", "quiet"]
    assert walk(HITS, 0.29, 0.31, 0.37, 0.375) == ["firing", "firing", "firing", "resolved"]
    own = AlertRule("errors", "error_rate", above=0.05, resolve=0.01)
    assert walk(own, 0.06, 0.02, 0.01) == ["firing", "firing", "resolved"]
    every = AlertRule("auth", "auth_errors", above=0.0)
    assert walk(every, 1.0, 0.0) == ["firing", "resolved"]


def test_it_has_to_hold() -> None:
    """With `for` a rule waits as long, from the first look on, and begins anew once it was well."""
    rule = AlertRule("slow", "p95", above=8.0, held=60.0)
    assert walk(rule, 9.0, 9.0, 9.0, 9.0) == ["pending", "pending", "firing", "firing"]
    assert walk(rule, 9.0, 9.0, 1.0, 9.0, 9.0, 9.0) == [
        "pending", "pending", "quiet", "pending", "pending", "firing",
    ]  # fmt: skip


def test_it_began_when_it_was_first_seen() -> None:
    """`since` of what fires is the first look that saw it, not the one that fired."""
    rule = AlertRule("slow", "p95", above=8.0, held=60.0)
    state, _ = step(rule, AlertState(), Measured(9.0, 50), 1000)
    state, event = step(rule, state, Measured(9.0, 50), 1060)
    assert (state, event) == (AlertState("firing", 1000, 1060), "firing")
    state, event = step(rule, state, Measured(None), 1090)
    assert (state, event) == (AlertState("quiet", 1090, 1090), "resolved")


@pytest.mark.parametrize(
    ("rule", "calls", "fires"),
    [
        (ERRORS, 19, False),
        (ERRORS, 20, True),
        (AlertRule("e", "error_rate", above=0.05, min_calls=1), 1, True),
        (AlertRule("p", "p95", above=0.05), 19, False),
        (AlertRule("r", "rate_limits", above=0.05), 1, True),
        (AlertRule("b", "budget", above=0.05), 0, True),
    ],
)
def test_a_rate_of_a_few_calls_is_not_judged(rule: AlertRule, calls: int, fires: bool) -> None:  # noqa: FBT001
    """Rates and latencies want `min_calls`; counts and budgets do not."""
    assert crossed(rule, Measured(0.9, calls)) is fires


def test_fewer_calls_are_no_recovery() -> None:
    """What fires goes on while the few calls that are still made fail; without any it ends."""
    looks = (Measured(1.0, 100), Measured(1.0, 3), Measured(None, 0))
    assert walk(ERRORS, *looks) == ["firing", "firing", "resolved"]


def test_no_built_in_rule_fires_for_one_failed_call() -> None:
    """With as few calls as are judged, one that failed is within the threshold."""
    for rule in BUILT_IN.values():
        if rule.figure == "error_rate":
            assert not crossed(rule, Measured(1 / rule.min_calls, rule.min_calls))
            assert crossed(rule, Measured(2 / rule.min_calls, rule.min_calls))


@pytest.mark.parametrize("phase", ["quiet", "pending"])
def test_nothing_to_look_at_is_quiet(phase: Phase) -> None:
    """Without a value nothing fires, and what was pending is forgotten."""
    for rule in BUILT_IN.values():
        state, event = step(rule, AlertState(phase, 1, 1), Measured(None), 1000)
        assert (state.phase, event) == ("quiet", None)
        assert is_back(rule, Measured(None))
