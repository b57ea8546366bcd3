"""A JSON Schema as Anthropic's structured output takes it; pure.

Reference: platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema
limitations", and what Anthropic's own SDKs make of a schema: objects are closed, `oneOf` becomes
`anyOf`, and limits the API does not enforce move into the description, where the model still
reads them. The answer is checked against the schema as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.types import JSON

_NOT_ENFORCED = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "maxItems",
        "uniqueItems",
        "contains",
        "minProperties",
        "maxProperties",
    }
)
_DROPPED = frozenset({"$schema", "$id", "$comment"})
_SCHEMAS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf")


def fitted(schema: JSON) -> JSON:
    """The schema within those limits; what says nothing of them stays as it is."""
    made: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if key in _NOT_ENFORCED or (key == "minItems" and value not in (0, 1)):
            moved[key] = value
        elif key in _SCHEMAS and isinstance(value, Mapping):
            made[key] = {name: _inner(inner) for name, inner in value.items()}
        elif key == "items":
            made[key] = _inner(value)
        elif key in _LISTS and isinstance(value, list | tuple):
            made[key] = [_inner(inner) for inner in value]
        elif key == "oneOf" and isinstance(value, list | tuple) and "anyOf" not in schema:
            made["anyOf"] = [_inner(inner) for inner in value]
        else:
            made[key] = value
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list | tuple) and "object" in kind):
        made.setdefault("additionalProperties", False)
    if moved:
        limits = "{" + ", ".join(f"{key}: {value}" for key, value in moved.items()) + "}"
        said = schema.get("description")
        made["description"] = f"{said}\n\n{limits}" if said else limits
    return made


def _inner(value: Any) -> Any:
    return fitted(value) if isinstance(value, Mapping) else value
