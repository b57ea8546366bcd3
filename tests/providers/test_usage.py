"""What providers bill: every kind of usage, held against `genai_prices.extract_usage`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
import pytest
from genai_prices import extract_usage

from llmctl.errors import CallError
from llmctl.pricing import Prices, Terms, terms_of
from llmctl.providers.registry import PRESETS, codec
from llmctl.providers.replies import completed
from llmctl.tokens import Counter
from llmctl.types import ProviderReply, Target, Usage
from tests.providers.recordings import asked, needs_recordings, recordings
from tests.support import request

NOW = 1_796_000_000.0
OWN = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cached_input",
    "cache_write_tokens": "cache_write",
    "input_audio_tokens": "audio_input",
    "output_audio_tokens": "audio_output",
    "output_image_tokens": "image_output",
    "output_reasoning_tokens": "reasoning",
    "web_searches": "searches",
}
"""The names of genai-prices, and ours."""
GUESS = Usage(7, 9, estimated=True)


def read(provider: str, body: Mapping[str, Any], api: str = "chat") -> Usage | None:
    """What the provider's codec reads of a body's usage."""
    return codec(provider, api).decode(200, {}, orjson.dumps(body)).usage


def chat(usage: Any, text: str = "hi", **more: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice], "usage": usage, **more}


def gemini(**usage: Any) -> dict[str, Any]:
    """Gemini's answer."""
    candidate = {"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}
    return {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "usageMetadata": usage}


def claude(**usage: Any) -> dict[str, Any]:
    """Anthropic's answer."""
    content = [{"type": "text", "text": "hi"}]
    return {
        "model": "claude-sonnet-5-5",
        "content": content,
        "stop_reason": "end_turn",
        "usage": usage,
    }


AUDIO = {
    "prompt_tokens": 1000,
    "completion_tokens": 500,
    "prompt_tokens_details": {"audio_tokens": 980},
    "completion_tokens_details": {"audio_tokens": 450},
}
XAI = {
    "prompt_tokens": 1000,
    "completion_tokens": 400,
    "total_tokens": 1700,
    "completion_tokens_details": {"reasoning_tokens": 300},
}
TOOL = {"promptTokenCount": 10, "candidatesTokenCount": 5, "toolUsePromptTokenCount": 9}
SOUND = {
    "promptTokenCount": 90,
    "candidatesTokenCount": 5,
    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 80}, {"modality": "TEXT"}],
}
COMPACTED = {
    "input_tokens": 10,
    "output_tokens": 20,
    "iterations": [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 100},
        {"type": "message", "input_tokens": 10, "output_tokens": 20},
    ],
}
SEARCHED = {
    "input_tokens": 1,
    "output_tokens": 2,
    "server_tool_use": {"web_search_requests": 3},
}


@pytest.mark.parametrize(
    ("provider", "reference", "body"),
    [
        ("openai", ("openai", "chat"), chat(AUDIO, model="gpt-audio")),  # case 15
        ("openai", ("x-ai", "chat"), chat(XAI, model="grok-4")),  # case 13
        ("gemini", ("google", "default"), gemini(**TOOL)),  # case 17
        ("gemini", ("google", "default"), gemini(**SOUND)),
        ("anthropic", ("anthropic", "default"), claude(**SEARCHED)),
        ("anthropic", ("anthropic", "default"), claude(input_tokens=3, output_tokens=4)),
    ],
)
def test_kinds_of_usage(provider: str, reference: tuple[str, str], body: dict[str, Any]) -> None:
    """Cases 13, 15, 17: what genai-prices finds in a body, the codec finds."""
    theirs = extract_usage(body, provider_id=reference[0], api_flavor=reference[1]).usage
    ours = read(provider, body)
    assert ours is not None
    for name, value in vars(theirs).items():
        if name in OWN:
            assert getattr(ours, OWN[name]) == value, name
    assert not ours.estimated


@needs_recordings
def test_recorded_usage_is_what_genai_prices_reads() -> None:
    """Every recorded answer of a provider that has an extractor."""
    seen = 0
    for provider, ending, name, flavor, api in (
        ("openai", "/chat/completions", "openai", "chat", "chat"),
        ("openai", "/responses", "openai", "responses", "responses"),
        ("groq", "/chat/completions", "groq", "default", "chat"),
        ("mistral", "/chat/completions", "mistral", "default", "chat"),
        ("gemini", ":generateContent", "google", "default", "chat"),
        ("anthropic", "/messages", "anthropic", "default", "chat"),
    ):
        for recorded in recordings(provider, ending):
            if recorded["kind"] != "json" or recorded["status"] != 200:
                continue
            body = orjson.loads(recorded["body"])
            try:
                ours = read(provider, body, api)
                theirs = extract_usage(body, provider_id=name, api_flavor=flavor).usage
            except (CallError, LookupError, ValueError):
                continue
            assert ours is not None
            for key in ("input_tokens", "output_tokens", "cache_read_tokens"):
                if (value := vars(theirs).get(key)) is not None:
                    assert getattr(ours, OWN[key]) == value, (provider, recorded["body"][:300])
            assert ours.estimated == ('"advisor_message"' in recorded["body"]), provider
            seen += 1
    assert seen > 200


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        (None, GUESS),
        ({}, GUESS),
        ({"prompt_tokens": 0, "completion_tokens": 0}, GUESS),
        ({"prompt_tokens": -1, "completion_tokens": "many"}, GUESS),
        ({"prompt_tokens": None, "completion_tokens": 5}, Usage(7, 5, estimated=True)),
        ({"prompt_tokens": 5, "completion_tokens": 0}, Usage(5, 9, estimated=True)),
        ({"prompt_tokens": 5, "total_tokens": 25}, Usage(5, 20)),
        ({"completion_tokens": 5, "total_tokens": 25}, Usage(20, 5)),
        ({"total_tokens": 1000}, Usage(7, 993, estimated=True)),
        ({"total_tokens": 3}, Usage(7, 9, estimated=True)),
        ({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 25},
         Usage(5, 20, estimated=True)),
        ({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}, Usage(5, 6)),
        ({"input_tokens": 5, "output_tokens": 6}, Usage(5, 6)),  # as a response names them
    ],
)  # fmt: skip
def test_a_side_that_is_not_said_is_estimated(usage: Any, wanted: Usage) -> None:
    """Case 12: null, -1, text, zeros beside a text: flagged; the sum of all is a witness."""
    assert completed(read("openai", chat(usage)), lambda: GUESS, wrote=True) == wanted


def test_an_answer_without_a_word_has_no_output() -> None:
    """An embedding has none, and nothing is guessed for it."""
    said = Usage(5, 0)
    assert completed(said, lambda: GUESS, wrote=False) is said


def test_a_last_chunk_of_zeros_replaces_nothing() -> None:
    """Case 12: good figures stay."""
    reader = codec("openai", "chat").reader()
    good = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
    zeros = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    found = [reader.piece("", orjson.dumps(each).decode()).usage for each in (good, zeros)]
    assert found == [Usage(5, 6), None]


def test_what_openrouter_bills_with_ones_own_key() -> None:
    """Case 14: its fee, and what the provider behind it asks; of all others its word stands."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0000225}
    own = {**usage, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00045}}
    replies = codec("openrouter", "chat")

    def cost(said: Any) -> ProviderReply:
        return replies.decode(200, {}, orjson.dumps(chat(said)))

    assert cost(own).cost == Decimal("0.0004725")
    assert cost({**own, "is_byok": False}).cost == Decimal("0.0000225")


def test_compactions_are_summed_up() -> None:
    """Case 17: Anthropic's iterations are all billed; an adviser's are flagged."""
    assert read("anthropic", claude(**COMPACTED)) == Usage(1010, 120)
    advised = [*COMPACTED["iterations"], {"type": "advisor_message", "input_tokens": 9}]  # type: ignore[misc]
    usage = read("anthropic", claude(**{**COMPACTED, "iterations": advised}))
    assert usage == Usage(1010, 120, estimated=True)


def price(
    provider: str, model: str, usage: Usage, base_url: str | None = None, terms: Terms = ()
) -> Decimal | None:
    """What it costs by the published list."""
    target = Target("p", provider, provider, base_url or PRESETS[provider].base_url, model)
    return Prices().price(target, None, usage, NOW, terms)


def test_sound_has_its_own_price() -> None:
    """Case 15: $0.0607, not $0.0075; where a model of sound has no such price it is not known."""
    usage = read("openai", chat(AUDIO, model="gpt-audio"))
    assert usage is not None
    assert price("openai", "gpt-audio", usage) == Decimal("0.06071")
    assert price("openai", "gpt-4o-audio-preview", usage) is None
    sound = read("gemini", gemini(**SOUND))
    assert sound is not None
    assert price("gemini", "gemini-2.5-flash", sound) == Decimal("0.0000955")


def test_sound_is_held_at_its_price() -> None:
    """Case 15: the worst case of a call with sound in it is that of sound."""
    target = Target("p", "openai", "openai", PRESETS["openai"].base_url, "gpt-audio")
    part = {"type": "input_audio", "input_audio": {"data": "AAAA" * 1000, "format": "wav"}}
    sound = request("q", target=target)
    counter = Counter()
    assert not counter.has_media(sound)
    message = type(sound.messages[0])("user", (part,))
    assert counter.has_media(request("q", target=target, messages=(message,)))
    worst = Prices().worst_case(target, None, 1000, 500, NOW, media=True)
    assert worst == Decimal("0.064")
    assert Prices().worst_case(target, None, 1000, 500, NOW) == Decimal("0.0075")


def test_cohere_bills_what_it_calls_billed() -> None:
    """Case 16: 508 and 9 tokens are shown, 8 and 5 are paid."""
    units = {"tokens": {"input_tokens": 508, "output_tokens": 9}}
    units["billed_units"] = {"input_tokens": 8, "output_tokens": 5}
    content = [{"type": "text", "text": "hi"}]
    message = {"role": "assistant", "content": content}
    usage = read("cohere", {"message": message, "finish_reason": "COMPLETE", "usage": units})
    assert usage is not None
    assert (usage.input, usage.output) == (508, 9)
    assert price("cohere", "command-a-03-2025", usage) == Decimal("0.00007")


@pytest.mark.parametrize(
    ("provider", "model", "usage", "cost"),
    [
        ("anthropic", "claude-sonnet-5-5", Usage(searches=2), "0.02"),
        ("openai", "gpt-5-mini", Usage(searches=2, file_searches=4), "0.03"),
        ("gemini", "gemini-2.5-flash", Usage(searches=2), "0.07"),
        ("groq", "llama-3.3-70b-versatile", Usage(1, 1, searches=1), None),
        ("openrouter", "deepseek/deepseek-r1:free", Usage(10**6, 10**6), "0"),  # case 20
        ("gemini", "models/gemini-2.5-flash", Usage(10**6), "0.3"),
    ],
)
def test_searches_and_names(provider: str, model: str, usage: Usage, cost: str | None) -> None:
    """Cases 17 and 20: the provider's own tools have prices, free models cost nothing, and a name
    is read as the provider lists it."""
    assert price(provider, model, usage) == (None if cost is None else Decimal(cost))


CLOUDFLARE = "https://gateway.ai.cloudflare.com/v1/acc/openai"


@pytest.mark.parametrize(
    ("address", "model", "vendor", "name"),
    [
        (f"{CLOUDFLARE}/openai", "gpt-5-mini", "openai", "gpt-5-mini"),
        (f"{CLOUDFLARE}/anthropic/v1", "claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        (f"{CLOUDFLARE}/google-ai-studio/v1beta", "models/gemini-2.5-flash", "gemini", None),
        (f"{CLOUDFLARE}/groq/", "openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
        (f"{CLOUDFLARE}/compat", "groq/openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
        ("https://ai-gateway.vercel.sh/v1", "cohere/command-r-plus", "cohere", "command-r-plus"),
        ("https://models.github.ai/inference?api-version=1", "openai/gpt-4o", "openai", "gpt-4o"),
        ("https://oai.helicone.ai/v1", "gpt-5-mini", "openai", "gpt-5-mini"),
        ("https://api.portkey.ai/v1", "@openai/gpt-4o", "openai", "gpt-4o"),
    ],
)
def test_a_known_gateway_has_the_vendors_prices(
    address: str, model: str, vendor: str, name: str | None
) -> None:
    """Case 22: and its windows; the address says who is behind it, else the model's prefix."""
    there, name = PRESETS[vendor].base_url, name or "gemini-2.5-flash"
    cost = price("openai", model, Usage(10**6, 10**6), address)
    assert cost == price(vendor, name, Usage(10**6, 10**6)) is not None
    assert Prices().window(address, model) == Prices().window(there, name) is not None


@pytest.mark.parametrize(
    ("address", "model"),
    [
        ("https://llm.corp.test/v1", "gpt-4o"),
        ("https://evilmodels.github.ai/inference", "openai/gpt-4o"),
        (f"{CLOUDFLARE}/azure-openai/resource/deployment", "gpt-4o"),
        (f"{CLOUDFLARE}/custom-mine/v1", "openai/gpt-4o"),
        (f"{CLOUDFLARE}/compat", "workers-ai/gpt-4o"),
        ("https://ai-gateway.vercel.sh/v1", "openai/gpt-oss-120b"),
        ("https://api.portkey.ai/v1", "@azure-prod/gpt-4o"),
        ("https://api.portkey.ai/v1", "gpt-4o"),
    ],
)
def test_who_is_behind_an_address_is_not_guessed(address: str, model: str) -> None:
    """Case 22: where nothing names the vendor a model's name has neither price nor window."""
    assert price("openai", model, Usage(10**6), address) is None
    assert Prices().window(address, model) is None


@pytest.mark.parametrize(
    ("provider", "model", "window"),
    [
        ("cohere", "command-r-plus", 128_000),  # A4
        ("cohere", "command-a-03-2025", 256_000),
        ("cohere", "command-a-reasoning-08-2025", 256_000),  # not in the list
        ("mistral", "mistral-large-latest", 262_144),  # A5
        ("mistral", "mistral-large-4", 1_048_576),  # the list's own
        ("groq", "llama-3.3-70b-versatile", 131_072),
        ("groq", "groq/compound", 131_072),
        ("groq", "a-model-of-tomorrow", None),
    ],
)
def test_windows(provider: str, model: str, window: int | None) -> None:
    """A4, A5, A146: hosted models have a window, so that 300,000 tokens are not sent unchecked;
    one that nobody has published is not made up."""
    assert Prices().window(PRESETS[provider].base_url, model) == window


def test_geminis_tier_is_read() -> None:
    """Its name for the tier is another one; `priority` is dearer, and without a rate in the list
    not known, `flex` no more than the usual."""
    terms = {}
    for tier in ("FLEX", "priority", "standard", "unspecified"):
        terms[tier] = terms_of(asked("gemini", "gemini-2.5-pro", options={"serviceTier": tier}))
    assert terms["FLEX"] == (("service_tier", "flex"),)
    assert terms["standard"] == terms["unspecified"] == ()
    usual, flex, dearer = (
        price("gemini", "gemini-2.5-pro", Usage(1000, 1000), terms=terms[tier])
        for tier in ("standard", "FLEX", "priority")
    )
    assert usual == flex is not None
    assert dearer is None


def test_what_nobody_reported_is_guessed_without_a_margin() -> None:
    """Case 21: `hi` is no 51 tokens; what is held is still no less than they may be."""
    made = request("hi", target=Target("p", "openai", "openai", "http://h/v1", "my-model"))
    counter = Counter()
    used = counter.usage(made, "Hello!")
    assert used.estimated
    assert used.input < 12
    assert used.output <= 3
    assert counter.count(made).tokens > used.input
