"""Cohere's wire format."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    AuthFailed,
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
from llmctl.types import JSON, Message, ModelInfo, RawRequest, Request, Usage
from tests.providers.recordings import asked, needs_recordings, recordings, streamed

NOW = 1_800_000_000.0
CODEC: Codec = Cohere(now=lambda: NOW)
PNG = base64.b64encode(b"\x89PNG").decode()
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def ask(**changes: Any) -> Request:
    """A request to a Command model."""
    return asked("cohere", "command-a-03-2025", **changes)


def sent(**changes: Any) -> dict[str, Any]:
    """The body of such a request."""
    return dict(CODEC.encode(ask(**changes), stream=False).body or {})


def content(*given: JSON) -> Any:
    """What a user's turn of these parts becomes."""
    return sent(messages=(Message("user", given),))["messages"][0]["content"]


def test_a_plain_request() -> None:
    """Messages, parameters and options stand where the API wants them."""
    asking = ask(
        messages=(Message("developer", "s"), Message("user", "u"), Message("assistant", "a")),
        max_tokens=5,
        temperature=0.5,
        options={"p": 0.9},
    )
    wire = CODEC.encode(asking, stream=True)
    assert (wire.path, wire.method) == ("/chat", "POST")
    assert wire.body == {
        "model": "command-a-03-2025",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
        ],
        "max_tokens": 5,
        "temperature": 0.5,
        "p": 0.9,
        "stream": True,
    }
    assert CODEC.auth("k") == {"authorization": "Bearer k"}


def test_images() -> None:
    """They go out as OpenAI's, by data or address; Cohere's own blocks as they are."""
    image = "image_url"
    url = f"data:image/png;base64,{PNG}"
    thinking = {"type": "thinking", "thinking": "hm"}
    assert content(
        {"type": "text", "text": "see"},
        {"type": image, image: {"url": url, "detail": "low"}},
        {"type": image, image: "https://h/i"},
        {"type": "file", "file": {"file_data": url}},
        thinking,
    ) == [
        {"type": "text", "text": "see"},
        {"type": image, image: {"url": url, "detail": "low"}},
        {"type": image, image: {"url": "https://h/i"}},
        {"type": image, image: {"url": url}},
        thinking,
    ]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}"}}, "pdf"),
        ({"type": "file", "file": {"file_id": "f"}}, "files"),
        ({"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}, "audio/wav"),
        ({"type": "video"}, "video"),
    ],
)
def test_what_is_not_taken(part: JSON, named: str) -> None:
    """A part that Cohere does not take is refused by name, and nothing is sent."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        content(part)
    assert (caught.value.sent, caught.value.exit_code) == (False, 2)


def test_tool_calls_and_results() -> None:
    """They keep OpenAI's shape; a call without words has no content."""
    made = sent(
        messages=(
            Message("user", "u"),
            Message("assistant", None, {"tool_calls": [CALL]}),
            Message("tool", "r", {"tool_call_id": "c1", "name": "f"}),
        )
    )["messages"]
    assert made[1] == {"role": "assistant", "tool_calls": [CALL]}
    assert made[2] == {"role": "tool", "tool_call_id": "c1", "content": "r"}


def test_a_schema_goes_out_as_structured_output() -> None:
    """`response_format` holds the schema."""
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_object", "json_schema": schema}
    assert sent(schema=schema)["response_format"] == form


def test_an_openai_body_is_translated() -> None:
    """Tools and parameters get Cohere's names; what has none is refused."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    raw = {
        "model": "command-a-03-2025",
        "messages": [{"role": "user", "content": "u"}],
        "top_p": 0.5,
        "tools": [tool],
        "tool_choice": "required",
    }
    assert sent(raw=RawRequest("/chat/completions", raw)) == {
        "model": "command-a-03-2025",
        "messages": [{"role": "user", "content": "u"}],
        "p": 0.5,
        "tools": [tool],
        "tool_choice": "REQUIRED",
    }
    auto = RawRequest("/chat/completions", {**raw, "tool_choice": "auto"})
    assert "tool_choice" not in sent(raw=auto)
    named = {"type": "function", "function": {"name": "f"}}
    for changes, why in (({"tool_choice": named}, "tool_choice"), ({"tools": [{}]}, "tools")):
        with pytest.raises(InvalidRequest, match=why):
            sent(raw=RawRequest("/chat/completions", {**raw, **changes}))


def test_the_key_check() -> None:
    """Cohere has a call of its own for it, which succeeds for bad keys too."""
    probe = CODEC.probe()
    assert (probe.method, probe.path, probe.body) == ("POST", "../v1/check-api-key", None)
    CODEC.decode_probe(b'{"valid":true}')
    with pytest.raises(AuthFailed):
        CODEC.decode_probe(b'{"valid":false}')


def test_the_list_of_models() -> None:
    """It is read page by page."""
    page = CODEC.models("t2")
    assert (page.method, page.path) == ("GET", "../v1/models?page_size=1000&page_token=t2")
    listed = orjson.dumps({"models": [{"name": "c", "context_length": 5.0}]})
    assert CODEC.decode_models(listed) == ([ModelInfo("c", context=5)], None)
    more = orjson.dumps({"models": [], "next_page_token": "t3"})
    assert CODEC.decode_models(more) == ([], "t3")


def test_the_providers_own_count() -> None:
    """All texts are counted in one call, as long as one call takes them."""
    wire = CODEC.count(ask(messages=(Message("system", "s"), Message("user", "u"))))
    assert wire is not None
    assert wire.path == "../v1/tokenize"
    assert wire.body == {"text": "s\nu", "model": "command-a-03-2025"}
    assert CODEC.decode_count(b'{"tokens":[1,2,3]}') == 3
    with pytest.raises(InvalidRequest, match="65536"):
        CODEC.count(ask(messages=(Message("user", "x" * 70_000),)))


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


ERRORS: list[tuple[int, str, type[CallError]]] = [
    (400, "invalid request: message must not be empty", InvalidRequest),
    (400, "too many tokens: total number of tokens cannot exceed 4081", ContextTooLong),
    (400, "too many tokens: max tokens must be at most 4096", InvalidRequest),
    (401, "invalid api token", AuthFailed),
    (402, "please add a payment method", QuotaExhausted),
    (403, "no", PermissionRefused),
    (404, "model 'x' not found", NotFound),
    (422, "bad value", InvalidRequest),
    (429, "limited to 40 API calls / minute", RateLimited),
    (429, "limited to 1000 API calls / month", QuotaExhausted),
    (498, "deny-listed token", ContentFiltered),
    (499, "request cancelled", ServerFailed),
    (500, "internal server error", ServerFailed),
    (503, "busy", Overloaded),
    (504, "late", ServerFailed),
]


@pytest.mark.parametrize(("status", "message", "expected"), ERRORS)
def test_errors_by_body_and_status(status: int, message: str, expected: type[CallError]) -> None:
    """The message is shown, and says with the status what is terminal; 499 is, too."""
    data = orjson.dumps({"id": "x", "message": message})
    found = CODEC.failure(status, {"x-request-id": "r1"}, data)
    assert (type(found), found.retryable) == (expected, expected.retryable and status != 499)
    assert found.message == f"the provider answered {status}: {message}"
    assert (found.http_status, found.provider_request_id) == (status, "r1")


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


def test_thoughts_citations_and_plans_are_not_text() -> None:
    """Of a stream only text is text; `[DONE]` after its end says nothing."""
    said: list[dict[str, Any]] = [
        {"type": "content-start", "delta": {"message": {"content": {"type": "thinking"}}}},
        {"type": "content-delta", "delta": {"message": {"content": {"thinking": "hm"}}}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "h\u2028i"}}}},
        {"type": "citation-start", "delta": {"message": {"citations": {"text": "x"}}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will"}}},
        {"type": "message-end", "delta": {"finish_reason": "MAX_TOKENS"}},
    ]
    whole = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in said)
    found = streamed(CODEC, [whole, b"data: [DONE]\n\n"])
    assert (found.text, found.finish, found.done) == ("h\u2028i", "length", True)


def test_an_error_inside_a_stream() -> None:
    """A bare message in place of an event is an error."""
    with pytest.raises(ServerFailed, match="oops"):
        CODEC.reader().piece("message", '{"message":"oops"}')


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
