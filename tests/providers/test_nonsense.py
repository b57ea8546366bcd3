"""Nonsense from a provider is a mapped error, whichever codec reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from llmctl.errors import BadResponse
from llmctl.providers.openai_chat import json_schema_format
from llmctl.providers.registry import codec
from tests.providers.recordings import any_json


@pytest.mark.parametrize(
    ("adapter", "body"),
    [
        ("openai", b'{"choices":[]}'),
        ("openai", b'{"choices":[{"message":{"content":3}}]}'),
        ("openai", b'{"choices":{"0":1}}'),
        ("openai", b'{"output":3}'),
        ("openai", b'{"output":[{"type":"message","content":[3]}]}'),
        ("anthropic", b'{"content":[{"type":"text"}]}'),
        ("anthropic", b'{"content":"x"}'),
        ("gemini", b'{"candidates":[]}'),
        ("gemini", b'{"candidates":[{}]}'),
        ("gemini", b'{"candidates":[{"content":{"parts":[{"text":3}]},"finishReason":"STOP"}]}'),
        ("cohere", b'{"message":{"content":[]}}'),
        ("cohere", b'{"message":{"content":[{"type":"text","text":3}]},"finish_reason":"x"}'),
    ],
)
def test_what_is_built_wrongly(adapter: str, body: bytes) -> None:
    """So is an answer that lacks a part of it, or has something else in its place."""
    with pytest.raises(BadResponse):
        codec(adapter).decode(200, {}, body)


@given(any_json("type properties required additionalProperties items anyOf object $defs"))
def test_any_schema(found: Any) -> None:
    """Whatever a schema holds, it is strict or not."""
    if isinstance(found, dict):
        assert isinstance(json_schema_format(found)["strict"], bool)
