"""JSON Schemas, and answers held to them."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl import schemas
from tests.conftest import Run
from tests.providers.recordings import any_json
from tests.simulator.server import Simulator

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def why(text: str, schema: dict[str, Any]) -> str:
    """Why the text does not fit."""

    async def ask() -> None:
        checker = schemas.Checker()
        try:
            await checker.fit(text, schema)
        finally:
            await checker.close()

    with pytest.raises(ValueError, match=r".") as caught:
        asyncio.run(ask())
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
    assert "without end" in why("1", {"$ref": "#"})
    assert len(why(f'{{"city": {[1] * 9999}}}', CITY)) < 500


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ([], "an object"),
        ({"type": "objekt"}, "no JSON Schema"),
        ({"$ref": "https://example.org/s.json"}, "does not fetch"),
        ({"prefixItems": [{"$ref": "file:///etc/passwd"}]}, "does not fetch"),
        ({"pattern": "("}, "no JSON Schema"),
        ({"$ref": "defs.json#/x"}, "'defs.json#/x', which llmctl does not fetch"),
        ({"$id": "https://example.org/a/", "$ref": "b.json"}, "does not fetch"),
        ({"$ref": "#/$defs/gone"}, "'#/$defs/gone', which it does not hold"),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "other"}}}, "does not hold"),
        ({"$dynamicRef": "#gone"}, "does not hold"),
        ({"$ref": "#/x", "x": {"$ref": "#/gone"}}, "does not hold"),
        ({"$ref": "#/x", "x": {"type": "objekt"}}, "no schema"),
        ({"$ref": "http://[/"}, "refers to"),
    ],
)
def test_what_is_no_schema(schema: Any, says: str) -> None:
    """A wrong schema is refused before anything is asked."""
    with pytest.raises(ValueError, match=r".") as caught:
        schemas.check(schema)
    assert says in str(caught.value)


N = {"type": "integer"}
OLD_DRAFT = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "$defs": {"n": N}},
        {"$ref": "#n", "$defs": {"n": {"$anchor": "n", **N}}},
        {"$id": "https://h/a/", "$ref": "n", "$defs": {"n": {"$id": "n", **N}}},
        {"$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n", **N}}},
        {"$schema": OLD_DRAFT, "$ref": "#/definitions/n", "definitions": {"n": N}},
        {"anyOf": [N, {"enum": [{"$ref": "gone.json"}]}], "properties": {"$ref": {"$ref": "#"}}},
    ],
)
def test_references_within(schema: dict[str, Any]) -> None:
    """A reference to any part of the schema itself is followed, and a value is no reference."""
    schemas.check(schema)
    assert schemas.fit("3", schema) == 3
    assert why('"3"', schema)


@given(
    any_json(
        "type properties required $ref $id #/$defs/a $defs object items $schema b # $dynamicRef"
    ),
    st.text(max_size=9),
)
def test_anything(schema: Any, text: str) -> None:
    """Whatever a schema holds and an answer says, it fits or is a sentence."""
    with suppress(ValueError):
        schemas.fit(text, schemas.check(schema))


@pytest.mark.parametrize("schema", [{"$ref": "defs.json#/x"}, {"$ref": "#/$defs/missing"}])
def test_nothing_is_sent_under_a_schema_that_cannot_be_resolved(
    run: Run, configured: dict[str, str], sim: Simulator, tmp_path: Path, schema: dict[str, str]
) -> None:
    """`ask` and `batch` refuse it, in a file or in a row, before any call is paid for."""
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"id": "a", "prompt": "hi"}) + "\n")
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"id": "a", "prompt": "hi", "schema": schema}) + "\n")
    for words in (
        ["ask", "hi", "--schema", str(file)],
        ["batch", str(rows), "--schema", str(file)],
    ):
        done = run(*words, env=configured, cwd=tmp_path)
        assert (done.returncode, "it refers to" in done.stderr) == (2, True), done.stderr
    assert run("batch", str(own), env=configured, cwd=tmp_path).returncode != 0
    assert sim.calls == []
