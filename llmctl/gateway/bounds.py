"""Bounds on what a caller may send: pure checks, whichever language the body is in."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from llmctl.config.settings import ServeLimits
from llmctl.errors import InvalidRequest
from llmctl.types import JSON

OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The fields by which the languages limit an answer's tokens."""

_ANSWERS = ("n", "best_of")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, or up (-1)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def check_depth(raw: bytes, limits: ServeLimits) -> None:
    """Refuse a body of more levels than `limits.depth`, before it is parsed. Raises
    `InvalidRequest`; what is no JSON passes."""
    if raw.count(b"[") + raw.count(b"{") <= limits.depth:
        return
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(unescaped.split(b'"')[::2])  # every other piece is a string
    steps = array("b", outside.translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps), default=0) > limits.depth:
        raise _refusal(f"the body has more than {limits.depth} levels; nest it less deeply")


def check(body: JSON, limits: ServeLimits) -> None:
    """Refuse a body that asks for more than `limits`, or says something else where a number,
    a list or an object stands. Raises `InvalidRequest` that names the field."""
    for name in _ANSWERS:
        _check_number(body, name, limits.n)
    for name in OUTPUT_LIMITS:
        _check_number(body, name, limits.max_tokens)
    _check_list(body, "messages", limits.messages)
    if not isinstance(body.get("input"), str):
        _check_list(body, "input", limits.messages)
    bias = body.get("logit_bias")
    if bias is not None and not isinstance(bias, Mapping):
        raise _refusal("logit_bias must be an object")
    if bias and len(bias) > limits.logit_bias:
        raise _refusal(f"logit_bias has {len(bias)} entries, at most {limits.logit_bias} may be")


def _check_number(body: JSON, name: str, most: int | None) -> None:
    """The field is a whole number above 0, and at most `most`, or is not there."""
    value = body.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refusal(f"{name} must be a whole number above 0")
    if most is not None and value > most:
        raise _refusal(f"{name} is {value}, at most {most} may be asked for")


def _check_list(body: JSON, name: str, most: int) -> None:
    """The field is a list of at most `most` items, or is not there. Of one text as token numbers,
    which may be embedded, each is no item."""
    value: Any = body.get(name)
    if value is None:
        return
    if not isinstance(value, list | tuple):
        raise _refusal(f"{name} must be a list")
    items = sum(not isinstance(item, int) for item in value) if len(value) > most else 0
    if items > most:
        raise _refusal(f"{name} has {items} items, at most {most} may be sent")


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, sent=False)
