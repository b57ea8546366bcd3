"""JSON Schemas that answers must fit: checking the schema, and answers against it.

The library is imported when the first schema is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from llmctl.types import JSON

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_SHOWN = 300
_KEPT = 64  # schemas of one batch whose validators are kept


def check(schema: Any) -> JSON:
    """The schema itself, if it is one, and complete: nothing is fetched. Raises `ValueError` with a
    sentence otherwise, so that no call is paid for in vain."""
    if not isinstance(schema, Mapping):
        raise ValueError("a JSON Schema is an object")  # noqa: TRY004 - one error for all reasons
    _validator(_key(schema))
    return schema


_FENCED = re.compile(r"\s*(`{3,}|~{3,})(?:[\w+.-]+(?=\s))?(.*)\1\s*", re.DOTALL)


def value(text: str) -> Any:
    """The JSON of an answer, which may stand in one Markdown fence. Raises
    `orjson.JSONDecodeError`, and `UnicodeEncodeError` for half of a surrogate pair."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if (fenced := _FENCED.fullmatch(text)) is None:
            raise
        return orjson.loads(fenced[2])


def fit(text: str, schema: JSON) -> Any:
    """The value of an answer. Raises `ValueError` saying why it does not fit."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        found = value(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is no JSON ({error})" if text.strip() else "it is empty") from error
    try:
        wrong = best_match(_validator(_key(schema)).iter_errors(found))
    except Unresolvable as error:
        raise ValueError(f"the schema refers to {error.ref!r}, which it does not hold") from error
    except RecursionError as error:
        raise ValueError("the schema refers to itself without end") from error
    if wrong is not None:
        said = wrong.message if len(wrong.message) <= _SHOWN else wrong.message[:_SHOWN] + "…"
        where = f"at {wrong.json_path}: " if wrong.path else ""
        raise ValueError(where + said)
    return found


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
    if not isinstance(schema.get("$schema", ""), str):
        raise ValueError("it is no JSON Schema at $.$schema: that is a string")  # noqa: TRY004
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        where = f" at {error.json_path}" if error.path else ""
        raise ValueError(f"it is no JSON Schema{where}: {error.message[:_SHOWN]}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_references(schema, kind)
    # An empty registry: the library's own would look references up in the network.
    made: Validator = kind(schema, registry=Registry())
    return made


def _check_references(schema: JSON, kind: type[Validator]) -> None:
    """Raises `ValueError` for a reference that the schema itself does not resolve."""
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012, UnknownDialect, specification_with

    dialect = specification_with(str(kind.META_SCHEMA.get("$schema", "")), default=DRAFT202012)
    root = dialect.create_resource(schema)
    waiting, seen = [(root, Registry().resolver_with_root(root))], set()
    while waiting:
        resource, resolver = waiting.pop()
        item = resource.contents
        if not isinstance(item, dict) or id(item) in seen:
            continue
        seen.add(id(item))
        try:
            waiting += [(each, resolver.in_subresource(each)) for each in resource.subresources()]
        except (UnknownDialect, CannotDetermineSpecification, ValueError, AttributeError) as error:
            raise ValueError("a part of it is written in another schema language") from error
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = item.get(name)
            if not isinstance(reference, str):
                continue
            try:
                found = resolver.lookup(reference)
                kind.check_schema(found.contents)
            except Unresolvable as error:
                why = "it does not hold" if reference.startswith("#") else "llmctl does not fetch"
                raise ValueError(f"it refers to {reference!r}, which {why}") from error
            except (SchemaError, ValueError, TypeError) as error:
                raise ValueError(f"it refers to {reference!r}, which is no schema") from error
            waiting.append((dialect.create_resource(found.contents), found.resolver))
