"""What a budget says: why a call is refused, and how much of it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from llmctl.errors import BudgetExhausted, BudgetRefused
from llmctl.protocols import BudgetDenied, BudgetWarning, BudgetWindow, Hold
from llmctl.tokens import max_output

_MICRO = Decimal("0.000001")


def usd(amount: Decimal) -> str:
    """Dollars, at least cents, to the microdollar: `$0.002`, `$1,200.00`."""
    shown = amount.quantize(_MICRO).normalize()
    exponent = shown.as_tuple().exponent
    assert isinstance(exponent, int)
    return f"${shown:,.{max(2, -exponent)}f}"


def refuse(hold: Hold, caps: Sequence[BudgetWindow]) -> None:
    """Raises `BudgetRefused` for a call that does not fit under a cap by itself."""
    target = hold.request.target
    for cap in caps:
        if hold.cost is not None and hold.cost <= cap.limit:
            continue
        budget = f"the budget of {usd(cap.limit)} ({cap.name})"
        if hold.cost is None and not hold.estimate.output and max_output(hold.request) is None:
            raise BudgetRefused(
                f"nothing limits the answers of {target.model}, so what they may cost cannot be "
                f"held to {budget}: give max_tokens (`params: {{max_tokens: …}}` in profile "
                f"{target.profile})",
                sent=False,
            )
        if hold.cost is None:
            raise BudgetRefused(
                f"the price of {target.model} is not known, so it cannot be held to {budget}: "
                f"set `price:` in profile {target.profile}",
                sent=False,
            )
        raise BudgetRefused(
            f"the call may cost {usd(hold.cost)}, more than all of {budget}: lower max_tokens, "
            "or raise the budget",
            sent=False,
        )


def exhausted(hold: Hold, refused: BudgetDenied) -> BudgetExhausted:
    """The error that ends the run: what is left is less than the call may cost."""
    cap, spent = refused.cap, refused.standing.spent
    return BudgetExhausted(
        f"the budget of {usd(cap.limit)} ({cap.name}) is used up: {usd(spent)} is spent, and the "
        f"next call may cost {usd(hold.cost or Decimal(0))}; raise it and run the same command "
        "again",
        sent=False,
    )


def crossed(crossing: BudgetWarning) -> str:
    """The warning that a share of a budget is reached."""
    cap, percent = crossing.cap, (crossing.share * 100).normalize()
    return f"budget {cap.name}: {percent:f}% is reached, {usd(crossing.spent)} of {usd(cap.limit)}"
