"""Money in the ledger is exact."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from llmctl.stores.rows import from_pico, to_pico


@given(
    price=st.decimals(0, 1000, places=6, allow_nan=False),
    tokens=st.integers(0, 2_000_000),
)
def test_no_published_price_is_rounded(price: Decimal, tokens: int) -> None:
    """Tokens at a price per million with up to six decimals come back to the last digit."""
    cost = price * tokens / 1_000_000
    assert from_pico(to_pico(cost)) == cost


def test_what_is_finer_than_a_picodollar_is_rounded_to_even() -> None:
    """Half a picodollar goes to the even neighbour, and unknown stays unknown."""
    assert to_pico(Decimal("0.0000000000025")) == 2
    assert to_pico(Decimal("0.0000000000035")) == 4
    assert to_pico(None) is None
    assert from_pico(None) is None
