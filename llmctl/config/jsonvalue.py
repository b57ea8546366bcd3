"""What a value of `params` means: JSON, read after YAML 1.2, in which `on` and `1:30` are text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from llmctl.config.tree import MAX_DEPTH, Node

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[+-]?([0-9]+\.[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?"
    r"|[0-9]+[eE][+-]?[0-9]+)"
)
_INT64 = (-(2**63), 2**64 - 1)  # what orjson, which writes requests, can hold


def json_value(node: Node, depth: int = 0) -> Any:
    """Any JSON value. Plain true, false, null and numbers are themselves, all else is text."""
    if depth > MAX_DEPTH:  # aliases in aliases go deeper than the text does
        raise node.error(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(node.value, Mapping):
        return {
            _json_text(node, name): json_value(child, depth + 1)
            for name, child in node.value.items()
        }
    if isinstance(node.value, tuple):
        return [json_value(item, depth + 1) for item in node.value]
    return scalar(node.value, node) if node.plain else _json_text(node, node.value)


def scalar(written: str, node: Node | None = None) -> Any:
    """What an unquoted scalar means in `params`, after YAML 1.2: `on` and `1:30` are text.

    Raises `ConfigError`, naming `node`, for a number that JSON cannot carry.
    """
    node = node or Node("", "", written)
    if node.null:
        return None
    if written.lower() in ("true", "false"):
        return written.lower() == "true"
    if _INTEGER.fullmatch(written):
        if len(written) > 20 or not _INT64[0] <= int(written) <= _INT64[1]:
            raise node.error("is a number with more than 64 bits; quote it to send it as text")
        return int(written)
    if _FLOAT.fullmatch(written):
        value = float(written)
        if not math.isfinite(value):
            raise node.error("is too large a number; quote it to send it as text")
        return value
    return _json_text(node, written)


def _json_text(node: Node, value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise node.error("holds half a character (\\ud800 to \\udfff); write the character itself")
    return value
