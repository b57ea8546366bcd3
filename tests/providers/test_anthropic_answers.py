"""Anthropic's wire format: answers, streams and errors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import Codec
from llmctl.providers.anthropic import Anthropic
from llmctl.types import Usage
from tests.providers.recordings import (
    any_json,
    streamed,
)

NOW = 1_800_000_000.0
CODEC: Codec = Anthropic(now=lambda: NOW)


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


def test_an_answer() -> None:
    """Text, finish and model are read; the cache counts as input, thinking as output."""
    reply = CODEC.decode(200, {}, body())
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "claude-sonnet-5")
    assert reply.usage == Usage(input=17, output=7, cached_input=4, cache_write=3, reasoning=5)


def test_cache_writes_split_by_their_life() -> None:
    """The parts count where the sum is not given."""
    usage = {"cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}}
    found = CODEC.decode(200, {}, body(usage=usage)).usage
    assert found == Usage(input=5, cache_write=5, cache_write_1h=3)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "other"),
        ("refusal", "content_filter"),
        (None, "other"),
    ],
)
def test_reasons_to_finish(reason: str | None, finish: str) -> None:
    """Each has one of the program's five meanings."""
    assert CODEC.decode(200, {}, body(stop_reason=reason)).finish == finish


def test_thinking_and_tools_are_not_text() -> None:
    """Only text blocks are text, and they are joined as they are."""
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        {"type": "text", "text": "b"},
    ]
    assert CODEC.decode(200, {}, body(content=blocks)).text == "ab"


def test_a_refusal_is_no_answer() -> None:
    """It says why, and what it was billed; a stream that refuses likewise."""
    details = {"type": "refusal", "category": "bio", "explanation": "because"}
    whole = body(content=[], stop_reason="refusal", stop_details=details)
    with pytest.raises(ContentFiltered, match="because") as caught:
        CODEC.decode(200, {}, whole)
    assert caught.value.usage == CODEC.decode(200, {}, body()).usage
    reader = CODEC.reader()
    delta = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": details}}
    with pytest.raises(ContentFiltered, match="because"):
        reader.piece("message_delta", orjson.dumps(delta).decode())


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected", "retryable"),
    [
        (400, "invalid_request_error", "bad field", InvalidRequest, False),
        (400, "invalid_request_error", "prompt is too long: 9 > 8", ContextTooLong, False),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 9 + 9 > 10",
            ContextTooLong,
            False,
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
            QuotaExhausted,
            False,
        ),
        (401, "authentication_error", "invalid x-api-key", AuthFailed, False),
        (402, "billing_error", "pay", QuotaExhausted, False),
        (403, "permission_error", "no", PermissionRefused, False),
        (404, "not_found_error", "model: x", NotFound, False),
        (413, "request_too_large", "over 32 MB", InvalidRequest, False),
        (429, "rate_limit_error", "slow", RateLimited, True),
        (500, "api_error", "oops", ServerFailed, True),
        (504, "timeout_error", "late", ServerFailed, True),
        (529, "overloaded_error", "busy", Overloaded, True),
        (529, "", "", Overloaded, True),
    ],
)
def test_errors_by_body_and_status(
    status: int, kind: str, message: str, expected: type[CallError], retryable: object
) -> None:
    """Type, message and status say what is terminal; the body names the request."""
    said = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    with pytest.raises(expected) as caught:
        CODEC.decode(status, {"retry-after": "7"}, orjson.dumps(said))
    error = caught.value
    assert type(error) is expected
    assert (error.retryable, error.http_status, error.retry_after) == (retryable, status, 7.0)
    assert error.provider_request_id == "req_1"
    assert message in error.message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", Overloaded),
        ("api_error", ServerFailed),
        ("rate_limit_error", RateLimited),
        ("billing_error", QuotaExhausted),
        ("invalid_request_error", InvalidRequest),
        ("something_new", ServerFailed),
    ],
)
def test_an_error_inside_a_stream(kind: str, expected: type[CallError]) -> None:
    """After a status of 200 only `error.type` tells what went wrong."""
    said = {"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "req_1"}
    with pytest.raises(expected, match="m") as caught:
        CODEC.reader().piece("error", orjson.dumps(said).decode())
    assert caught.value.provider_request_id == "req_1"
    with pytest.raises(expected):
        CODEC.decode(200, {}, orjson.dumps(said))


def test_a_stream() -> None:
    """Text comes as it is said, usage is merged, `ping` and the unknown are passed over, and
    without `message_stop` the stream is incomplete."""
    said: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {"model": "m", "usage": {"input_tokens": 5, "cache_read_input_tokens": 2}},
        },
        {"type": "ping"},
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop"},
        {"type": "brand_new"},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens"},
            "usage": {"output_tokens": 9, "input_tokens": None},
        },
    ]
    whole = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in said)
    found = streamed(CODEC, [whole])
    assert (found.text, found.finish, found.model, found.done) == ("hi", "length", "m", False)
    assert found.usage == Usage(input=7, output=9, cached_input=2)
    assert streamed(CODEC, [whole, b'data: {"type":"message_stop"}\n\n']).done


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"{}", b'{"content":[{"type":"text"}]}', b'{"content":"x"}']
)
def test_what_is_no_answer(text: bytes) -> None:
    """Anything else with status 200 is `bad_response`."""
    with pytest.raises(BadResponse):
        CODEC.decode(200, {}, text)


ANY = any_json(
    "content type text usage error message delta stop_reason stop_details model data "
    "message_start message_delta content_block_start content_block_delta text_delta "
    "content_block input_tokens cache_creation refusal explanation request_id",
)


@given(ANY, st.integers(100, 599))
def test_no_body_raises_outside_the_error_tree(whole: Any, status: int) -> None:
    """Any JSON, with any status, is an answer or a mapped error."""
    data = orjson.dumps(whole)
    for attempt in (
        lambda: CODEC.decode(status, {}, data),
        lambda: CODEC.decode(200, {}, data),
        lambda: CODEC.reader().piece("message", data.decode()),
        lambda: CODEC.decode_models(data),
        lambda: CODEC.decode_count(data),
        lambda: CODEC.decode_probe(data),
    ):
        with suppress(CallError):
            attempt()
