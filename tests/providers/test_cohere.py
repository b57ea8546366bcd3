"""Cohere's wire format: requests, and what else is asked of it."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    AuthFailed,
    InvalidRequest,
)
from llmctl.protocols import Codec
from llmctl.providers.cohere import Cohere
from llmctl.types import JSON, Message, ModelInfo, RawRequest, Request
from tests.providers.recordings import (
    asked,
)

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
