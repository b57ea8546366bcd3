"""Screening of prompts: what is masked, what is refused, and what is left as it is."""

from __future__ import annotations

import base64
import random
import re
from typing import Any

import pytest

from llmctl.config.settings import ScreenRule
from llmctl.errors import InvalidRequest
from llmctl.gateway.screen import screened

RULES = (
    ScreenRule("IBAN", re.compile(r"DE[0-9]{8}"), "mask"),
    ScreenRule("project", re.compile(r"(?i)project x"), "refuse"),
    ScreenRule("digits", re.compile(r"[0-9]{6,}"), "mask"),
)
IBAN = "DE12345678"


def bodies(text: str) -> dict[str, dict[str, Any]]:
    """Bodies of every language with the text in one place, by that place."""
    tool = {"type": "tool_use", "id": "t1", "name": "f", "input": {"id": text}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": f'"{text}"'}}
    properties = {"a": {"type": "string", "description": text}}
    chat = "messages"
    return {
        "content": {chat: [{"role": "user", "content": text}]},
        "part": {chat: [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        "participant": {chat: [{"role": "user", "name": text, "content": "hi"}]},
        "call": {chat: [{"role": "assistant", "tool_calls": [call]}]},
        "tool input": {chat: [{"role": "assistant", "content": [tool]}]},
        "tool": {"tools": [{"type": "function", "parameters": {"properties": properties}}]},
        "input": {"input": text},
        "texts": {"input": ["a", text]},
        "item": {"input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}]},
        "instructions": {"instructions": text, "input": "hi"},
        "system": {"system": [{"type": "text", "text": text}], chat: []},
        "prompt": {"prompt": text},
        "user": {"user": text},
        "metadata": {"metadata": {"user_id": text}},
    }


@pytest.mark.parametrize("place", bodies(""))
def test_a_match_is_masked_wherever_a_prompt_stands(place: str) -> None:
    """Each language's places for text; the body that came is not changed."""
    body = bodies(f"pay {IBAN} now")[place]
    new, masked = screened(body, RULES)
    assert new == bodies("pay [IBAN] now")[place]
    assert masked == {"IBAN": 1}
    assert body == bodies(f"pay {IBAN} now")[place]


@pytest.mark.parametrize("place", bodies(""))
def test_a_match_is_refused_wherever_a_prompt_stands(place: str) -> None:
    """The error names the rule and says nothing of the text; nothing was sent."""
    with pytest.raises(InvalidRequest, match="the rule project of this gateway") as caught:
        screened(bodies("about Project X and secrets")[place], RULES)
    assert not caught.value.sent
    assert "secrets" not in str(caught.value)
    assert "Project X" not in str(caught.value)


def test_all_matches_are_masked_and_counted() -> None:
    """Rules go one after the other: what one has masked the next does not see."""
    body = {"messages": [{"content": f"{IBAN} 123456 {IBAN}"}, {"content": "654321"}]}
    new, masked = screened(body, RULES)
    assert [message["content"] for message in new["messages"]] == [
        "[IBAN] [digits] [IBAN]",
        "[digits]",
    ]
    assert masked == {"IBAN": 2, "digits": 2}


def test_a_body_without_a_match_is_the_same_object() -> None:
    """Nothing is copied, and what is copied for a match is only what stands around it."""
    clean = {"role": "user", "content": "hi"}
    body: dict[str, Any] = {"messages": [clean, clean], "tools": [{"name": "f"}]}
    assert screened(body, RULES) == (body, {})
    assert screened(body, RULES)[0] is body
    new, _ = screened({**body, "system": IBAN}, RULES)
    assert new["messages"] is body["messages"]


def test_names_of_the_language_are_left() -> None:
    """The model, roles, kinds and ids: a provider would refuse the call or not find what they
    name."""
    message = {"role": "tool", "tool_call_id": "call-123456789", "content": "ok"}
    block = {"type": "tool_result", "tool_use_id": "toolu_123456789", "content": "ok"}
    body = {
        "model": "fast/20261129",
        "previous_response_id": "resp_123456789",
        "messages": [message, {"role": "user", "content": [block]}],
    }
    assert screened(body, RULES)[0] is body


def test_files_in_base64_are_left() -> None:
    """Their letters mean nothing; text that only begins like one is screened."""
    data = base64.b64encode(random.Random(1).randbytes(20_001)).decode() + "AA123456789A=="
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    body = {"messages": [{"role": "user", "content": [url, image]}]}
    assert screened(body, RULES)[0] is body
    new, _ = screened({"input": f"data:image/png;base64,AAAA then {IBAN}"}, RULES)
    assert new == {"input": "data:image/png;base64,AAAA then [IBAN]"}
