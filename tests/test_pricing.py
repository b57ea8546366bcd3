"""Usage → dollars: equal to the published data, and never a guess."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache

import pytest
from genai_prices import Usage as Used
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import Provider
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.pricing import BATCH, Prices, Terms, terms_of
from llmctl.types import Price, RawRequest, Request, Target, Usage

PRICES = Prices()
price, worst_case = PRICES.price, PRICES.worst_case

TODAY = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW = TODAY.timestamp()
ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta",
    "cohere": "https://api.cohere.com/v2",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "groq": "https://api.groq.com/openai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "x-ai": "https://api.x.ai/v1",
}
OWN = Price(input=Decimal("0.25"), output=Decimal(2), cached_input=Decimal("0.025"))


def target(model: str, *, base_url: str = ADDRESSES["openai"]) -> Target:
    """A target for a model."""
    return Target("mine", "openai", "openai", base_url, model)


@cache
def providers() -> dict[str, Provider]:
    """The published providers that have an address above."""
    return {p.id: p for p in get_snapshot().providers if p.id in ADDRESSES}


@cache
def model_names() -> list[tuple[str, str]]:
    """Every provider and model that the address and the name alone lead to."""
    return [(p.id, model.id) for p in providers().values() for model in p.models]


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usages that agree with themselves, at and around the tiers' starts too."""
    edges = st.sampled_from([0, 1, 32_000, 128_000, 200_000, 256_000, 272_000, 1_000_000])
    read = draw(edges.map(lambda n: n + 1) | edges | st.integers(0, 2_000_000))
    wrote = draw(st.integers(0, 200_000))
    cached = draw(st.integers(0, read))
    written = draw(st.integers(0, read - cached))
    return Usage(
        input=read,
        output=wrote,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=draw(st.integers(0, written)),
        reasoning=draw(st.integers(0, wrote)),
    )


times = st.timedeltas(timedelta(days=-1400), timedelta(days=400)).map(lambda ago: TODAY + ago)


@given(
    data=st.data(),
    usage=usages(),
    at=times,
    terms=st.sampled_from(
        [(), (), BATCH, (("service_tier", "flex"),), (("service_tier", "priority"),)]
    ),
)
@settings(max_examples=1300, deadline=None)
def test_prices_equal_the_published_ones(
    data: st.DataObject, usage: Usage, at: datetime, terms: Terms
) -> None:
    """Any model, date, tier, way of processing and usage costs exactly what genai-prices
    calculates; but what has no price a token, or no rate for a batch or a tier that may cost more,
    has no price here."""
    provider, model = data.draw(st.sampled_from(model_names()))
    used = Used(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        cache_write_1h_tokens=usage.cache_write_1h,
        output_reasoning_tokens=usage.reasoning,
    )
    there = target(model, base_url=ADDRESSES[provider])
    ours = price(there, None, usage, at.timestamp(), terms)
    try:
        theirs = calc_price(
            used,
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context=dict(terms) or None,
        )
    except LookupError:
        assert ours is None
        return
    if ours is None:  # what was used has no price a token, which they count as 0
        priced = theirs.model_price
        assert terms in (BATCH, (("service_tier", "priority"),)) or (
            (usage.input and priced.input_mtok is None)
            or (usage.output and priced.output_mtok is None)
        )
        return
    assert ours == theirs.total_price
    worst = worst_case(there, None, usage.input, usage.output, at.timestamp(), terms)
    assert worst is not None
    assert worst >= ours


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("no-such-model", ADDRESSES["openai"]),
        ("gpt-4o", "http://127.0.0.1:8000/v1"),
        ("gpt-4o", "https://gateway.example/v1"),
        ("gpt-4o", "https://mine.openai.azure.com/openai/v1"),
        ("smollm2-135m", "local://model/SmolLM2.gguf?size=1"),
        ("whisper-1", ADDRESSES["openai"]),
        ("", ADDRESSES["openai"]),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(model: str, base_url: str) -> None:
    """Models nobody priced, and servers that only borrow a model's name, have no price."""
    unknown = target(model, base_url=base_url)
    assert price(unknown, None, Usage(input=10, output=10), NOW) is None
    assert worst_case(unknown, None, 10, 10, NOW) is None


def test_a_compatible_server_of_a_known_provider_has_its_price() -> None:
    """`provider: openai` at another known provider's address costs what that one charges."""
    there = target("deepseek-chat", base_url="https://API.deepseek.com/v1")
    assert price(there, None, Usage(input=1000), NOW)


def test_a_profiles_own_price_wins() -> None:
    """The profile's price holds for any model; what it leaves out costs as input does."""
    usage = Usage(input=1_000_000, output=500_000, cached_input=200_000, cache_write=100_000)
    expected = Decimal("0.8") * Decimal("0.25") + Decimal("0.2") * Decimal("0.025") + 1
    for model in ("gpt-4o", "no-such-model"):
        assert price(target(model), OWN, usage, NOW) == expected
    free = Price(input=Decimal(0), output=Decimal(0))
    assert price(target("smollm2-135m"), free, usage, NOW) == 0


def test_figures_that_contradict_themselves_are_read_as_the_larger() -> None:
    """More cached than input, or more reasoning than output, still has a price."""
    more = price(target("gpt-4o"), None, Usage(cached_input=400, reasoning=50), NOW)
    assert more == price(
        target("gpt-4o"), None, Usage(input=400, output=50, cached_input=400, reasoning=50), NOW
    )


def test_the_worst_case_covers_cache_writes() -> None:
    """Where writing to the cache costs extra, it is held; unlimited output has no worst case."""
    sol = target("gpt-6-sol")
    usual = price(sol, None, Usage(input=1000, output=100), NOW)
    written = price(sol, None, Usage(input=1000, output=100, cache_write=1000), NOW)
    assert usual is not None
    assert written is not None
    assert worst_case(sol, None, 1000, 100, NOW) == written > usual
    assert worst_case(sol, None, 1000, None, NOW) is None
    assert worst_case(sol, OWN, 1_000_000, 1_000_000, NOW) == Decimal("2.25")


def test_an_embedding_has_no_output_to_price() -> None:
    """Only what is used must have a price."""
    embedding = target("text-embedding-3-small")
    assert price(embedding, None, Usage(input=1_000_000), NOW) == Decimal("0.02")
    assert worst_case(embedding, None, 1_000_000, 0, NOW) == Decimal("0.02")
    assert price(embedding, None, Usage(input=1, output=1), NOW) is None


def test_batches_cost_what_is_published_for_them() -> None:
    """Half, where that is the published rate; unknown, not the usual price, where none is."""
    usage = Usage(input=1_000_000, output=1_000_000)
    usual = price(target("gpt-5-mini"), None, usage, NOW)
    assert usual is not None
    assert price(target("gpt-5-mini"), None, usage, NOW, BATCH) == usual / 2
    there = target("command-a-03-2025", base_url=ADDRESSES["cohere"])
    assert price(there, None, usage, NOW)
    assert price(there, None, usage, NOW, BATCH) is None
    assert price(target("gpt-5-mini"), OWN, usage, NOW, BATCH) is None


def test_what_a_request_says_of_its_processing() -> None:
    """A tier or a speed other than the usual, in its options or in a body passed through."""
    asked = Request("a", target("gpt-5-mini"), (), options={"service_tier": "flex", "speed": 1})
    assert terms_of(asked) == (("service_tier", "flex"),)
    raw = RawRequest("/chat/completions", {"service_tier": "priority"})
    assert terms_of(replace(asked, raw=raw)) == (("service_tier", "priority"),)
    for usual in ("auto", "default", None, {"a": 1}):
        assert terms_of(replace(asked, options={"service_tier": usual})) == ()
