"""Cohere's wire format: answers, streams and errors."""

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
from llmctl.providers.cohere import Cohere
from llmctl.types import Message, Usage
from tests.providers.recordings import (
    any_json,
    asked,
    cuts,
    needs_recordings,
    recordings,
    streamed,
)

NOW = 1_800_000_000.0
CODEC: Codec = Cohere(now=lambda: NOW)
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def body(**changes: Any) -> bytes:
    """A complete answer."""
    whole: dict[str, Any] = {
        "id": "x",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
        "usage": {
            "billed_units": {"input_tokens": 1.0, "output_tokens": 2.0},
            "tokens": {"input_tokens": 10.0, "output_tokens": 7.0},
            "cached_tokens": 4.0,
        },
    }
    return orjson.dumps({**whole, **changes})


def test_an_answer() -> None:
    """Text and finish are read, and all tokens, not only the billed ones."""
    reply = CODEC.decode(200, {}, body())
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "")
    assert reply.usage == Usage(input=10, output=7, cached_input=4)
    billed = {"billed_units": {"input_tokens": 1.0, "output_tokens": 2.0}}
    assert CODEC.decode(200, {}, body(usage=billed)).usage == Usage(input=1, output=2)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("NEW_REASON", "other"),
    ],
)
def test_reasons_to_finish(reason: str, finish: str) -> None:
    """Each has one of the program's five meanings."""
    assert CODEC.decode(200, {}, body(finish_reason=reason)).finish == finish


def test_thinking_and_plans_are_not_text() -> None:
    """Only text blocks are text; a call of a tool has none."""
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert CODEC.decode(200, {}, body(message={"content": blocks})).text == "a"
    planned = {"tool_calls": [CALL], "tool_plan": "I will"}
    assert CODEC.decode(200, {}, body(message=planned, finish_reason="TOOL_CALL")).text == ""


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
def test_an_answer_that_was_given_up_is_an_error(reason: str) -> None:
    """It may be tried again, and was perhaps billed; in a stream as well."""
    end = {"type": "message-end", "delta": {"finish_reason": reason, "error": "oops"}}
    with pytest.raises(ServerFailed, match=reason) as caught:
        CODEC.decode(200, {}, body(finish_reason=reason))
    assert (caught.value.retryable, caught.value.ambiguous) == (True, True)
    assert caught.value.usage == Usage(input=10, output=7, cached_input=4)
    with pytest.raises(ServerFailed, match="oops"):
        CODEC.reader().piece("message-end", orjson.dumps(end).decode())


@pytest.mark.parametrize(
    ("status", "message", "expected", "retryable"),
    [
        (400, "invalid request: message must not be empty", InvalidRequest, False),
        (
            400,
            "too many tokens: total number of tokens in the prompt cannot exceed 4081",
            ContextTooLong,
            False,
        ),
        (
            400,
            "too many tokens: max tokens must be less than or equal to 4096",
            InvalidRequest,
            False,
        ),
        (401, "invalid api token", AuthFailed, False),
        (402, "please add a payment method", QuotaExhausted, False),
        (403, "no", PermissionRefused, False),
        (404, "model 'x' not found", NotFound, False),
        (422, "bad value", InvalidRequest, False),
        (429, "limited to 40 API calls / minute", RateLimited, True),
        (429, "limited to 1000 API calls / month", QuotaExhausted, False),
        (498, "deny-listed token", ContentFiltered, False),
        (499, "request cancelled", ServerFailed, False),
        (500, "internal server error", ServerFailed, True),
        (503, "busy", Overloaded, True),
        (504, "late", ServerFailed, True),
    ],
)
def test_errors_by_body_and_status(
    status: int, message: str, expected: type[CallError], retryable: object
) -> None:
    """The message is shown, and says with the status what is terminal."""
    said = orjson.dumps({"id": "x", "message": message})
    with pytest.raises(expected) as caught:
        CODEC.decode(status, {"x-request-id": "r1"}, said)
    assert type(caught.value) is expected
    assert caught.value.message == f"the provider answered {status}: {message}"
    assert (caught.value.retryable, caught.value.http_status) == (retryable, status)
    assert caught.value.provider_request_id == "r1"


def test_a_wait_is_read_from_either_header() -> None:
    """`retry-after` wins over `x-ratelimit-reset`, which is a time; both are bounded."""
    reset = {"x-ratelimit-reset": str(int(NOW) + 30)}
    assert CODEC.failure(429, reset, b"{}").retry_after == 30.0
    assert CODEC.failure(429, {**reset, "retry-after": "7"}, b"{}").retry_after == 7.0
    far = {"x-ratelimit-reset": "9999999999"}
    assert CODEC.failure(429, far, b"{}").retry_after == 120.0
    past = {"x-ratelimit-reset": "1"}
    assert CODEC.failure(429, past, b"{}").retry_after is None
    assert CODEC.limits(reset).reset_requests == 30.0
    assert CODEC.limits({}).reset_requests is None


STREAM: list[dict[str, Any]] = [
    {"type": "message-start", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-start", "delta": {"message": {"content": {"type": "thinking"}}}},
    {"type": "content-delta", "delta": {"message": {"content": {"thinking": "hm"}}}},
    {"type": "content-end"},
    {"type": "content-start", "delta": {"message": {"content": {"type": "text", "text": ""}}}},
    {"type": "content-delta", "delta": {"message": {"content": {"text": "h\u2028"}}}},
    {"type": "citation-start", "delta": {"message": {"citations": {"text": "x"}}}},
    {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will"}}},
    {"type": "content-delta", "delta": {"message": {"content": {"text": "i"}}}},
    {"type": "brand-new"},
    {
        "type": "message-end",
        "delta": {
            "finish_reason": "MAX_TOKENS",
            "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}},
        },
    },
]


def test_a_stream() -> None:
    """However it is cut, text comes as it is said, usage at the end, and without `message-end`
    it is incomplete."""
    said = [b"event: x\ndata: " + orjson.dumps(event) + b"\n\n" for event in STREAM]
    whole = b"".join(said)
    found = streamed(CODEC, [whole, b"data: [DONE]\n\n"])
    assert (found.text, found.finish, found.done) == ("h\u2028i", "length", True)
    assert found.usage == Usage(input=3, output=2)
    assert not streamed(CODEC, said[:-1]).done
    for seed in range(50):
        assert streamed(CODEC, cuts(whole, seed)) == found


def test_an_error_inside_a_stream() -> None:
    """A bare message in place of an event is an error."""
    with pytest.raises(ServerFailed, match="oops"):
        CODEC.reader().piece("message", '{"message":"oops"}')


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"message":{"content":[]}}',
        b'{"message":{"content":[{"type":"text","text":3}]},"finish_reason":"COMPLETE"}',
    ],
)
def test_what_is_no_answer(text: bytes) -> None:
    """Anything else with status 200 is `bad_response`."""
    with pytest.raises(BadResponse):
        CODEC.decode(200, {}, text)


ANY = any_json(
    "message content type text usage tokens billed_units input_tokens cached_tokens "
    "finish_reason delta error COMPLETE ERROR message-end content-delta models name "
    "tokens valid next_page_token thinking",
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


@needs_recordings
def test_recorded_answers_decode() -> None:
    """Text, finish and usage are what the recorded body says."""
    finishes = {"COMPLETE": "stop", "TOOL_CALL": "tool_calls", "MAX_TOKENS": "length"}
    seen = 0
    for recorded in recordings("cohere", "/chat"):
        data = recorded["body"].encode()
        whole = orjson.loads(data)
        reply = CODEC.decode(recorded["status"], recorded["headers"], data)
        blocks = whole["message"].get("content", [])
        assert reply.text == "".join(b["text"] for b in blocks if b["type"] == "text")
        assert reply.finish == finishes[whole["finish_reason"]]
        assert reply.usage is not None
        tokens = whole["usage"]["tokens"]
        assert (reply.usage.input, reply.usage.output) == (
            tokens["input_tokens"],
            tokens["output_tokens"],
        )
        assert reply.usage.cached_input == whole["usage"].get("cached_tokens", 0)
        seen += 1
    assert seen > 0


@needs_recordings
def test_recorded_requests_are_encoded_alike() -> None:
    """The same conversation makes the recorded body."""
    for recorded in recordings("cohere", "/chat"):
        given = recorded["request"]
        messages = []
        for one in given["messages"]:
            held = one.get("content")
            extra = {k: v for k, v in one.items() if k not in ("role", "content")}
            content = tuple(held) if isinstance(held, list) else held
            messages.append(Message(one["role"], content, extra))
        options = {k: v for k, v in given.items() if k not in ("messages", "model", "stream")}
        asking = asked("cohere", given["model"], messages=tuple(messages), options=options)
        wire = CODEC.encode(asking, stream=given["stream"])
        assert {"stream": False, **(wire.body or {})} == given
