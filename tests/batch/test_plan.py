"""The plan of a batch, for files nobody thought of: the worst case holds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.batch.job import Job, open_batch
from llmctl.batch.plan import AverageCall, Plan, PlanInputs, duration, plan
from llmctl.batch.rows import RowReader
from llmctl.config.settings import Limits, Profile
from llmctl.pricing import Prices, terms_of
from llmctl.providers.registry import codec
from llmctl.tokens import Counter
from llmctl.types import Price, Usage

NOW = 1_795_000_000.0
COUNTER = Counter(Prices().window)
PRICES = Prices()
OWN = Price(Decimal("0.25"), Decimal(2), Decimal("0.025"), Decimal("0.3"))


def seen(profile: str, model: str) -> AverageCall | None:  # noqa: ARG001
    """The history of one model: answers of 30 tokens that take two seconds."""
    return AverageCall(Decimal(30), 2.0, 100) if model == "gpt-4o" else None


def profile(model: str = "gpt-4o", price: Price | None = None) -> Profile:
    """A profile at a provider whose prices are published."""
    url = "https://api.openai.com/v1"
    return Profile("p", "openai", "openai", url, model, price=price, context=2000)


def planned(rows: Sequence[Mapping[str, Any]], own: Profile) -> tuple[Plan, list[Any]]:
    """The plan of rows, and their requests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        inputs = PlanInputs(COUNTER, PRICES, codec(own.adapter), lambda _: False, seen, NOW)
        with open_batch(Job(str(path), None, RowReader(), own), dry_run=True) as batch:
            return plan(batch, inputs), [r for page in batch.pages(str) for r in page]


rows = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["a", "b", "tell me more", "wörd " * 40, "long " * 3000]),
            "max_tokens": st.none() | st.sampled_from([1, 16, 100]),
            "options": st.sampled_from([{}, {"n": 3}, {"service_tier": "priority"}]),
        }
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def spendings(draw: st.DrawFn, most: int, tokens: int) -> Usage:
    """What a provider may bill of so many input tokens and an answer within its limit."""
    cached = draw(st.integers(0, tokens))
    output = draw(st.just(most) | st.integers(0, most))
    return Usage(
        input=tokens,
        output=output,
        cached_input=cached,
        cache_write=draw(st.integers(0, tokens - cached)),
        reasoning=draw(st.integers(0, output)),
    )


@given(
    st.data(),
    rows,
    st.sampled_from(["gpt-4o", "gpt-6-sol", "o3", "gpt-5-mini"]),
    st.sampled_from([None, OWN]),
)
@settings(max_examples=150, deadline=None)
def test_the_worst_case_is_never_below_the_real_cost(
    data: st.DataObject, made: list[dict[str, Any]], model: str, price: Price | None
) -> None:
    """However the provider caches, thinks and cuts off: even when no answer can be kept and every
    duplicate is sent, the bill is at most the plan's."""
    own = profile(model, price)
    found, requests = planned(made, own)
    assert found.cost.worst is not None
    bill = Decimal(0)
    for request in requests:
        counted = COUNTER.count(request)
        most = COUNTER.output_bound(request, counted)
        window = COUNTER.window_to_check(request)
        if window is not None and "long" in request.messages[0].text:
            continue
        assert most is not None
        usage = data.draw(spendings(most, counted.tokens))
        cost = PRICES.price(request.target, own.price, usage, NOW, terms_of(request))
        assert cost is not None
        bill += cost
    assert bill <= found.cost.worst


def test_the_expected_cost_is_that_of_earlier_answers() -> None:
    """The ledger's mean where there is one, half the limit where there is none; never more than
    allowed."""
    for model, limit, output in (("gpt-4o", 100, 30), ("gpt-4o", 10, 10), ("o3", 100, 50)):
        found, (request,) = planned([{"prompt": "a", "max_tokens": limit}], profile(model))
        assert found.expected_output_tokens == output
        usage = Usage(input=COUNTER.count(request).tokens, output=output)
        assert found.cost.expected == PRICES.price(request.target, None, usage, NOW)
        assert found.seen == (100 if model == "gpt-4o" else 0)


def test_rows_that_the_provider_would_not_take_are_refused_rows() -> None:
    """What a codec cannot say is no row to send, and costs nothing."""
    own = Profile(
        "p", "anthropic", "anthropic", "https://api.anthropic.com/v1", "claude-sonnet-5-5"
    )
    body = {"model": "e", "input": "text"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    found, _ = planned([line], own)
    assert (found.refused, found.to_send, len(found.errors)) == (1, 0, 1)
    assert found.cost.worst == 0


def test_the_time_is_that_of_the_tightest_limit() -> None:
    """Requests a minute, tokens a minute, or the latency of earlier calls."""
    made = Plan(to_send=120, input_tokens=9000, expected_output_tokens=3000)
    usual = [AverageCall(Decimal(30), 2.0, 10)]
    assert duration(made, Limits(concurrency=4), usual) == (60.0, "concurrency")
    assert duration(made, Limits(rpm=60), usual) == (120.0, "rpm")
    assert duration(made, Limits(rpm=60, tpm=3000), usual) == (240.0, "tpm")
    assert duration(made, Limits(rpd=50), usual) == (2 * 86400, "rpd")  # today's, two days more
    assert duration(made, Limits(), []) == (None, None)
    assert duration(Plan(), Limits(rpm=60), usual) == (0.0, None)
