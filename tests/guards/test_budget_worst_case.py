"""A hold covers whatever the provider may bill for the body that it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmctl.clock import SystemClock
from llmctl.errors import BudgetRefused, InvalidRequest
from llmctl.guards.accounting import CostCalculator
from llmctl.pricing import Prices
from llmctl.providers.registry import codec
from llmctl.tokens import Counter
from llmctl.types import Message, Price, RawRequest, Request, Target
from tests.conformance.greedy import OPTIONS, OWN, TEXTS, WINDOW, most_billed

PRICE = Price(input=Decimal(1), output=Decimal(2))
COUNTER = Counter(codec=codec)
COSTS = CostCalculator(COUNTER, Prices(), {"p": PRICE}, SystemClock())


@pytest.mark.parametrize("wire", OWN)
@pytest.mark.parametrize("model", ["gpt-4o", "claude-opus-4-1"])
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, limit=st.sampled_from([None, 1, 900]), options=OPTIONS, raw=st.booleans())
@example(text="1" * 300, limit=None, options={}, raw=True)
@example(text="", limit=9, options={"options": {"max_output_tokens": 1}}, raw=False)
@example(text="", limit=9, options={"n": 2, "best_of": 5, "max_tokens": 700}, raw=False)
@example(text="", limit=9, options={"prediction": {"content": "1" * 300}}, raw=False)
def test_a_hold_is_never_below_the_bill(
    wire: str, model: str, text: str, limit: int | None, options: Mapping[str, Any], *, raw: bool
) -> None:
    """Case 49, for all codecs: whatever a body or its options are, the call is refused unsent, or
    its hold is at least what the provider can bill while it keeps to what it was sent."""
    adapter, _, api = wire.partition(" ")
    target = Target("p", adapter, adapter, "http://127.0.0.1:1", model, WINDOW, api or "chat")
    turns = [{"role": "user", "content": text}]
    body = {"model": model, "messages": turns, "max_tokens": limit, **options}
    path = "/responses" if api else "/chat/completions"
    if api:
        body["input"] = body.pop("messages")
    request = Request(
        id="a", target=target, messages=(Message("user", text),), max_tokens=limit,
        options={} if raw else options, raw=RawRequest(path, body) if raw else None,
    )  # fmt: skip
    try:
        sent = codec(adapter, api or "chat").encode(request, stream=False).body
        _, held = asyncio.run(COSTS.bounded(request))
    except (BudgetRefused, InvalidRequest):
        return
    assert sent is not None
    bill = most_billed(wire, sent)
    assert bill is not None, f"held at ${held}, and nothing bounds it: {sent}"
    assert held is not None
    assert held * 10**6 >= bill.input * PRICE.input + bill.output * PRICE.output, sent
