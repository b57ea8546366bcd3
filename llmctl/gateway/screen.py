"""Screening of prompts: what the rules match is refused or masked before anything is sent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmctl.config.settings import ScreenRule
from llmctl.errors import InvalidRequest
from llmctl.types import JSON

_NAMES = frozenset(
    {"model", "type", "role", "id", "call_id", "tool_call_id", "tool_use_id",
     "previous_response_id", "signature", "encrypted_content"}
)  # fmt: skip
"""Fields whose text is no prompt but the language's own, and breaks when it is changed."""

_DATA = frozenset({"input", "arguments"})  # of a tool, where a field of any name is a prompt's

_BASE64 = re.compile(r"data:[\w.+/-]*;base64,[\w+/=-]*|[\w+/-]{256,}={0,2}", re.ASCII)


def screened(body: JSON, rules: tuple[ScreenRule, ...]) -> tuple[JSON, Mapping[str, int]]:
    """The body with what the rules mask replaced by `[NAME]`, and the number of replacements by
    rule. Without any it is the same object.

    All text of the body is looked at, by one rule after the other, but for what names something in
    the caller's language and for files in base64. Raises `InvalidRequest` that names the rule that
    refuses, never the text.
    """
    masked: Counter[str] = Counter()
    return (_screened(body, rules, masked, data=False) if rules else body), masked


def _screened(
    value: Any, rules: tuple[ScreenRule, ...], masked: Counter[str], *, data: bool
) -> Any:
    """The value, itself where no rule masks anything in it; in `data` every field is looked at."""
    if isinstance(value, str):
        return value if _BASE64.fullmatch(value) else _text(value, rules, masked)
    if isinstance(value, Mapping):
        changed = {}
        for name, child in value.items():
            if data or name not in _NAMES or not isinstance(child, str):
                inner = data or (name in _DATA and isinstance(child, Mapping))
                new = _screened(child, rules, masked, data=inner)
                if new is not child:
                    changed[name] = new
        return {**value, **changed} if changed else value
    if isinstance(value, list | tuple):
        items = [_screened(item, rules, masked, data=data) for item in value]
        return (
            items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        )
    return value


def _text(text: str, rules: tuple[ScreenRule, ...], masked: Counter[str]) -> str:
    for rule in rules:
        if rule.action == "refuse":
            if rule.pattern.search(text):
                raise InvalidRequest(
                    f"the prompt holds what the rule {rule.name} of this gateway refuses; send it "
                    "without that",
                    sent=False,
                )
            continue
        new, count = rule.pattern.subn(f"[{rule.name}]", text)
        if count:
            text = new
            masked[rule.name] += count
    return text
