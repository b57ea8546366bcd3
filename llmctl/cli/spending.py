"""The budgets of a command: `--budget` and the configured ones, as caps that a run is held to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC
from decimal import Decimal

from llmctl.cli.render import safe
from llmctl.config.settings import Budget
from llmctl.guards.budget import RunBudget, usd
from llmctl.protocols import BudgetWindow

_FOR_EVER = 1 << 62

FLAG = "--budget"
"""How the budget of a run is called in what a person reads."""


def caps(
    own: Decimal | None, budgets: Sequence[Budget], run_id: str, user: str
) -> Callable[[float], list[BudgetWindow]]:
    """The caps of a moment (seconds since the epoch): `own` US dollars for the run, and the
    configured budgets that calls of this user count towards, in their present UTC day, week or
    month."""
    run = [] if own is None else [_of_run(own, run_id)]
    mine = [budget for budget in budgets if budget.match.get("user", user) == user]

    def at(now: float) -> list[BudgetWindow]:
        return [*run, *(_of_period(budget, round(now * 1000)) for budget in mine)]

    return at


def _of_run(limit: Decimal, run_id: str) -> BudgetWindow:
    return BudgetWindow(f"run:{run_id}", FLAG, limit, 0, _FOR_EVER, {"run": run_id})


def _of_period(budget: Budget, now: int) -> BudgetWindow:
    from llmctl.reports.periods import period_at

    span = period_at(budget.period, now, UTC)
    # Its limit may be raised in the middle of it; all else would be another budget.
    key = json.dumps([budget.name, sorted(budget.match.items()), span.start, span.end])
    return BudgetWindow(
        key, budget.name, budget.limit, span.start, span.end, dict(budget.match), budget.warn_at
    )


async def tightest(run: RunBudget) -> tuple[Decimal, Decimal] | None:
    """What is spent of the budget of which the smallest part is left, and its limit; None
    without budgets."""
    found = [(usage.spent, window.limit) for window, usage in await run.usages()]
    return max(found, key=lambda each: each[0] / each[1] if each[1] else Decimal(1), default=None)


async def lines(run: RunBudget) -> list[str]:
    """How each budget stands, `budget: $0.99 of $1.00 spent`, and what providers billed beyond
    what was held."""
    found: list[str] = []
    for cap, standing in await run.usages():
        name = "budget" if cap.name == FLAG else f"budget {safe(cap.name)}"
        held = f", {usd(standing.held)} held for calls under way" if standing.held else ""
        over = standing.spent - cap.limit
        beyond = f", {usd(over)} above it" if over > 0 else ""
        found.append(f"{name}: {usd(standing.spent)} of {usd(cap.limit)} spent{beyond}{held}")
    shot = run.overshoot
    if found and shot.calls:
        found.append(
            f"the provider billed {usd(shot.amount)} more than the worst case of "
            f"{shot.calls:,} call{'s' * (shot.calls != 1)}: it did not keep to max_tokens, or "
            "counts other tokens"
        )
    return found
