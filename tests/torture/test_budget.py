"""The torture of T7 to T10 in a small size."""

from __future__ import annotations

from tests.torture import budget, holds
from tests.torture.judge import Size


def test_a_budget_is_kept_to_the_last_cent() -> None:
    """In one process and in two; what cannot be held to it is refused unsent."""
    line = budget.run(Size())
    assert "overshoot $0 (check-then-act: $2.59)" in line


def test_four_processes_are_granted_exactly_what_there_is() -> None:
    """And none of them waits long."""
    assert "625 of 625 granted" in holds.run(Size())
