"""The settings of alerts: `alerts:` as its files say it, over the built-in rules."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from llmctl.config.settings import (
    AlertRule,
    Alerts,
    AlertSink,
    Budget,
    Figure,
    SinkSecret,
    is_loopback,
)
from llmctl.config.yaml_nodes import Node, nearest, quoted, read

Unit = Literal["share", "seconds", "number", "dollars", "times"]

UNITS: Mapping[Figure, Unit] = {
    "error_rate": "share",
    "p50": "seconds",
    "p95": "seconds",
    "p99": "seconds",
    "calls": "number",
    "errors": "number",
    "auth_errors": "number",
    "rate_limits": "number",
    "retries": "number",
    "hit_rate": "share",
    "cost": "dollars",
    "traffic": "times",
    "circuits": "number",
    "budget": "share",
    "daily_spend": "share",
}
"""What each figure is counted in."""

JUDGED: frozenset[Figure] = frozenset({"error_rate", "p50", "p95", "p99", "hit_rate", "traffic"})
"""Figures that say nothing of a few calls: `min_calls` binds these."""

OF_BUDGETS: frozenset[Figure] = frozenset({"budget", "daily_spend"})
"""Figures of a budget in its period: neither `over` nor `profile` is theirs."""

WITHOUT_SPAN: frozenset[Figure] = OF_BUDGETS | {"circuits"}
"""Figures that are not of the calls of a span: `over` says nothing of them."""

_MINUTE, _HOUR = 60.0, 3600.0

BUILT_IN: Mapping[str, AlertRule] = {
    rule.name: rule
    for rule in (
        AlertRule("error_rate_critical", "error_rate", above=0.05, severity="critical"),
        AlertRule("latency_critical", "p95", above=10.0, severity="critical"),
        AlertRule("spend_critical", "daily_spend", above=1.5, severity="critical"),
        AlertRule("auth_critical", "auth_errors", above=0.0, severity="critical"),
        # While a provider is down the rows of a batch wait: no call ends, and no rate tells of it.
        AlertRule(
            "provider_critical", "circuits", above=0.0, held=5 * _MINUTE, severity="critical"
        ),
        # One failed call of a hundred is 1%, and not above it.
        AlertRule("error_rate_warning", "error_rate", above=0.01, over=15 * _MINUTE, min_calls=100),
        AlertRule("spend_warning", "daily_spend", above=1.2),
        AlertRule("rate_limits_warning", "rate_limits", above=10.0, over=_HOUR),
        AlertRule("hit_rate_warning", "hit_rate", below=0.3, over=_HOUR, min_calls=100),
        AlertRule("traffic_warning", "traffic", above=3.0, over=_HOUR, min_calls=100),
    )
}
"""The rules that are on unless they are switched off, by name."""

_FORMS: Mapping[Unit, tuple[str, str]] = {
    "share": ("a share such as 5% or 0.05", r"[0-9.]+%?"),
    "seconds": ("a duration such as 8s or 500ms", r"[0-9.]+ ?(ms|[smhdw])"),
    "number": ("a number such as 10", r"[0-9]+"),
    "dollars": ("US dollars such as $20", r"\$?[0-9.]+"),
    "times": ("a multiple of the usual such as 3", r"[0-9.]+"),
}
_THRESHOLDS = ("above", "below", "resolve")
_LONGEST_TRAFFIC = 86400.0  # seconds: the usual is that of the same time on other days
_MOST_SHARE = 1.0  # of calls; a budget may be overspent


def read_alerts(node: Node, profiles: Collection[str], budgets: Mapping[str, Budget]) -> Alerts:
    """The settings of `node`, the merged sections; `profiles` and `budgets` are all there are.

    Raises `ConfigError` that names the place: for what `Alerts` does not allow, a threshold that is
    none of its figure, and a sink, profile or budget that there is none of.
    """
    said, entries = read(node, Alerts), node.mapping()
    rules = entries["rules"].mapping() if "rules" in entries else {}
    sinks = entries["sinks"].mapping() if "sinks" in entries else {}
    for name, place in sinks.items():
        _check_sink(place, said["sinks"][name])
    found = dict(BUILT_IN)
    for name, rule in rules.items():
        found[name] = _rule(name, rule, said["rules"][name], profiles, budgets)
    for names in (entries.get("to"), *(rule_to(rule) for rule in rules.values())):
        for item in names.items() if names else ():
            if item.value not in sinks:
                wrong = f"{quoted(str(item.value))}; {nearest(str(item.value), sinks)}"
                what = wrong if sinks else f"{quoted(str(item.value))}; write it below `sinks`"
                raise item.error(f"names no sink: {what}")
    return replace(msgspec.convert({**said, "rules": {}}, Alerts), rules=found)


def rule_to(rule: Node) -> Node | None:
    """Where a rule names its sinks."""
    return rule.value.get("to") if isinstance(rule.value, Mapping) else None


def secret_variables(alerts: Alerts) -> set[str]:
    """The environment variables that hold the sinks' secrets."""
    return {place.env for sink in alerts.sinks.values() for place in sink.secrets if place.env}


def hiding(alerts: Alerts, hidden: tuple[str, ...]) -> Alerts:
    """The same, where no command of a sink, or that prints a secret, sees these variables."""

    def place(one: SinkSecret | None) -> SinkSecret | None:
        return replace(one, hidden=hidden) if one is not None and one.command else one

    def sink(one: AlertSink) -> AlertSink:
        changes: dict[str, Any] = {"slack": place(one.slack), "apprise": place(one.apprise)}
        for name in ("webhook", "smtp", "alertmanager"):
            if (section := getattr(one, name)) is not None:
                keys = {"key", "secret_url"}.intersection(section.__struct_fields__)
                changes[name] = replace(section, **{k: place(getattr(section, k)) for k in keys})
        return replace(one, **changes)

    sinks = {name: sink(one) for name, one in alerts.sinks.items()}
    return replace(alerts, sinks=sinks, hidden=hidden)


def _rule(
    name: str,
    node: Node,
    said: dict[str, Any],
    profiles: Collection[str],
    budgets: Mapping[str, Budget],
) -> AlertRule:
    """A rule of one's own, or what is said of a built-in one over that."""
    known = BUILT_IN.get(name)
    entries = node.value if isinstance(node.value, Mapping) else {}
    if known is None and "figure" not in said:
        raise node.error(
            f"is no built-in rule, {quoted(name)}; {nearest(name, BUILT_IN)} (a rule of your own "
            f"needs figure, one of {', '.join(UNITS)})"
        )
    base: dict[str, Any] = {} if known is None else msgspec.to_builtins(known)
    if {"above", "below", "figure"} & said.keys():
        for key in _THRESHOLDS:  # one threshold takes the place of the other
            base.pop(key, None)
    rule = msgspec.convert({**base, **said, "name": name}, AlertRule)
    if (rule.above is None) == (rule.below is None):
        raise node.error("needs above or below, one of them")
    _check_thresholds(rule, entries)
    _check_scope(rule, entries)
    for key, value, there in (
        ("profile", rule.profile, profiles),
        ("budget", rule.budget, budgets),
    ):
        if value is not None and value not in there:
            wrong = f"{quoted(value)}; {nearest(value, there)}" if there else quoted(value)
            raise entries[key].error(f"names no {key}: {wrong}")
    return rule


def _check_scope(rule: AlertRule, entries: Mapping[str, Node]) -> None:
    """What a rule looks at is something that its figure has."""
    if rule.figure in OF_BUDGETS:
        for key in {"over", "profile"} & entries.keys():
            raise entries[key].error(f"is not for {rule.figure}, which is of a budget's period")
    elif rule.figure in WITHOUT_SPAN and "over" in entries:
        raise entries["over"].error("is not for circuits, which are open now or not; give `for`")
    elif rule.budget is not None:
        raise entries["budget"].error(f"is not for {rule.figure}, but for budget and daily_spend")
    if rule.figure == "traffic" and rule.over > _LONGEST_TRAFFIC:
        raise entries["over"].error("is at most 24h for traffic, which is compared by the day")


def _check_thresholds(rule: AlertRule, entries: Mapping[str, Node]) -> None:
    """Each is of the figure's unit, and what resolves an alert does not fire it."""
    unit = UNITS[rule.figure]
    words, pattern = _FORMS[unit]
    for key in _THRESHOLDS:
        written, value = entries.get(key), getattr(rule, key)
        if written is None:
            continue
        too_much = unit == "share" and rule.figure not in OF_BUDGETS and value > _MOST_SHARE
        if too_much or not re.fullmatch(pattern, str(written.value).strip()):
            raise written.error(f"must be {words}, for {rule.figure}")
    if rule.resolve is None:
        return
    if rule.above is not None and rule.resolve > rule.above:
        raise entries["resolve"].error("is above what fires it; write at most the same")
    if rule.below is not None and rule.resolve < rule.below:
        raise entries["resolve"].error("is below what fires it; write at least the same")


def _check_sink(node: Node, said: dict[str, Any]) -> None:
    """An address that is there once, and no secret that goes over a network in the clear."""
    kind = next(iter(said))
    section, entry = said[kind], node.mapping()[kind]
    if kind == "webhook" and ("url" in section) == ("secret_url" in section):
        raise entry.error("needs url or secret_url, one of them")
    if kind == "smtp":
        if ("user" in section) != ("key" in section):
            raise entry.error("needs user and key (the place of the password), or neither")
        if section.get("tls") == "off" and "key" in section and not is_loopback(section["host"]):
            raise entry.mapping()["tls"].error("cannot be off where a password is sent")
    if kind == "alertmanager" and "key" in section:
        parts = urlsplit(section["url"])
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise entry.mapping()["key"].error("would be sent in the clear; write https://")
