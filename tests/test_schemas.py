"""JSON Schemas, and answers held to them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl import schemas
from tests.providers.recordings import any_json

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def why(text: str, schema: dict[str, Any]) -> str:
    """Why the text does not fit."""
    with pytest.raises(ValueError, match=r".") as caught:
        schemas.fit(text, schema)
    return str(caught.value)


def test_an_answer_that_fits() -> None:
    """The value comes out, with white space around it or not."""
    assert schemas.fit(' {"city": "Paris"}\n', CITY) == {"city": "Paris"}
    assert schemas.fit("3", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}) == 3


def test_an_answer_that_does_not() -> None:
    """The sentence says what is wrong, and where."""
    assert "required" in why("{}", CITY)
    assert "$.city" in why('{"city": 3}', CITY)
    assert "no JSON" in why("Paris", CITY)
    assert "no JSON" in why('{"city": NaN}', CITY)
    assert "empty" in why(" ", CITY)
    assert len(why(f'{{"city": {[1] * 9999}}}', CITY)) < 500


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ([], "an object"),
        ({"type": "objekt"}, "no JSON Schema"),
        ({"properties": {"a": 3}}, "no JSON Schema at $"),
        ({"$ref": "https://example.org/s.json"}, "does not fetch"),
        ({"prefixItems": [{"$ref": "file:///etc/passwd"}]}, "does not fetch"),
        ({"pattern": "("}, "no JSON Schema"),
    ],
)
def test_what_is_no_schema(schema: Any, says: str) -> None:
    """A wrong schema is refused before anything is asked."""
    with pytest.raises(ValueError, match=r".") as caught:
        schemas.check(schema)
    assert says in str(caught.value)


def test_references_that_lead_nowhere() -> None:
    """A reference to nothing, or in a circle, fails the answer and nothing else."""
    assert "does not hold" in why("1", {"$ref": "#/$defs/gone"})
    assert "without end" in why("1", {"$ref": "#"})


@given(any_json("type properties required $ref #/$defs/a $defs object items"), st.text(max_size=9))
def test_anything(schema: Any, text: str) -> None:
    """Whatever a schema holds and an answer says, it fits or is a sentence."""
    with suppress(ValueError):
        schemas.fit(text, schemas.check(schema))
