"""The wire format of chat completions."""

from __future__ import annotations

import gzip
from pathlib import Path
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
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.providers.openai_chat import OpenAIChat
from llmctl.providers.sse import Reader
from llmctl.types import Message, RawCall, Usage
from tests.support import TARGET, request

CODEC = OpenAIChat()
RECORDED = Path(__file__).parents[3] / "shared" / "recorded"


def body(**changes: Any) -> bytes:
    """A complete chat completion."""
    whole: dict[str, Any] = {
        "id": "x",
        "model": "gpt-5-mini-2026",
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }
    return orjson.dumps({**whole, **changes})


def test_a_plain_request() -> None:
    """Messages, parameters and pass-through options stand where the API wants them."""
    asked = request(
        messages=(Message("system", "s"), Message("user", "u")),
        max_tokens=5,
        temperature=0.5,
        options={"top_p": 0.9},
    )
    wire = CODEC.encode(asked, stream=False)
    assert wire.path == "/chat/completions"
    assert wire.body == {
        "model": "gpt-5-mini",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_the_output_limit_has_the_name_the_server_knows() -> None:
    """OpenAI's models get `max_completion_tokens`, other servers' `max_tokens`."""
    own = request(max_tokens=5)
    other = request(
        max_tokens=5, target=TARGET.__class__("t", "openai", "openai", "http://h/v1", "m")
    )
    assert "max_completion_tokens" in CODEC.encode(own, stream=False).body
    assert "max_tokens" in CODEC.encode(other, stream=False).body


def test_a_streamed_request_asks_for_usage() -> None:
    """Without `include_usage` a stream would not say what it cost."""
    wire = CODEC.encode(request(), stream=True)
    assert wire.body["stream"] is True
    assert wire.body["stream_options"] == {"include_usage": True}


def test_a_raw_body_goes_out_as_it_is() -> None:
    """A passed-through body is the very same object, on its own path."""
    raw = RawCall("/embeddings", {"input": "x", "model": "m"})
    wire = CODEC.encode(request(raw=raw), stream=False)
    assert (wire.path, wire.body) == ("/embeddings", raw.body)


def test_an_answer() -> None:
    """Text, finish, model and all five token counts are read."""
    reply = CODEC.decode(200, {}, body())
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "gpt-5-mini-2026")
    assert reply.usage == Usage(input=10, output=7, cached_input=4, reasoning=5)


def test_refusals_are_no_answers() -> None:
    """A refusal, or a filtered answer without text, is `content_filter`, not an empty success."""
    for message, finish in (
        ({"content": None, "refusal": "no"}, "stop"),
        ({"content": ""}, "content_filter"),
    ):
        with pytest.raises(ContentFiltered):
            CODEC.decode(200, {}, body(choices=[{"message": message, "finish_reason": finish}]))


@pytest.mark.parametrize(
    ("status", "error", "kind", "retryable"),
    [
        (400, {"code": "context_length_exceeded"}, ContextTooLong, False),
        (400, {"type": "exceed_context_size_error", "code": 400}, ContextTooLong, False),
        (400, {"type": "invalid_request_error"}, InvalidRequest, False),
        (401, {"code": "invalid_api_key"}, AuthFailed, False),
        (402, {}, QuotaExhausted, False),
        (404, {"code": "model_not_found"}, NotFound, False),
        (429, {"code": "rate_limit_exceeded"}, RateLimited, True),
        (429, {"code": "insufficient_quota"}, QuotaExhausted, False),
        (500, {}, ServerFailed, True),
        (503, {}, Overloaded, True),
        (529, {}, Overloaded, True),
    ],
)
def test_errors_by_body_and_status(
    status: int, error: dict[str, Any], kind: type[CallError], retryable: bool
) -> None:
    """What is terminal and what may be tried again comes from the body as well as the status."""
    with pytest.raises(kind) as caught:
        CODEC.decode(
            status, {"x-request-id": "r1"}, orjson.dumps({"error": {"message": "m", **error}})
        )
    assert caught.value.retryable is retryable
    assert (caught.value.http_status, caught.value.provider_request_id) == (status, "r1")


def test_the_providers_word_on_retrying_wins() -> None:
    """`x-should-retry: false` makes a 500 terminal."""
    with pytest.raises(ServerFailed) as caught:
        CODEC.decode(500, {"x-should-retry": "false"}, b"{}")
    assert caught.value.retryable is False


def test_an_error_inside_a_200_is_an_error() -> None:
    """Some servers answer 200 with an error object."""
    with pytest.raises(RateLimited):
        CODEC.decode(200, {}, orjson.dumps({"error": {"code": 429, "message": "slow"}}))


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":3}}]}'],
)
def test_what_is_no_answer(text: bytes) -> None:
    """Anything else with status 200 is `bad_response`."""
    with pytest.raises(BadResponse):
        CODEC.decode(200, {}, text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "message",
                        "content",
                        "usage",
                        "error",
                        "output",
                        "data",
                        "delta",
                        "model",
                        "prompt_tokens",
                        "prompt_tokens_details",
                        "finish_reason",
                        "code",
                        "type",
                        "text",
                    ]
                ),
                inner,
            )
        ),
        max_leaves=30,
    ),
    st.integers(100, 599),
)
def test_no_body_raises_outside_the_error_tree(whole: Any, status: int) -> None:
    """Any JSON, with any status, is an answer or a mapped error."""
    data = orjson.dumps(whole)
    for attempt in (
        lambda: CODEC.decode(status, {}, data),
        lambda: CODEC.piece("message", data.decode()),
    ):
        try:
            attempt()
        except CallError as error:
            assert error.message


def recordings() -> list[Any]:
    """Recorded traffic of servers that speak chat completions."""
    found = []
    for name in ("openai", "groq", "openrouter", "mistral"):
        path = RECORDED / f"{name}.jsonl.gz"
        if path.exists():
            with gzip.open(path) as lines:
                found += [orjson.loads(line) for line in lines]
    return [r for r in found if r["path"].endswith("/chat/completions")]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded traffic is not beside the project")
def test_recorded_traffic_decodes() -> None:
    """Every recording gives its own text and usage, or a mapped error; nothing else."""
    seen = 0
    for recorded in recordings():
        data = recorded["body"].encode()
        try:
            if recorded["kind"] == "sse" and recorded["status"] == 200:
                pieces = [CODEC.piece(e.name, e.data) for e in Reader().feed(data)]
                assert pieces[-1].done
                assert any(p.finish for p in pieces)
            else:
                reply = CODEC.decode(recorded["status"], recorded["headers"], data)
                whole = orjson.loads(data)
                message = whole["choices"][0]["message"]
                if isinstance(message.get("content") or "", str):
                    assert reply.text == (message.get("content") or "")
                assert reply.usage is not None
                assert reply.usage.input == whole["usage"]["prompt_tokens"]
        except CallError as error:
            assert recorded["status"] != 200 or "error" in recorded["body"], error
        seen += 1
    assert seen > 0
