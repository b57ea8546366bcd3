"""Caps: what callers, their teams and organisations may use, as quotas and budget windows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache

from msgspec import Struct

from llmctl.config.settings import Allowance, Caps, Period, QuotaPeriod, Rate
from llmctl.protocols import BudgetWindow, Quota
from llmctl.reports.periods import Span, period_at

_SECONDS = {"minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_MILLI = 1000
_ANY = 1 << 62  # units: no bound
_HOUR = 3600 * _MILLI


class Scope(Struct, frozen=True):
    """Who shares a cap: calls that have `value` by `label` (`user`, or a tag of the ledger)."""

    label: str
    value: str
    caps: Caps

    @property
    def name(self) -> str:
        """For people: `team data`."""
        return f"{self.label.removeprefix('tag:')} {self.value}"


def span_of(period: QuotaPeriod, now: float) -> Span:
    """The minute, hour, day, week or month of UTC that `now` (seconds since the epoch) is in."""
    if period in ("day", "week", "month"):
        return _calendar_span(period, round(now * _MILLI) // _HOUR)
    length = _SECONDS[period] * _MILLI
    start = round(now * _MILLI) // length * length
    return Span(start, start + length)


@lru_cache(maxsize=64)
def _calendar_span(period: Period, hour: int) -> Span:
    """The period that an hour, since the epoch, is in: all of them begin with one."""
    return period_at(period, hour * _HOUR, UTC)


def windows(scopes: Iterable[Scope], now: float) -> list[BudgetWindow]:
    """The budget windows of a moment. A key names a window whatever its limit, which may be raised
    meanwhile."""
    return [
        _window(scope, cap, span_of(cap.period, now))
        for scope in scopes
        for cap in scope.caps.budget
    ]


@lru_cache(maxsize=1024)
def _window(scope: Scope, cap: Allowance, span: Span) -> BudgetWindow:
    key = json.dumps(["cap", cap.period, scope.label, scope.value, span.start])
    name = f"a {cap.period} for {scope.name}"
    match = {scope.label: scope.value}
    return BudgetWindow(key, name, cap.amount, span.start, span.end, match)


def _number(period: QuotaPeriod, start: int) -> int:
    """The number of the window that begins at `start` (milliseconds); the next has one more."""
    if period == "month":
        first = datetime.fromtimestamp(start / _MILLI, UTC)
        return first.year * 12 + first.month
    return start // (_SECONDS[period] * _MILLI)


class Spending(Struct, frozen=True):
    """One quota that a call spends from, of whom, and when it begins anew (seconds since the
    epoch); `what` is `requests` or `tokens`."""

    quota: Quota
    scope: Scope
    rate: Rate
    what: str
    ends: float


def spendings(scopes: Iterable[Scope], now: float, tokens: int) -> list[Spending]:
    """What a call of so many tokens spends of the scopes' quotas."""
    return [*_spendings(scopes, now, tokens)]


def _spendings(scopes: Iterable[Scope], now: float, tokens: int) -> Iterator[Spending]:
    for scope in scopes:
        for what, rates, units in (
            ("requests", scope.caps.requests, 1),
            ("tokens", scope.caps.tokens, tokens),
        ):
            for rate in rates:
                span = span_of(rate.period, now)
                name = f"cap {scope.label} {scope.value} {what} {rate.period}"
                quota = Quota(name, _number(rate.period, span.start), units, rate.amount)
                yield Spending(quota, scope, rate, what, span.end / _MILLI)


def counts_tokens(scopes: Iterable[Scope]) -> bool:
    """Whether a call must say how many tokens it may use."""
    return any(scope.caps.tokens for scope in scopes)


def corrected(spent: Iterable[Spending], held: int, used: int) -> list[Quota]:
    """The quotas that give back, or take in addition, what a call used other than was held: what
    was used counts, whether there is room or not."""
    return [
        Quota(one.quota.name, one.quota.window, used - held, _ANY)
        for one in spent
        if one.what == "tokens" and used != held
    ]
