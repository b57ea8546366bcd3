"""JSON Schemas that answers must fit: checking the schema, and answers against it.

The library is imported when the first schema is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from llmctl.types import JSON

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_SHOWN = 300
_KEPT = 64  # schemas of one batch whose validators are kept


def check(schema: Any) -> JSON:
    """The schema itself. Raises `ValueError` with a sentence when it is none, or refers to
    something outside of itself: nothing is fetched."""
    if not isinstance(schema, Mapping):
        raise ValueError("a JSON Schema is an object")  # noqa: TRY004 - one error for all reasons
    _validator(_key(schema))
    return schema


def fit(text: str, schema: JSON) -> Any:
    """The value of an answer. Raises `ValueError` saying why it does not fit."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    value = value_of(text)
    try:
        wrong = best_match(_validator(_key(schema)).iter_errors(value))
    except Unresolvable as error:
        raise ValueError(f"the schema refers to {error.ref!r}, which it does not hold") from error
    except RecursionError as error:
        raise ValueError("the schema refers to itself without end") from error
    if wrong is not None:
        said = wrong.message if len(wrong.message) <= _SHOWN else wrong.message[:_SHOWN] + "…"
        where = f"at {wrong.json_path}: " if wrong.path else ""
        raise ValueError(where + said)
    return value


def value_of(text: str) -> Any:
    """The JSON value of an answer. Raises `ValueError`."""
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        if not text.strip():
            raise ValueError("it is empty") from error
        raise ValueError(f"it is no JSON ({error})") from error


def _key(schema: JSON) -> bytes:
    try:
        return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise ValueError(f"it is no JSON ({error})") from error


@lru_cache(maxsize=_KEPT)
def _validator(key: bytes) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = orjson.loads(key)
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        where = f" at {error.json_path}" if error.path else ""
        raise ValueError(f"it is no JSON Schema{where}: {error.message[:_SHOWN]}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    for reference in _references(schema):
        if "://" in reference:
            raise ValueError(f"it refers to {reference}, which llmctl does not fetch")
    # An empty registry: the library's own would look references up in the network.
    made: Validator = kind(schema, registry=Registry())
    return made


def _references(node: Any) -> Iterator[str]:
    """What the schema refers to (depth is bounded by what orjson reads)."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            for name in ("$ref", "$dynamicRef"):
                if isinstance(item.get(name), str):
                    yield item[name]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
