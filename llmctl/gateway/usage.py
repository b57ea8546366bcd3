"""What callers have used this month, by the ledger; the page `/usage`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC
from pathlib import Path
from typing import Any

from msgspec import Struct

from llmctl.gateway.callers import Caller
from llmctl.gateway.caps import Spending, span_of
from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.reports.periods import iso
from llmctl.storage.ledger_queries import LedgerPeek, Reading
from llmctl.storage.ledger_rows import dollars, read_tags
from llmctl.types import JSON

_GROUPS = ("token", "team", "organisation")


class Used(Struct, frozen=True):
    """The sums (`ledger_queries.SUMS`) of one user's calls with one token, or without."""

    user: str
    tags: JSON
    sums: Counter[str]

    def as_json(self) -> dict[str, Any]:
        """Calls, tokens and US dollars."""
        named = {name: self.tags[name] for name in _GROUPS if name in self.tags}
        cost, doubt = dollars(self.sums["cost_pico"]), dollars(self.sums["doubtful_pico"])
        money = {"cost_usd": float(cost), "in_doubt_usd": float(doubt)}
        return {"user": self.user, **named, **_sums(self.sums), **money}


def _sums(sums: Counter[str]) -> dict[str, int]:
    return {name: sums[name] for name in ("calls", "input_tokens", "output_tokens")}


def used_this_month(ledger: Path, now: float) -> list[Used]:
    """What every caller has used since the month (of UTC) began; `now` in seconds since the
    epoch."""
    span = span_of("month", now)

    def read(reading: Reading) -> list[Used]:
        found: dict[tuple[str, ...], Used] = {}
        for cell in reading.cells([span.start, span.end], ("user", "tags")):
            tags = read_tags(cell.tags)
            key = cell.user, *(tags.get(name, "") for name in _GROUPS)
            found.setdefault(key, Used(cell.user, tags, Counter())).sums.update(cell.sums)
        return [*found.values()]

    with LedgerPeek(ledger) as peek:
        return peek.ask(lambda connection: read(Reading(connection))) or []


def own_usage(used: Iterable[Used], caller: Caller) -> dict[str, Any]:
    """The caller's own part, of the very token that asks."""
    mine: Counter[str] = Counter()
    for one in used:
        if one.user == caller.user and one.tags.get("token") == caller.token:
            mine.update(one.sums)
    tags = {name: value for name in _GROUPS if (value := getattr(caller, name))}
    return Used(caller.user, tags, mine).as_json()


def budget_json(window: BudgetWindow, usage: BudgetUsage) -> JSON:
    """A cap of dollars, and what is left of it."""
    left = max(window.limit - usage.spent - usage.held, 0 * window.limit)
    return {
        "cap": window.name,
        "limit_usd": float(window.limit),
        "spent_usd": float(usage.spent),
        "held_usd": float(usage.held),
        "left_usd": float(left),
        "resets": iso(window.end, UTC),
    }


def quota_json(spending: Spending, used: int) -> JSON:
    """A cap of requests or tokens, and what is left of it."""
    rate, what = spending.rate, spending.what
    return {
        "cap": f"{what} a {rate.period} for {spending.scope.name}",
        f"limit_{what}": rate.amount,
        f"used_{what}": used,
        f"left_{what}": max(0, rate.amount - used),
        "resets": iso(round(spending.ends * 1000), UTC),
    }
