"""From records to rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.rows import KEYS, URLS, Row, RowError, RowReader
from llmctl.batch.template import Template
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.request import Question
from llmctl.types import Message, RawRequest

Put = Callable[[str, bytes], str]


def parse(fields: Any, reader: RowReader | None = None, line: int = 7) -> Row:
    """The row of a record, of a JSONL file."""
    data = fields if isinstance(fields, bytes) else orjson.dumps(fields)
    return (reader or RowReader()).parse((line, data))


def why(fields: Any, reader: RowReader | None = None) -> str:
    """What is wrong with a record."""
    with pytest.raises(RowError) as caught:
        parse(fields, reader)
    return str(caught.value)


def test_a_prompt_with_everything() -> None:
    """A prompt row may set system, model, limits, options and tags of its own call."""
    row = parse(
        {
            "id": "a",
            "prompt": "Hi",
            "system": "Be brief",
            "model": "m",
            "max_tokens": 9,
            "temperature": 0.5,
            "options": {"response_format": {"type": "json_object"}},
            "tags": {"team": "x", "n": 1, "f": 1.5, "b": True},
        }
    )
    assert row == Row(
        id="a",
        question=Question(
            messages=(Message("system", "Be brief"), Message("user", "Hi")),
            model="m",
            max_tokens=9,
            temperature=0.5,
            options={"response_format": {"type": "json_object"}},
            tags={"team": "x", "n": "1", "f": "1.5", "b": "true"},
        ),
        fields=row.fields,
    )


def test_null_says_nothing() -> None:
    """A setting that is null is the profile's, as if it were not there."""
    names = ("system", "model", "max_tokens", "temperature", "schema", "options", "tags")
    assert parse({"prompt": "Hi", **dict.fromkeys(names)}).question == Question(
        (Message("user", "Hi"),)
    )


def test_messages() -> None:
    """Messages are text, parts, or turns with tool calls; their other fields are kept."""
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    ]
    question = parse({"messages": turns}).question
    assert [m.as_json() for m in question.messages] == turns


@pytest.mark.parametrize(
    ("fields", "roles"),
    [
        ({"prompt": "Hi"}, ["default", "Hi"]),
        ({"prompt": "Hi", "system": "own"}, ["own", "Hi"]),
        ({"prompt": "Hi", "system": ""}, ["Hi"]),
        ({"messages": [{"role": "user", "content": "Hi"}]}, ["default", "Hi"]),
        ({"messages": [{"role": "user", "content": "Hi"}], "system": "own"}, ["own", "Hi"]),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}]},
            ["s", "Hi"],
        ),
        ({"messages": [{"role": "developer", "content": "d"}]}, ["d"]),
        (
            {
                "url": "/v1/chat/completions",
                "body": {"messages": [{"role": "user", "content": "Hi"}]},
            },
            ["Hi"],
        ),
    ],
)
def test_the_default_system_prompt(fields: dict[str, Any], roles: list[str]) -> None:
    """The command's system prompt stands before rows that have none, and never in a raw body."""
    question = parse(fields, RowReader(system="default")).question
    assert [m.content for m in question.messages] == roles


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"prompt": NaN}', "not valid JSON"),
        (b'{"prompt": Infinity}', "not valid JSON"),
        (b'{"temperature": 1e999, "prompt": "x"}', "not valid JSON"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid UTF-8 (byte 13)"),
        (b'{"prompt": "x"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ({}, "no prompt: a row needs"),
        ({"text": "x", "id": 1}, "the row has: text, id"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": None}, "no prompt: a row needs"),
        ({"prompt": 5}, "`prompt`: expected `str | null`, got `int`"),
        (
            {"prompt": "x", "messages": [{"role": "user", "content": "x"}]},
            "both `prompt` and `messages`",
        ),
        ({"messages": []}, "`messages`: expected `array` of length >= 1"),
        ({"messages": "x"}, "`messages`: expected `array | null`, got `str`"),
        ({"messages": ["x"]}, "`messages[0]`: expected `object`, got `str`"),
        ({"messages": [{"content": "x"}]}, "`messages[0]`: object missing required field `role`"),
        ({"messages": [{"role": "", "content": "x"}]}, "`messages[0].role`: expected `str` of l"),
        ({"messages": [{"role": "user"}]}, "`messages[0]` has no `content`"),
        ({"messages": [{"role": "user", "content": 5}]}, "`messages[0].content`: expected `str |"),
        ({"messages": [{"role": "user", "content": []}]}, "`messages[0].content`: expected `arr"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "`messages[0].content[0]`: expect"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "content[0].type`: expected"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "has no `text`"),
        ({"prompt": "x", "system": 5}, "`system`: expected `str | null`, got `int`"),
        ({"prompt": "x", "model": ""}, "`model`: expected `str` of length >= 1"),
        ({"prompt": "x", "model": 5}, "`model`: expected `str | null`"),
        ({"prompt": "x", "max_tokens": 0}, "`max_tokens`: expected `int` >= 1"),
        ({"prompt": "x", "max_tokens": True}, "`max_tokens`: expected `int | null`"),
        ({"prompt": "x", "max_tokens": 1.5}, "`max_tokens`: expected `int | null`"),
        ({"prompt": "x", "temperature": -0.1}, "`temperature`: expected `float` >= 0"),
        ({"prompt": "x", "temperature": True}, "`temperature`: expected `int | float"),
        ({"prompt": "x", "temperature": "0"}, "`temperature`: expected `int | float"),
        ({"prompt": "x", "options": []}, "`options`: expected `object | null`"),
        ({"prompt": "x", "options": {"stream": True}}, "`stream`"),
        ({"prompt": "x", "options": {"model": "m"}}, "`model` belongs on the row"),
        ({"prompt": "x", "tags": ["x"]}, "`tags`: expected `object | null`"),
        ({"prompt": "x", "tags": {"a": None}}, "`tags[...]`: expected"),
        ({"prompt": "x", "tags": {"a": []}}, "`tags[...]`: expected"),
        ({"prompt": "x", "schema": []}, "`schema`: expected `object | null`"),
        ({"prompt": "x", "schema": {"type": "objekt"}}, "`schema`: it is no JSON Schema"),
        ({"prompt": "x", "schema": {"$ref": "https://a/b"}}, "which llmctl does not fetch"),
        ({"prompt": "x", "max_token": 5}, "`max_token`: did you mean `max_tokens`?"),
        ({"prompt": "x", "maxTokens": 5}, "`maxTokens`: did you mean `max_tokens`?"),
        ({"prompt": "x", "Temperature": 5}, "did you mean `temperature`?"),
        ({"promt": "x"}, "`promt`: did you mean `prompt`?"),
        ({"prompt": "x", "top_p": 0.5}, "put `top_p` inside `options`"),
        ({"prompt": "x", "id": ""}, "`id` is empty"),
        ({"prompt": "x", "id": True}, "`id` must be text or a whole number"),
        ({"prompt": "x", "id": 1.5}, "`id` must be text or a whole number"),
        ({"prompt": "x", "id": None}, "`id` must be text or a whole number"),
        ({"prompt": "x", "id": ["a"]}, "`id` must be text or a whole number"),
    ],
)
def test_what_is_wrong(fields: Any, says: str) -> None:
    """Each mistake in a row is named in one sentence."""
    assert says in why(fields)


def test_own_columns_are_left_alone() -> None:
    """Fields that look like no setting are the user's own, also those of other kinds of rows."""
    own = {"idx": 1, "score": 2, "message": "x", "bodyy": 1, "url": "http://x", "body": "mail"}
    assert parse({"prompt": "Hi", **own}).question == Question((Message("user", "Hi"),))


@pytest.mark.parametrize(
    ("fields", "id"),
    [
        ({"id": "x/../y"}, "x/../y"),
        ({"id": 12}, "12"),
        ({"custom_id": "c"}, "c"),
        ({}, "7"),
        ({"id": "a", "custom_id": "c"}, "a"),
    ],
)
def test_ids(fields: dict[str, Any], id: str) -> None:
    """The id is the row's own as text, or the number of its line."""
    assert parse({"prompt": "x", **fields}).id == id


def test_id_field() -> None:
    """`--id-field` names the field, which every row must have."""
    reader = RowReader(id_field="ticket")
    assert parse({"prompt": "x", "id": 1, "ticket": 9}, reader).id == "9"
    assert "no field 'ticket' (--id-field)" in why({"prompt": "x", "id": 1}, reader)


@pytest.mark.parametrize("url", URLS)
def test_openai_lines(url: str) -> None:
    """An OpenAI batch line goes out with its body as it is, below the base URL."""
    body = {
        "model": "m",
        URLS[url][0]: [{"role": "user", "content": "x"}],
        "max_tokens": 5,
        "tools": [{"type": "function"}],
        "seed": 1,
    }
    row = parse({"custom_id": "c", "method": "POST", "url": url, "body": body})
    assert row.id == "c"
    assert row.question.raw == RawRequest(url.removeprefix("/v1"), body)
    assert row.question.model == "m"
    assert row.question.max_tokens == 5


@pytest.mark.parametrize(
    ("url", "body", "texts"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}, ["a", "b"]),
        ("/v1/embeddings", {"input": "a"}, ["a"]),
        ("/v1/embeddings", {"input": [[1, 2]]}, []),
        ("/v1/responses", {"instructions": "s", "input": "a"}, ["s", "a"]),
        (
            "/v1/responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "function_call_output", "output": "b"},
                ]
            },
            ["a", "b"],
        ),
        ("/v1/responses", {"prompt": {"id": "p"}}, []),
        ("/v1/completions", {"prompt": "a"}, ["a"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}, 5]}, ["a"]),
    ],
)
def test_texts_to_count(url: str, body: dict[str, Any], texts: list[str]) -> None:
    """The texts of a raw body are found for counting, whichever endpoint it is for."""
    question = parse({"url": url, "body": body}).question
    assert [m.text for m in question.messages] == texts


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "GET"}, '`method` must be "POST"'),
        ({"url": "/v1/files"}, "`url` must be one of /v1/chat/completions"),
        ({"url": None}, "`url` must be one of"),
        ({"body": "x"}, "`body` must be an object"),
        ({"body": {}}, "`body` has no `messages`"),
        ({"body": {"messages": [1], "stream": True}}, "`stream` in `body`"),
        ({"body": {"messages": [1], "model": 5}}, "`model` in `body` must be text"),
    ],
)
def test_bad_openai_lines(change: dict[str, Any], says: str) -> None:
    """What a batch line cannot ask for is refused."""
    line = {
        "custom_id": "c",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "x"}]},
    }
    assert says in why({**line, **change})


def cells(record: dict[str, str], reader: RowReader | None = None) -> Row:
    """The row of a CSV record."""
    return (reader or RowReader()).parse((2, record))


def test_csv_cells() -> None:
    """Settings in CSV columns are converted; empty cells and columns of JSON's own say nothing."""
    row = cells(
        {
            "id": "1",
            "prompt": "Hi",
            "max_tokens": "5",
            "temperature": "0.5",
            "model": "",
            "tags": '{"a": 1}',
            "options": "",
            "messages": "x",
            "body": "mail",
            "system": "s",
        }
    )
    assert row.id == "1"
    assert row.question == Question(
        (Message("system", "s"), Message("user", "Hi")),
        max_tokens=5,
        temperature=0.5,
        tags={"a": "1"},
    )


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": "x", "max_tokens": "many"}, "column `max_tokens` is not valid JSON"),
        ({"prompt": "x", "max_tokens": '"5"'}, "`max_tokens`: expected"),
        ({"prompt": "", "id": "1"}, "the prompt is empty"),
        ({"prompt": "x", "id": ""}, "`id` is empty"),
    ],
)
def test_bad_csv_cells(record: dict[str, str], says: str) -> None:
    """A cell that cannot be what its column stands for is refused."""
    with pytest.raises(RowError, match=says.replace("(", "\\(")):
        cells(record)


def test_csv_without_prompt() -> None:
    """A CSV file without a prompt column is refused once, with the columns it has."""
    with pytest.raises(InputError, match=r"`prompt` column or --template; the file has: a, b"):
        cells({"a": "1", "b": "2"})


def test_template_rows() -> None:
    """With a template every record is data: its settings' names mean nothing, its id does."""
    reader = RowReader(template=Template("{{ model }}: {{ row['first name'] }}"), system="s")
    row = parse({"id": 5, "model": "T", "first name": "Ann", "max_tokens": "x"}, reader)
    assert row.id == "5"
    assert row.question == Question((Message("system", "s"), Message("user", "T: Ann")))
    assert cells({"model": "T", "first name": "B"}, reader).question.messages[1].text == "T: B"
    assert "empty prompt" in why({"x": " "}, RowReader(template=Template("{{ x }}")))


def test_system_that_is_no_text() -> None:
    """A system prompt with half a character in it is refused before any row is read."""
    with pytest.raises(InputError, match="--system"):
        RowReader(system="\udcff")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), JSON) | JSON)
def test_any_record(fields: Any) -> None:
    """Whatever JSON a record holds, it is a row or a sentence."""
    with contextlib.suppress(RowError):
        parse(orjson.dumps(fields))


def test_too_deep_to_send(profile: Profile) -> None:
    """What can be read but not written again is refused when it is validated."""
    data = b'{"prompt": "x", "options": {"a":' + b"[" * 300 + b"]" * 300 + b"}}"
    with pytest.raises(RowError, match="nested too deeply"):
        RowReader().request((1, data), profile)


def test_the_columns_of_a_very_wide_table_are_looked_at_once() -> None:
    """Case 63: of 100,000 columns the second row takes a fraction of the first one's time."""
    cells = {"prompt": "x", **{f"column {n}": "1" for n in range(100_000)}}
    took = []
    for line in (2, 3):
        begun = time.process_time()
        RowReader().parse((line, cells))
        took.append(time.process_time() - begun)
    assert took[1] < took[0] / 2, took
