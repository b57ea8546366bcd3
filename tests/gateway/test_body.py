"""A caller's body as the provider of a profile is sent it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import InvalidRequest
from llmctl.gateway.body import Body
from llmctl.gateway.chat import Chat, Embeddings
from llmctl.gateway.dialect import Dialect
from llmctl.gateway.messages import Messages
from llmctl.gateway.responses import Responses
from llmctl.providers.registry import PRESETS, codec
from llmctl.request import target_for
from llmctl.types import RawRequest

TURN: Any = {"role": "user", "content": "hi"}


def profile(name: str, **more: Any) -> Profile:
    """A profile of the preset, with what else it says."""
    preset = PRESETS[name]
    return Profile(name, name, preset.adapter, preset.base_url, preset.model, **more)


def sent(dialect: Dialect, body: Any, to: Profile, *most: int, **headers: str) -> RawRequest:
    """What goes to the provider of the profile."""
    said = Body(dialect.read({"model": "x", **body}, headers), dialect, to)
    raw = said.raw(None, [])
    return said.completed(raw, target_for(to), codec(to.adapter, to.api), most)


def test_a_body_passes_where_the_provider_speaks_its_language() -> None:
    """Whatever it holds stays as it is, but for the model."""
    odd = {"messages": [TURN], "unheard_of": {"a": [1]}, "max_tokens": 5}
    for dialect, to in ((Chat(), profile("groq")), (Messages(), profile("anthropic"))):
        raw = sent(dialect, odd, to)
        assert raw.path == dialect.path
        assert raw.body == {**odd, "model": to.model}


def test_a_body_becomes_a_chat_completion_elsewhere() -> None:
    """With the limit as the provider spells it."""
    body = {"messages": [TURN], "max_tokens": 5}
    for to, limit in (
        (profile("openai"), "max_completion_tokens"),
        (profile("gemini"), "max_tokens"),
    ):
        raw = sent(Messages(), body, to)
        assert (raw.path, raw.body[limit]) == ("/chat/completions", 5)
        assert len([name for name in raw.body if name.startswith("max_")]) == 1


def test_a_profile_says_what_the_body_does_not() -> None:
    """Parameters, temperature and system prompt; the caller's own win. Parameters are in the
    provider's language: they stay at home where the body is translated."""
    to = profile("groq", params={"seed": 7, "top_p": 0.5}, temperature=0.1, system="Be brief.")
    raw = sent(Chat(), {"messages": [TURN], "top_p": 0.9}, to)
    assert (raw.body["seed"], raw.body["top_p"], raw.body["temperature"]) == (7, 0.9, 0.1)
    assert raw.body["messages"][0] == {"role": "system", "content": "Be brief."}
    own = sent(Chat(), {"messages": [{"role": "developer", "content": "No."}, TURN]}, to)
    assert [turn["role"] for turn in own.body["messages"]] == ["developer", "user"]
    other = sent(Messages(), {"messages": [TURN], "max_tokens": 5}, to)
    assert ("seed" in other.body, other.body["temperature"]) == (False, 0.1)


def test_anthropic_s_later_version_gets_no_sampling_of_the_profile() -> None:
    """It would be refused for what the caller did not say."""
    to = profile("anthropic", params={"top_p": 0.5}, temperature=0.1, system="Be brief.")
    to = replace(to, model="claude-sonnet-4-5")
    body = {"messages": [TURN], "max_tokens": 5}
    early = sent(Messages(), body, to, **{"anthropic-version": "2023-06-01"}).body
    late = sent(Messages(), body, to, **{"anthropic-version": "2026-10-21"}).body
    assert (early["temperature"], early["system"]) == (0.1, "Be brief.")
    assert {"temperature", "top_p"}.isdisjoint(late)


@pytest.mark.parametrize(
    ("dialect", "to", "field"),
    [
        (Chat(), profile("openai"), "max_completion_tokens"),
        (Chat(), profile("mistral"), "max_tokens"),
        (Responses(), profile("openai", api="responses"), "max_output_tokens"),
        (Responses(), profile("cohere"), "max_tokens"),
    ],
)
def test_the_least_limit_bounds_an_answer(dialect: Dialect, to: Profile, field: str) -> None:
    """Where the caller gives none: that of the profile, of the gateway, of a budget."""
    asked = {"input": "hi"} if isinstance(dialect, Responses) else {"messages": [TURN]}
    assert sent(dialect, asked, to).body.get(field) is None
    assert sent(dialect, asked, replace(to, max_tokens=50), 100).body[field] == 50
    assert sent(dialect, asked, to, 100, 70).body[field] == 70


def test_embeddings_need_a_provider_that_has_them() -> None:
    """Nothing like them can be made of another language."""
    with pytest.raises(InvalidRequest, match="embeddings"):
        sent(Embeddings(), {"input": "hi"}, profile("anthropic"))


def test_a_streamed_answer_is_kept_only_where_it_can_be_told_again() -> None:
    """Text and calls of the caller's own tools; and as the caller's cache-control says."""
    to = profile("groq")

    def mode(control: str = "", **more: Any) -> str:
        body = {"model": "x", "messages": [TURN], **more}
        return Body(Chat().read(body, {}), Chat(), to).cache_mode(control)

    assert mode() == mode(stream=True) == mode(n=2) == mode(stream=True, tools=[]) == "use"
    assert mode("no-cache") == "refresh"
    assert (
        mode("no-store") == mode(stream=True, n=2) == mode(stream=True, logprobs=True) == "bypass"
    )
    assert mode(stream=True, tools=[{"type": "web_search"}]) == "bypass"
