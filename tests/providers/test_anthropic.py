"""Anthropic's wire format."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    InvalidRequest,
)
from llmctl.protocols import Codec
from llmctl.providers.anthropic import MAX_TOKENS, Anthropic, to_anthropic_schema
from llmctl.providers.registry import codec
from llmctl.tokens import Counter
from llmctl.types import JSON, Message, RawRequest, Request, Usage
from tests.providers.recordings import asked

NOW = 1_800_000_000.0
CODEC: Codec = Anthropic(now=lambda: NOW)
PNG = base64.b64encode(b"\x89PNG").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()


def ask(**changes: Any) -> Request:
    """A request to a Claude model."""
    return asked("anthropic", changes.pop("model", "claude-sonnet-5"), **changes)


def sent(**changes: Any) -> dict[str, Any]:
    """The body of such a request."""
    return dict(CODEC.encode(ask(**changes), stream=False).body or {})


def content(*given: JSON) -> Any:
    """What a user's turn of these parts becomes."""
    return sent(messages=(Message("user", given),))["messages"][0]["content"]


def test_an_output_limit_is_always_sent() -> None:
    """The API demands one; a thinking budget has to fit below it."""
    assert sent()["max_tokens"] == MAX_TOKENS
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 10_000}}
    assert sent(options=thinking)["max_tokens"] == MAX_TOKENS + 10_000
    assert sent(options={"max_tokens": 9})["max_tokens"] == 9
    before_thinking = {model: sent(model=model) for model in ("claude-3-haiku", "my-own")}
    assert {body["max_tokens"] for body in before_thinking.values()} == {4096}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_tokens": 7},
        {"options": {"thinking": {"type": "enabled", "budget_tokens": 10_000}}},
        {"raw": RawRequest("/chat/completions", {"messages": [{"role": "user", "content": "u"}]})},
    ],
)
def test_the_worst_case_knows_the_limit_that_is_sent(changes: dict[str, Any]) -> None:
    """What is held for a call without `max_tokens` is what the API is asked for."""
    assert Counter(codec=codec).max_output(ask(**changes)) == sent(**changes)["max_tokens"]


def test_betas_are_a_header() -> None:
    """As in Anthropic's own SDKs, `betas` is a list of names."""
    wire = CODEC.encode(ask(options={"betas": ["one", "two"]}), stream=False)
    assert wire.headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "one,two"}
    assert "betas" not in (wire.body or {})


def test_instructions_in_the_middle() -> None:
    """They stay in place where the model knows such turns, and are `system` at older ones."""
    turns = (Message("developer", "a"), Message("user", "u"), Message("system", "b"))
    new, old = sent(messages=turns), sent(messages=turns, model="claude-haiku-4-5")
    assert (new["system"], new["messages"][1]) == ("a", {"role": "system", "content": "b"})
    assert (old["system"], len(old["messages"])) == ("a\n\nb", 1)
    cached = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    marked = sent(messages=(Message("system", (cached,)), Message("user", "u")))
    assert marked["system"] == [cached]


def test_attachments() -> None:
    """Images, PDF and text files become Anthropic's blocks, by data, address or id."""
    image, file = "image_url", "file"
    assert content(
        {"type": "text", "text": "see"},
        {"type": image, image: {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
        {"type": image, image: {"url": "https://h/i"}},
        {"type": file, file: {"filename": "a.pdf", "file_data": f"data:;base64,{PDF}"}},
        {"type": file, file: {"file_url": "https://h/a.pdf"}},
        {"type": file, file: {"file_data": "data:text/csv,a%2Cb"}},
        {"type": file, file: {"file_id": "file_1"}},
        {"type": "container_upload", "file_id": "file_2"},
    ) == [
        {"type": "text", "text": "see"},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": PNG},
        },
        {"type": "image", "source": {"type": "url", "url": "https://h/i"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        },
        {"type": "document", "source": {"type": "url", "url": "https://h/a.pdf"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "a,b"},
        },
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "container_upload", "file_id": "file_2"},
    ]


def test_messages_that_have_no_counterpart() -> None:
    """Unknown roles and fields of a message are refused by name."""
    for message, named in (
        (Message("function", "x"), "function"),
        (Message("user", "x", {"name": "Ann"}), "name"),
        (Message("assistant", None, {"tool_calls": [{"id": "1"}]}), "tool_calls"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            sent(messages=(message,))


def test_a_schema_is_made_to_fit() -> None:
    """Objects are closed at every depth, and limits that are not enforced become description."""
    inner = {"type": "object", "properties": {"s": {"type": "string", "minLength": 1}}}
    schema = {
        "$schema": "x",
        "type": "array",
        "items": {"oneOf": [inner, {"type": "integer", "minimum": 0, "description": "d"}]},
        "minItems": 2,
        "$defs": {"o": {"type": ["object", "null"], "additionalProperties": True}},
    }
    assert to_anthropic_schema(schema) == {
        "type": "array",
        "items": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"s": {"type": "string", "description": "{minLength: 1}"}},
                    "additionalProperties": False,
                },
                {"type": "integer", "description": "d\n\n{minimum: 0}"},
            ]
        },
        "$defs": {
            "o": {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
        },
        "description": "{minItems: 2}",
    }


def test_an_openai_body_is_translated() -> None:
    """Tools, the choice among them, limits and the user's name get Anthropic's shape."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    raw = {
        "model": "claude-sonnet-5",
        "messages": [{"role": "user", "content": "u"}],
        "max_completion_tokens": 7,
        "stop": "x",
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "user": "me",
    }
    made = sent(raw=RawRequest("/chat/completions", raw))
    assert made == {
        "model": "claude-sonnet-5",
        "messages": [{"role": "user", "content": "u"}],
        "max_tokens": 7,
        "stop_sequences": ["x"],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "me"},
    }
    with pytest.raises(InvalidRequest, match="seed"):
        sent(raw=RawRequest("/chat/completions", {**raw, "seed": 1}))


MESSAGE: JSON = {
    "model": "claude-sonnet-5",
    "max_tokens": 7,
    "temperature": 1.0,
    "messages": [{"role": "user", "content": [{"type": "unheard"}]}],
    "unheard": True,
}


def test_a_body_of_its_own_is_passed_through() -> None:
    """As it is, with the version and the betas of its headers; what the model refuses is the
    API's to say."""
    theirs = {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b"}
    raw = RawRequest("/messages", MESSAGE, headers={**theirs, "x-api-key": "not ours"})
    wire = CODEC.encode(ask(raw=raw), stream=False)
    assert (wire.path, wire.body, wire.headers) == ("/messages", MESSAGE, theirs)
    bare = CODEC.encode(ask(raw=RawRequest("/messages", MESSAGE)), stream=True)
    assert bare.body == {**MESSAGE, "stream": True}
    assert bare.headers == {"anthropic-version": "2023-06-01"}


def test_a_body_of_its_own_is_counted() -> None:
    """By what the counting endpoint takes of it."""
    counted = CODEC.count(ask(raw=RawRequest("/messages", MESSAGE)))
    assert counted is not None
    kept = {name: MESSAGE[name] for name in ("model", "messages")}
    assert (counted.path, counted.body) == ("/messages/count_tokens", kept)


@pytest.mark.parametrize("provider", ["gemini", "cohere"])
def test_others_refuse_its_bodies(provider: str) -> None:
    """The sentence names the path, and the one that is translated."""
    request = asked(provider, "m", raw=RawRequest("/messages", MESSAGE))
    with pytest.raises(InvalidRequest, match=r"/v1/messages.* not translated.*/chat/completions"):
        codec(provider).encode(request, stream=False)


def body(**changes: Any) -> bytes:
    """A complete message."""
    whole: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 3,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 5},
        },
    }
    return orjson.dumps({**whole, **changes})


def test_cache_writes_split_by_their_life() -> None:
    """The parts count where the sum is not given."""
    usage = {"cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}}
    found = CODEC.decode(200, {}, body(usage=usage)).usage
    assert found == Usage(input=5, cache_write=5, cache_write_1h=3)
