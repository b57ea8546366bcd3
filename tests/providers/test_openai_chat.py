"""The wire format of chat completions."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest

from llmctl.errors import CallError, InvalidRequest
from llmctl.protocols import Codec
from llmctl.providers.openai_chat import OpenAIChat, json_schema_format
from llmctl.types import Message, RawRequest, Target, Usage
from tests.support import request

CODEC: Codec = OpenAIChat()


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


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": {"label": "good"}}, '{"label":"good"}'),
        ({"content": [{"label": "good"}]}, '[{"label":"good"}]'),
        ({"content": {"type": "text", "text": "hi"}}, "hi"),
        ({"content": None, "audio": {"id": "a", "transcript": "hello"}}, "hello"),
    ],
)
def test_content_that_is_no_text(message: dict[str, Any], text: str) -> None:
    """Case 25: JSON where a text should be is its JSON; case 11: the words of sound are text."""
    found = body(choices=[{"message": message, "finish_reason": "stop"}])
    assert CODEC.decode(200, {}, found).text == text
    chunk = body(choices=[{"delta": message, "finish_reason": "stop"}])
    assert CODEC.reader().piece("", chunk.decode()).text == text


def sent(**changes: Any) -> dict[str, Any]:
    """The body of a request."""
    return dict(CODEC.encode(request(**changes), stream=False).body or {})


@pytest.mark.parametrize(
    ("base_url", "model", "name"),
    [
        ("https://api.openai.com/v1", "gpt-4o", "max_completion_tokens"),
        ("https://x.openai.azure.com/openai/v1?api-version=v1", "mine", "max_completion_tokens"),
        ("http://127.0.0.1:1/v1", "o3-mini", "max_completion_tokens"),
        ("http://127.0.0.1:1/v1", "llama", "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_the_server_knows(
    base_url: str, model: str, name: str
) -> None:
    """OpenAI's models get `max_completion_tokens`, other servers' `max_tokens`."""
    made = sent(max_tokens=5, target=Target("t", "openai", "openai", base_url, model))
    assert [key for key in made if key.startswith("max_")] == [name]


def test_an_own_limit_is_the_only_one() -> None:
    """A limit that is passed through stands alone: two of them would be refused."""
    assert "max_completion_tokens" not in sent(max_tokens=5, options={"max_tokens": 9})


def test_a_raw_body_goes_out_as_it_is() -> None:
    """A passed-through body is the very same object, on its own path."""
    raw = RawRequest("/embeddings", {"input": "x", "model": "m"})
    wire = CODEC.encode(request(raw=raw), stream=False)
    assert wire.path == "/embeddings"
    assert wire.body is raw.body


def test_a_schema_is_strict_where_it_can_be() -> None:
    """A schema goes out as a response format; strict only when OpenAI would take it so."""
    loose = {"type": "object", "properties": {"a": {"type": "string"}}}
    tight = {**loose, "required": ["a"], "additionalProperties": False, "title": "My answer!"}
    formats = [sent(schema=schema)["response_format"]["json_schema"] for schema in (loose, tight)]
    assert formats == [
        {"name": "answer", "schema": loose, "strict": False},
        {"name": "My_answer", "schema": tight, "strict": True},
    ]


def test_nothing_is_attached_to_the_embedded_model() -> None:
    """The embedded model reads text only: an image is refused unsent, text parts are not."""
    target = Target("local", "local", "openai", "http://127.0.0.1:1/v1", "m")
    text = {"type": "text", "text": "t"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert sent(target=target, messages=(Message("user", (text,)),))["messages"][0]["content"]
    with pytest.raises(InvalidRequest) as caught:
        sent(target=target, messages=(Message("user", (text, image)),))
    assert (caught.value.sent, caught.value.exit_code) == (False, 2)


def test_a_part_of_the_servers_own_passes() -> None:
    """What is no part of ours is the caller's own business."""
    part = {"type": "video_url", "video_url": {"url": "https://h/v"}}
    assert sent(messages=(Message("user", (part,)),))["messages"][0]["content"] == [part]


def test_a_filtered_beginning_is_an_answer_that_says_so() -> None:
    """Text before the filter stopped it is kept, with the finish that says it is not all."""
    choice = {"message": {"content": "so far"}, "finish_reason": "content_filter"}
    assert CODEC.decode(200, {}, body(choices=[choice])).finish == "content_filter"


def test_only_the_first_choice_is_read() -> None:
    """Further choices of `n` do not mix into the text."""
    other = {"index": 1, "delta": {"content": "other"}, "finish_reason": None}
    first = {"index": 0, "delta": {"content": "first"}, "finish_reason": None}
    data = orjson.dumps({"choices": [other, first]}).decode()
    assert CODEC.reader().piece("message", data).text == "first"


TEXT = {"type": "string"}


def an_object(**changes: Any) -> dict[str, Any]:
    """An object of one text, as strict mode wants it."""
    return {
        "type": "object",
        "properties": {"a": TEXT},
        "required": ["a"],
        "additionalProperties": False,
        **changes,
    }


STRICT = [
    an_object(),
    an_object(properties={"a": an_object()}),
    an_object(properties={"a": {"type": "array", "items": {"anyOf": [TEXT, an_object()]}}}),
    an_object(properties={"a": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": an_object()}}),
    an_object(properties={"a": {"type": ["string", "null"], "description": "d"}}),
    an_object(properties={"a": {"enum": [1, 2]}}),
]
LOOSE: list[dict[str, Any]] = [
    {},
    TEXT,
    {"type": "array", "items": an_object()},
    an_object(additionalProperties=True),
    an_object(required=[]),
    an_object(properties={"a": {}}),
    an_object(properties={"a": {"type": "object"}}),
    an_object(properties={"a": {"oneOf": [TEXT]}}),
    an_object(properties={"a": {**TEXT, "default": "x"}}),
    an_object(anyOf=[an_object()]),
    an_object(properties={"a": {"type": "array", "items": [TEXT]}}),
]


def test_strict_mode() -> None:
    """Closed objects whose properties are all required are strict; anything else goes out without,
    where OpenAI takes it as a guide."""
    assert [json_schema_format(schema)["strict"] for schema in STRICT] == [True] * len(STRICT)
    assert [json_schema_format(schema)["strict"] for schema in LOOSE] == [False] * len(LOOSE)


def test_names() -> None:
    """OpenAI wants a name of letters, digits, dashes and underscores."""
    for title in (None, 3, "日本"):
        assert json_schema_format({"title": title})["name"] == "answer"
    assert json_schema_format({"title": "My city's name"})["name"] == "My_city_s_name"
    assert len(json_schema_format({"title": "x" * 99})["name"]) == 64


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "x"}},
        {"choices": [{"error": {"message": "x"}, "message": {"content": "a"}}]},
    ],
)
def test_a_usage_beside_an_error_is_billed(answer: dict[str, Any]) -> None:
    """Case 51: at the top level or in a choice, whole or streamed, the error carries it."""
    said = {**answer, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    codec = OpenAIChat()
    body = orjson.dumps(said)
    for read in (partial(codec.decode, 200, {}), lambda b: codec.reader().piece("", b.decode())):
        with pytest.raises(CallError) as failed:
            read(body)
        assert failed.value.usage == Usage(3, 4)
