"""The wire format of chat completions."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import ContentFiltered, InvalidRequest, ServerFailed
from llmctl.protocols import Codec
from llmctl.providers.openai_chat import OpenAIChat, json_schema_format
from llmctl.types import Message, RawRequest, Target, Usage
from tests.providers.recordings import streamed
from tests.support import TARGET, request

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


def sent(**changes: Any) -> dict[str, Any]:
    """The body of a request."""
    return dict(CODEC.encode(request(**changes), stream=False).body or {})


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> str:
    """One streamed event."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": more.pop("finish", None)}
    return f"data: {orjson.dumps({'choices': [choice], **more}).decode()}\n\n"


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


def test_refusals_are_no_answers() -> None:
    """A refusal, or a filtered answer without text, is `content_filter`, with what it cost."""
    for message, finish in (
        ({"content": None, "refusal": "no"}, "stop"),
        ({"content": ""}, "content_filter"),
    ):
        with pytest.raises(ContentFiltered) as caught:
            CODEC.decode(200, {}, body(choices=[{"message": message, "finish_reason": finish}]))
        assert caught.value.usage.input == 10


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


def test_a_streamed_refusal_is_no_answer() -> None:
    """A refusal that comes in pieces is `content_filter` at the end, with what it cost."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    text = (
        chunk({"refusal": "I can"})
        + chunk({"refusal": "not"}, finish="stop", usage=usage)
        + "data: [DONE]\n\n"
    )
    with pytest.raises(ContentFiltered, match="I cannot") as caught:
        streamed(CODEC, [text.encode()])
    assert caught.value.usage == Usage(input=3, output=2)


def test_an_error_within_a_stream() -> None:
    """An error object, or the finish reason `error`, is the mapped error."""
    for text in (
        'data: {"error":{"message":"x","type":"server_error"}}\n\n',
        'event: error\ndata: {"message":"x"}\n\n',
        chunk(finish="error"),
        'data: {"choices":[{"index":0,"delta":{},"error":{"code":502,"message":"x"}}]}\n\n',
    ):
        with pytest.raises(ServerFailed):
            streamed(CODEC, [text.encode()])


def test_counting_is_openais_own() -> None:
    """OpenAI counts what it would read; only that is sent, and other providers are not asked."""
    asked = request(max_tokens=5, temperature=0.1, schema={"type": "object"})
    wire = CODEC.count(asked)
    assert wire is not None
    assert wire.path == "/responses/input_tokens"
    assert wire.body is not None
    assert set(wire.body) == {"model", "input", "text"}
    other = Target("local", "local", "openai", TARGET.base_url, "m")
    assert CODEC.count(request(target=other)) is None


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


@pytest.mark.parametrize(
    "schema",
    [
        an_object(),
        an_object(properties={"a": an_object()}),
        an_object(properties={"a": {"type": "array", "items": {"anyOf": [TEXT, an_object()]}}}),
        an_object(properties={"a": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": an_object()}}),
        an_object(properties={"a": {"type": ["string", "null"], "description": "d"}}),
        an_object(properties={"a": {"enum": [1, 2]}}),
    ],
)
def test_qualifies(schema: dict[str, Any]) -> None:
    """Closed objects whose properties are all required."""
    assert json_schema_format(schema)["strict"]


@pytest.mark.parametrize(
    "schema",
    [
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
        {key: value for key, value in an_object().items() if key != "additionalProperties"},
    ],
)
def test_does_not_qualify(schema: dict[str, Any]) -> None:
    """Anything else goes out without strict, where OpenAI takes it as a guide."""
    assert not json_schema_format(schema)["strict"]


def test_names() -> None:
    """OpenAI wants a name of letters, digits, dashes and underscores."""
    for title in (None, 3, "日本"):
        assert json_schema_format({"title": title})["name"] == "answer"
    assert json_schema_format({"title": "My city's name"})["name"] == "My_city_s_name"
    assert len(json_schema_format({"title": "x" * 99})["name"]) == 64
