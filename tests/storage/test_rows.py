"""Money in the ledger is exact."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from llmctl.storage.rows import answered_call, call_row, from_pico, to_pico
from tests.conformance.calls import a_request, an_answer, an_outcome


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


def test_the_short_way_for_kept_answers_says_the_same() -> None:
    """`answered_call` gives the values of `call_row`, field by field."""
    request = a_request()
    for state in ("hit", "shared"):
        answer = replace(an_answer(request), cache=state, attempts=0)
        outcome = replace(an_outcome(request, answer), first_token=None, saved=Decimal("0.01"))
        assert answered_call(outcome, "run", "me") == astuple(call_row(outcome, None, "run", "me"))
