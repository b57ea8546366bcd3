"""The message of an alert: what every sink is told, in its own form, and how long it may take."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Literal

import msgspec
from msgspec import Struct

from llmctl.alerts.rules import Event, Measured
from llmctl.config.alerts import UNITS, WITHOUT_SPAN
from llmctl.config.settings import AlertRule, AlertSink, Figure, Severity
from llmctl.errors import LlmctlError
from llmctl.redact import printable, redact_known_keys
from llmctl.reports.periods import iso

LIMIT = 10.0
"""Seconds that a sink has to take a message."""

Status = Literal["firing", "resolved", "ended", "test"]

_LONGEST = 1500  # characters of a text: names and errors of others stand in it
_NAMES: Mapping[Figure, str] = {
    "error_rate": "the error rate",
    "p50": "the median latency",
    "p95": "the 95th percentile of latency",
    "p99": "the 99th percentile of latency",
    "calls": "the number of calls",
    "errors": "the number of failed calls",
    "auth_errors": "the number of calls whose key was refused",
    "rate_limits": "the number of rate-limit hits",
    "retries": "the number of retries",
    "hit_rate": "the cache's hit rate",
    "cost": "the cost",
    "traffic": "traffic against the usual",
    "circuits": "circuits that are not closed: the provider is down, and calls to it wait",
    "budget": "the share of the budget that is used",
    "daily_spend": "the day's spend against its budget",
}


class SinkFailure(LlmctlError):
    """A sink has not taken a message."""

    type = "alert"


class Message(Struct, frozen=True, omit_defaults=False):
    """What happened. As JSON it is what a webhook is sent, and a command gets on its stdin.

    Attributes:
        version: of this form.
        status: `firing` and `resolved` of a rule, `ended` of a batch, or a `test`.
        name: of the rule; `batch`; `test`.
        title, text: for people, without markup; each on one line.
        dedupe_key: the same in all that is sent of one incident, whoever sends it, however often.
        time, starts_at, ends_at: ISO 8601, UTC; an incident that lasts has no end.
        host: the machine that says so.
        rule: {figure, value, above, below, over_s, profile, budget}; shares are from 0 to 1, times
            in seconds. None where there is no rule.
        batch: {input, output, exit_code, rows, ok, failed, … cost_usd, elapsed_s}: the summary that
            `batch --json` prints, with the files. None where there is no batch.

    """

    status: Status
    name: str
    severity: Severity
    title: str
    text: str
    dedupe_key: str
    time: str
    starts_at: str
    ends_at: str | None = None
    host: str = ""
    rule: Mapping[str, Any] | None = None
    batch: Mapping[str, Any] | None = None
    version: int = 1


def of_rule(
    rule: AlertRule, event: Event, measured: Measured, key: str, since: float, now: float
) -> Message:
    """The message of a rule that fires, or is resolved; `key` is of the incident, which began at
    `since` (seconds since the epoch)."""
    value, name = measured.value, _NAMES[rule.figure]
    threshold = condition(rule)
    over = "" if rule.figure in WITHOUT_SPAN else f" in the last {span(rule.over)}"
    of = f" of the profile {rule.profile}" if rule.profile else ""
    detail = f" ({measured.detail})" if measured.detail else ""
    what_now = f"{name} {shown(rule.figure, value)}{of}"
    if value is None:
        what_now = "nothing to judge any more"
    if event == "firing":
        what = f"{name}{of} is {shown(rule.figure, value)}, {threshold},{over}".rstrip(",")
        text = f"{what}{detail}"
    else:
        back = (
            "there is nothing to take it of any more"
            if value is None
            else f"is {shown(rule.figure, value)}"
        )
        text = f"{name}{of}{over}: {back}; it was {threshold}, for {span(now - since)} in all"
    return _made(
        event,
        rule.name,
        rule.severity,
        f"[{event.upper()}] {rule.name}: {what_now}",
        text,
        key,
        since,
        now,
        now if event == "resolved" else None,
        rule={
            "figure": rule.figure,
            "value": value,
            "above": rule.above,
            "below": rule.below,
            "over_s": None if rule.figure in WITHOUT_SPAN else rule.over,
            "profile": rule.profile,
            "budget": rule.budget,
        },
    )


def of_batch(
    title: str, text: str, batch: Mapping[str, Any], key: str, since: float, now: float
) -> Message:
    """The message of a batch that ended."""
    severity: Severity = "info" if batch.get("exit_code") == 0 else "warning"
    return _made("ended", "batch", severity, title, text, key, since, now, now, batch=batch)


def of_test(sink: str, now: float) -> Message:
    """A message that asks nobody to do anything."""
    text = f"a test of the sink {sink}, sent by `llmctl alerts test`: nothing has happened"
    key = f"test-{sink}-{round(now * 1000)}"
    title = "[TEST] llmctl alerts: nothing has happened"
    return _made("test", "test", "info", title, text, key, now, now, now)


def _made(
    status: Status,
    name: str,
    severity: Severity,
    title: str,
    text: str,
    key: str,
    since: float,
    now: float,
    end: float | None,
    *,
    rule: Mapping[str, Any] | None = None,
    batch: Mapping[str, Any] | None = None,
) -> Message:
    return Message(
        status,
        name,
        severity,
        one_line(title)[:200],
        one_line(text)[:_LONGEST],
        key,
        _iso(now),
        _iso(since),
        None if end is None else _iso(end),
        one_line(socket.gethostname()),
        rule,
        batch,
    )


def one_line(text: str) -> str:
    """Text that may quote others: without keys, control characters and ends of lines."""
    return " ".join(printable(redact_known_keys(text)).split())


def condition(rule: AlertRule) -> str:
    """The threshold, for people: `above 5%`."""
    if rule.above is not None:
        return f"above {shown(rule.figure, rule.above)}"
    return f"below {shown(rule.figure, rule.below)}"


def shown(figure: Figure, value: float | None) -> str:
    """A figure's value, for people."""
    if value is None:
        return "-"
    return {
        "share": f"{value * 100:.3g}%" if value < 10 else f"{value * 100:,.0f}%",
        "seconds": f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s",
        "number": f"{value:,.0f}",
        "dollars": f"${value:,.2f}",
        "times": f"{value:.3g} times",
    }[UNITS[figure]]


def span(seconds: float) -> str:
    """A duration as settings write it: `5m`, `1h`, `90s`."""
    whole = max(1, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size and whole % size == 0:
            return f"{whole // size}{unit}"
    if whole < 600:
        return f"{whole}s"
    return f"{whole // 3600}h {whole % 3600 // 60}m" if whole >= 3600 else f"{whole // 60}m"


def key_of(*parts: AlertRule | AlertSink | str) -> str:
    """What tells rules, sinks and incidents apart in all processes: two configurations may have
    others of the same name."""
    text = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(text).hexdigest()[:20]


def _iso(moment: float) -> str:
    return iso(round(moment * 1000), UTC)
