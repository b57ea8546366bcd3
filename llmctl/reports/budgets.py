"""How far a budget is used up. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from msgspec import Struct

from llmctl.config.settings import Budget
from llmctl.reports.figures import Figures
from llmctl.reports.periods import Span
from llmctl.storage import ledger_rows
from llmctl.storage.ledger_rows import Kind, from_pico

State = Literal["within", "warning", "exceeded"]


class BudgetState(Struct, frozen=True):
    """What stands against a budget in `span`: `figures` of ended calls, `held` picodollars of
    the `in_flight` calls under way at their worst case (`held_unpriced` of them at an unknown
    price). `span` None: a run's."""

    budget: Budget
    span: Span | None
    figures: Figures
    held: int = 0
    in_flight: int = 0
    held_unpriced: int = 0

    @property
    def used(self) -> Decimal:
        """The conservative figure: what was charged, what may have been, and what the calls
        under way can come to."""
        held = from_pico(self.held)
        assert held is not None
        return self.figures.conservative + held

    @property
    def share(self) -> Decimal | None:
        """`used` as a share of the limit; None for a limit of 0."""
        return self.used / self.budget.limit if self.budget.limit else None

    @property
    def unknown(self) -> int:
        """Calls that are not in `used` because nobody knows their price."""
        return self.figures.unknown + self.held_unpriced

    @property
    def warned_at(self) -> Decimal | None:
        """The highest share to warn at that has been reached."""
        share = Decimal(1) if self.share is None else self.share
        reached = [at for at in self.budget.warn_at if share >= at]
        return reached[-1] if reached else None

    @property
    def state(self) -> State:
        """Exceeded: above the limit; what is spent to the cent is within."""
        if self.used > self.budget.limit:
            return "exceeded"
        return "warning" if self.warned_at is not None else "within"


def matches(budget: Budget, kind: Kind) -> bool:
    """Whether calls of this kind count towards the budget; a model's dated versions do, too."""
    return ledger_rows.matches(budget.match, kind)
