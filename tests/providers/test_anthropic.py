"""Anthropic's wire format."""

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
from llmctl.providers.anthropic import Anthropic, to_anthropic_schema
from llmctl.tokens import ANTHROPIC_MAX_TOKENS, max_output
from llmctl.types import JSON, Message, ModelInfo, RawRequest, Request, Usage
from tests.providers.recordings import asked, streamed

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


def test_a_plain_request() -> None:
    """Instructions stand apart, parameters and options where the API wants them."""
    asking = ask(
        messages=(Message("system", "s"), Message("user", "u"), Message("assistant", "a")),
        max_tokens=5,
        temperature=0.5,
        options={"top_k": 3, "betas": ["one", "two"]},
    )
    wire = CODEC.encode(asking, stream=True)
    assert (wire.path, wire.method) == ("/messages", "POST")
    assert wire.headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "one,two"}
    assert wire.body == {
        "model": "claude-sonnet-5",
        "system": "s",
        "messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 3,
        "stream": True,
    }
    assert CODEC.auth("k") == {"x-api-key": "k"}


def test_an_output_limit_is_always_sent() -> None:
    """The API demands one; a thinking budget has to fit below it."""
    assert sent()["max_tokens"] == ANTHROPIC_MAX_TOKENS
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 10_000}}
    assert sent(options=thinking)["max_tokens"] == ANTHROPIC_MAX_TOKENS + 10_000
    assert sent(options={"max_tokens": 9})["max_tokens"] == 9


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
    assert max_output(ask(**changes)) == sent(**changes)["max_tokens"]


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


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio/wav"),
        ({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}, "image/tiff"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}, "image_url"),
        ({"type": "image_url"}, "image_url"),
        ({"type": "text", "text": 3}, "text"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, "text/plain"),
        ({"type": "video"}, "video"),
    ],
)
def test_what_is_not_taken(part: JSON, named: str) -> None:
    """A part that Claude does not take is refused by name, and nothing is sent."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        content(part)
    assert (caught.value.sent, caught.value.exit_code) == (False, 2)


def test_messages_that_have_no_counterpart() -> None:
    """Unknown roles and fields of a message are refused by name."""
    for message, named in (
        (Message("function", "x"), "function"),
        (Message("user", "x", {"name": "Ann"}), "name"),
        (Message("assistant", None, {"tool_calls": [{"id": "1"}]}), "tool_calls"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            sent(messages=(message,))


def test_tool_calls_and_results() -> None:
    """OpenAI-style calls and results become blocks; results that follow each other one turn."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}}
    made = sent(
        messages=(
            Message("user", "u"),
            Message("assistant", "", {"tool_calls": [call, other]}),
            Message("tool", "one", {"tool_call_id": "c1", "name": "f"}),
            Message("tool", ({"type": "text", "text": "two"},), {"tool_call_id": "c2"}),
            Message("user", "go on"),
        )
    )["messages"]
    assert made[1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
    ]
    text = [{"type": "text", "text": "two"}]
    assert made[2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
            {"type": "tool_result", "tool_use_id": "c2", "content": text},
        ],
    }
    assert made[3] == {"role": "user", "content": "go on"}


def test_a_schema_goes_out_as_structured_output() -> None:
    """`output_config.format` holds the schema, beside what else is configured there."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made = sent(schema=schema, options={"output_config": {"effort": "low"}})
    closed = {**schema, "additionalProperties": False}
    form = {"type": "json_schema", "schema": closed}
    assert made["output_config"] == {"effort": "low", "format": form}


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
        "$defs": {"o": {"type": ["object", "null"], "additionalProperties": True}},
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


def test_rate_limits() -> None:
    """Resets are dates, made into seconds from now; a past one is over."""
    name = "anthropic-ratelimit-"
    found = CODEC.limits(
        {
            f"{name}requests-remaining": "49",
            f"{name}requests-reset": "2027-01-15T08:00:30Z",
            f"{name}tokens-remaining": "900",
            f"{name}tokens-reset": "2027-01-15T07:59:00Z",
        }
    )
    assert (found.remaining_requests, found.remaining_tokens) == (49, 900)
    assert (found.reset_requests, found.reset_tokens) == (30.0, 0.0)
    inputs = CODEC.limits({f"{name}input-tokens-remaining": "5", f"{name}input-tokens-reset": "x"})
    assert (inputs.remaining_tokens, inputs.reset_tokens) == (5, None)
    assert CODEC.limits({}) == CODEC.limits({"retry-after": "1"})


def test_the_key_check_and_the_list_of_models() -> None:
    """Both read the list; its pages follow the last id."""
    probe, page = CODEC.probe(), CODEC.models("claude-x")
    assert (probe.method, probe.path, probe.body) == ("GET", "/models?limit=1", None)
    assert page.path == "/models?limit=1000&after_id=claude-x"
    assert page.headers == {"anthropic-version": "2023-06-01"}
    model = {
        "id": "claude-y",
        "display_name": "Claude Y",
        "created_at": "2027-01-15T08:00:00Z",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
    listed = orjson.dumps({"data": [model], "has_more": True, "last_id": "claude-y"})
    info = ModelInfo("claude-y", "Claude Y", 200_000, 64_000, NOW)
    assert CODEC.decode_models(listed) == ([info], "claude-y")
    assert CODEC.decode_models(b'{"data":[],"has_more":false}') == ([], None)
    CODEC.decode_probe(listed)


def test_the_providers_own_count() -> None:
    """It is asked with what makes up the prompt, and no more."""
    asking = ask(messages=(Message("system", "s"), Message("user", "u")), max_tokens=5)
    wire = CODEC.count(asking)
    assert wire is not None
    assert wire.path == "/messages/count_tokens"
    assert set(wire.body or {}) == {"model", "system", "messages"}
    assert CODEC.decode_count(b'{"input_tokens": 16}') == 16


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


ERRORS: list[tuple[int, str, str, type[CallError]]] = [
    (400, "invalid_request_error", "bad field", InvalidRequest),
    (400, "invalid_request_error", "prompt is too long: 9 > 8", ContextTooLong),
    (400, "invalid_request_error", "input and `max_tokens` exceed context limit", ContextTooLong),
    (400, "invalid_request_error", "Your credit balance is too low to go on.", QuotaExhausted),
    (401, "authentication_error", "invalid x-api-key", AuthFailed),
    (402, "billing_error", "pay", QuotaExhausted),
    (403, "permission_error", "no", PermissionRefused),
    (404, "not_found_error", "model: x", NotFound),
    (413, "request_too_large", "over 32 MB", InvalidRequest),
    (429, "rate_limit_error", "slow", RateLimited),
    (500, "api_error", "oops", ServerFailed),
    (504, "timeout_error", "late", ServerFailed),
    (529, "overloaded_error", "busy", Overloaded),
    (529, "", "", Overloaded),
]


@pytest.mark.parametrize(("status", "kind", "message", "expected"), ERRORS)
def test_errors_by_body_and_status(
    status: int, kind: str, message: str, expected: type[CallError]
) -> None:
    """Type, message and status say what is terminal; the body names the request."""
    said = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    with pytest.raises(expected) as caught:
        CODEC.decode(status, {"retry-after": "7"}, orjson.dumps(said))
    error = caught.value
    assert (type(error), error.retryable) == (expected, expected.retryable)
    assert (error.http_status, error.retry_after, error.provider_request_id) == (status, 7, "req_1")
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
