"""A body that is passed through, where a fallback speaks another language."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import InvalidRequest
from llmctl.providers.registry import PRESETS, codec
from llmctl.request import Question, compose, require_translated, retarget
from llmctl.types import RawRequest, Request, Streaming

CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def profile(name: str) -> Profile:
    """A profile of the preset."""
    preset = PRESETS[name]
    return Profile(name, name, preset.adapter, preset.base_url, preset.model)


def message(chat: Any = None, streamed: Streaming | None = None) -> Request:
    """A request in Anthropic's language."""
    body = {"model": "m", "max_tokens": 5, "messages": CHAT["messages"]}
    raw = RawRequest("/messages", body, {"anthropic-version": "1"}, streamed, chat)
    return compose(Question((), raw=raw), profile("anthropic"), id="1")


def test_a_fallback_is_asked_in_its_own_language() -> None:
    """OpenAI gets the question as a chat completion, with the limit as its model spells it; what
    was to be relayed as events is streamed as text."""
    asked = retarget(message(CHAT, "events"), profile("openai"), "call")
    assert asked.raw is not None
    assert (asked.raw.path, asked.raw.streamed, dict(asked.raw.headers)) == (
        "/chat/completions",
        "text",
        {},
    )
    assert asked.raw.body["max_completion_tokens"] == 5
    assert "max_tokens" not in asked.raw.body
    require_translated(asked)


def test_what_cannot_be_said_in_another_language_is_not_sent() -> None:
    """Such a fallback cannot be asked; one that speaks the language gets the body as it is."""
    asked = retarget(message(), profile("openai"), "call")
    with pytest.raises(InvalidRequest, match="cannot be translated for openai"):
        require_translated(asked)
    same = retarget(message(), replace(profile("anthropic"), name="other"), "call")
    require_translated(same)
    assert same.raw is not None
    assert (same.raw.path, dict(same.raw.headers)) == ("/messages", {"anthropic-version": "1"})


def test_headers_that_change_the_answer_are_part_of_its_identity() -> None:
    """Two betas are two questions."""
    one = message()
    assert one.raw is not None
    other = replace(one.raw, headers={"anthropic-version": "1", "anthropic-beta": "b"})
    asked = compose(Question((), raw=other), profile("anthropic"), id="1")
    assert asked.fingerprint != one.fingerprint


def test_mistral_gets_the_limit_by_the_name_it_knows() -> None:
    """`max_completion_tokens`, which newer clients send, would be refused there."""
    body = {**CHAT, "max_completion_tokens": 7}
    del body["max_tokens"]
    asked = compose(
        Question((), raw=RawRequest("/chat/completions", body)), profile("mistral"), id="1"
    )
    wire = codec("mistral").encode(asked, stream=False)
    assert wire.body is not None
    assert (wire.body.get("max_tokens"), "max_completion_tokens" in wire.body) == (7, False)
