"""When a JSON Schema may go out as OpenAI's strict one, and how it is named. Pure.

Reference: platform.openai.com/docs/guides/structured-outputs ("Supported schemas").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.types import JSON

_REFUSED = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
     "patternProperties", "propertyNames", "unevaluatedProperties", "minProperties",
     "maxProperties", "contains", "uniqueItems", "prefixItems", "unevaluatedItems", "default",
     "$dynamicRef", "$id", "$anchor"}
)  # fmt: skip
_HOLDS_SCHEMAS = ("properties", "$defs", "definitions")


def named_schema(schema: JSON) -> dict[str, Any]:
    """The `json_schema` of a response format: with the name that OpenAI asks for, and strict
    where the schema is one that strict mode takes (elsewhere it would be refused)."""
    return {"name": name_of(schema), "schema": schema, "strict": qualifies(schema)}


def name_of(schema: JSON) -> str:
    """The schema's title as a name (letters, digits, `_` and `-`, at most 64), or `answer`."""
    title = schema.get("title")
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_") if isinstance(title, str) else ""
    return cleaned[:64] or "answer"


def qualifies(schema: JSON) -> bool:
    """Whether strict mode takes it: an object whose objects, at every depth, name all of their
    properties as required and allow no others."""
    return schema.get("type") == "object" and "anyOf" not in schema and _strict(schema)


def _strict(node: Any) -> bool:
    if not isinstance(node, Mapping) or not _REFUSED.isdisjoint(node):
        return False
    kinds = node.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in node:
        properties, required = node.get("properties"), node.get("required")
        if not isinstance(properties, Mapping) or node.get("additionalProperties") is not False:
            return False
        if not isinstance(required, list) or set(map(str, required)) != set(properties):
            return False
    elif not {"type", "anyOf", "$ref", "enum", "const"} & node.keys():
        return False  # "anything" has no strict form
    return all(_strict(child) for child in _children(node))


def _children(node: Mapping[str, Any]) -> Iterable[Any]:
    for key in _HOLDS_SCHEMAS:
        held = node.get(key)
        if isinstance(held, Mapping):
            yield from held.values()
    if "items" in node:
        yield node["items"]
    choices = node.get("anyOf")
    if isinstance(choices, list):
        yield from choices
