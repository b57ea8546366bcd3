"""Rules of alerts: whether a figure has crossed its threshold, and what follows of that. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from llmctl.config.alerts import JUDGED
from llmctl.config.settings import AlertRule
from llmctl.storage.alert_state import AlertState

Event = Literal["firing", "resolved"]

_BACK = 0.8
"""What of a threshold a figure has to come back to before its alert is resolved, where the rule
does not say: one that wavers about its threshold would tell of it every minute."""


class Measured(Struct, frozen=True):
    """A figure at one moment: its value (None: there is nothing to take it of), the calls it was
    taken of, and what more there is to say of it."""

    value: float | None
    calls: int = 0
    detail: str = ""


def crossed(rule: AlertRule, measured: Measured) -> bool:
    """Whether the figure is beyond the rule's threshold.

    A rate of a few calls is chance: one failed call of three is an error rate of 33%. Below
    `min_calls` such figures are not judged.
    """
    value = measured.value
    if value is None or (rule.figure in JUDGED and measured.calls < rule.min_calls):
        return False
    if rule.above is not None:
        return value > rule.above
    return rule.below is not None and value < rule.below


def is_back(rule: AlertRule, measured: Measured) -> bool:
    """Whether the figure of a rule that fires is well again, or there is none any more.

    However few calls there are: that fewer are made while all of them fail is no recovery.
    """
    value = measured.value
    if value is None:
        return True
    if rule.above is not None:
        return value <= (rule.above * _BACK if rule.resolve is None else rule.resolve)
    assert rule.below is not None
    return value >= (rule.below / _BACK if rule.resolve is None else rule.resolve)


def step(
    rule: AlertRule, state: AlertState, measured: Measured, now: float
) -> tuple[AlertState, Event | None]:
    """The rule's next state, and what is to be told of it.

        quiet → pending → firing → quiet
              crossed   for `held`  back

    What is pending and not crossed any more is quiet, and nobody hears of it.
    """
    if state.phase == "firing":
        if is_back(rule, measured):
            return AlertState("quiet", now, now), "resolved"
        return AlertState("firing", state.since, now), None
    if not crossed(rule, measured):
        since = state.since if state.phase == "quiet" and state.checked else now
        return AlertState("quiet", since, now), None
    since = state.since if state.phase == "pending" else now
    if now - since >= rule.held:
        return AlertState("firing", since, now), "firing"
    return AlertState("pending", since, now), None
