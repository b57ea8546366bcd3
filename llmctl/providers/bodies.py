"""JSON bodies and streamed events, read so that nonsense is `BadResponse` and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson

from llmctl.errors import BadResponse
from llmctl.providers.failures import not_json


def json_object(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The object the body is. Raises `BadResponse` for anything else."""
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(status, headers, body, "no JSON") from error
    if not isinstance(whole, dict):
        raise not_json(status, headers, body, "no JSON object")
    return whole


@contextmanager
def shaped(status: int, headers: Mapping[str, str], body: bytes) -> Iterator[None]:
    """Reading an object inside this raises `BadResponse` where it is not built as it should be."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise not_json(status, headers, body, f"{type(error).__name__} {error}") from error


def items(body: bytes, name: str) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """A listing and the objects under `name` in it (absent: none). Raises `BadResponse`."""
    whole = json_object(200, {}, body)
    found = whole.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadResponse(f"the listing's `{name}` is no list of objects; check `base_url`")
    return whole, found


def text(value: object) -> str:
    """The string. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError("text is not a string")
    return value


def named(found: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that holds a text which is not empty."""
    for name in names:
        value = found.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def since_epoch(value: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        return None
    try:
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except OverflowError:
        return None
