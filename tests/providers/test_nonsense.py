"""Nonsense from a provider is a mapped error, whichever codec reads it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import BadResponse, CallError
from llmctl.protocols import Codec
from llmctl.providers.openai_base import json_schema_format
from llmctl.providers.registry import codec
from tests.providers.recordings import CODECS, any_json

WORDS = any_json(
    "choices message content usage error output data delta model prompt_tokens finish_reason "
    "prompt_tokens_details code type text index refusal x_groq cost metadata raw id object status "
    "detail headers reasons incomplete_details reason response output_text stop_reason "
    "stop_details message_start message_delta content_block_start content_block_delta text_delta "
    "content_block input_tokens cache_creation explanation request_id candidates parts thought "
    "finishReason usageMetadata promptFeedback blockReason safetyRatings blocked category "
    "functionCall models promptTokenCount details @type violations quotaId SAFETY STOP "
    "RESOURCE_EXHAUSTED totalTokens name retryDelay tokens billed_units cached_tokens COMPLETE "
    "ERROR message-end content-delta valid next_page_token thinking response.completed "
    "response.output_text.delta response.failed",
    "type.googleapis.com/google.rpc.QuotaFailure",
    "type.googleapis.com/google.rpc.RetryInfo",
)
EVENTS = ("message", "error", "response.completed", "message_start", "message-end")
every_codec = pytest.mark.parametrize("made", CODECS, ids=lambda made: type(made).__name__)


@every_codec
@given(whole=WORDS, status=st.integers(100, 599), event=st.sampled_from(EVENTS))
def test_no_json_raises_outside_the_error_tree(
    made: Codec, whole: Any, status: int, event: str
) -> None:
    """Any JSON, with any status and in any event, is an answer or a mapped error."""
    data = orjson.dumps(whole)
    for attempt in (
        lambda: made.decode(status, {}, data),
        lambda: made.decode(200, {}, data),
        lambda: made.reader().piece(event, data.decode()),
        lambda: made.decode_models(data),
        lambda: made.decode_count(data),
        lambda: made.decode_probe(data),
    ):
        with suppress(CallError):
            attempt()
    assert status == 200 or made.failure(status, {}, data).message


@every_codec
@given(data=st.binary(max_size=80), text=st.text(max_size=80))
def test_no_bytes_raise_outside_the_error_tree(made: Codec, data: bytes, text: str) -> None:
    """Bytes that are no JSON are mapped errors too."""
    with suppress(CallError):
        made.decode(200, {}, data)
    with suppress(CallError):
        made.reader().piece("message", text)


@every_codec
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}"])
def test_what_is_no_answer(made: Codec, body: bytes) -> None:
    """What is no answer of any provider is `bad_response` in spite of status 200."""
    with pytest.raises(BadResponse):
        made.decode(200, {}, body)


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
