"""Cohere's wire format."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    InvalidRequest,
    ServerFailed,
)
from llmctl.protocols import Codec
from llmctl.providers.cohere import Cohere
from llmctl.types import JSON, Message, RawRequest, Request, Usage
from tests.providers.recordings import asked, needs_recordings, recordings, streamed

CODEC: Codec = Cohere()
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


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
def test_an_answer_that_was_given_up_is_an_error(reason: str) -> None:
    """It may be tried again, and is billed as the usage beside it says (case 51), or was perhaps
    billed where there is none; in a stream as well."""
    end = {"type": "message-end", "delta": {"finish_reason": reason, "error": "oops"}}
    with pytest.raises(ServerFailed, match=reason) as caught:
        CODEC.decode(200, {}, body(finish_reason=reason))
    assert (caught.value.retryable, caught.value.ambiguous) == (True, False)
    assert caught.value.usage == Usage(10, 7, cached_input=4, free_input=9, free_output=5)
    with pytest.raises(ServerFailed) as caught:
        CODEC.decode(200, {}, body(finish_reason=reason, usage=None))
    assert caught.value.ambiguous
    with pytest.raises(ServerFailed, match="oops"):
        CODEC.reader().piece("message-end", orjson.dumps(end).decode())


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
