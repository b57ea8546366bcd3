"""T5 at the size of CI."""

from __future__ import annotations

from tests.torture.outage import main


def test_an_outage_of_five_minutes_costs_no_row() -> None:
    """A provider that fails for 300 s is left alone and no row fails."""
    assert main([]) == 0
