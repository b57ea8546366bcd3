"""Which schemas OpenAI's strict mode takes."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.providers.openai_base import json_schema_format

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
