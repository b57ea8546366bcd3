"""What a row may say: `prompt` or `messages`, with the settings of one call."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from llmctl.request import Question
from llmctl.types import JSON, Message

_SETTINGS = frozenset(
    {"id", "custom_id", "system", "model", "max_tokens", "temperature", "schema", "options", "tags"}
)
_ASKED = frozenset({"prompt", "messages", "method", "url", "body"})
KEYS = _SETTINGS | _ASKED
"""The fields that mean something in a row; others are the user's own columns."""

_PARAMETERS = frozenset(
    {
        "top_p",
        "top_k",
        "frequency_penalty",
        "presence_penalty",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "max_completion_tokens",
        "max_output_tokens",
    }
)
"""Providers' own parameters, which someone who puts them on a row expects to be sent."""

_ALIKE = 0.8
_EMPTY: dict[str, Any] = {}


class RowError(ValueError):
    """What is wrong with one row: a sentence without the file's name and line."""


def question(fields: Mapping[str, Any], system: str | None, schema: JSON | None = None) -> Question:
    """The question of a row with `prompt` or `messages`; `system` and `schema` where the row has
    none.

    Raises `RowError`.
    """
    own = fields.get("system")
    if own is not None and type(own) is not str:
        raise RowError("`system` must be text")
    if "prompt" in fields:
        turns = _prompt(fields)
    elif "messages" in fields:
        turns = _messages(fields["messages"])
        if any(turn.role in ("system", "developer") for turn in turns):
            system = None
    else:
        raise RowError(
            "no prompt: a row needs `prompt`, `messages` or an OpenAI `body` "
            f"(or use --template){known_keys(fields)}"
        )
    first = system if own is None else own
    return Question(
        messages=(Message("system", first), *turns) if first else turns,
        model=_model(fields.get("model")),
        max_tokens=_max_tokens(fields.get("max_tokens")),
        temperature=_temperature(fields.get("temperature")),
        options=_options(fields.get("options")),
        tags=_tags(fields.get("tags")),
        schema=_schema(fields.get("schema"), schema),
    )


def known_keys(fields: Mapping[str, Any]) -> str:
    """`; the row has: a, b, c`, for a message about what it has not."""
    names = [name if len(name) <= 40 else name[:40] + "…" for name in list(fields)[:8]]
    more = ", …" if len(fields) > 8 else ""
    return f"; the row has: {', '.join(names)}{more}" if names else "; the row is empty"


def reject_typos(fields: Mapping[str, Any], id_field: str | None = None) -> None:
    """Raise `RowError` for a field that looks like a known one misspelt, or like a parameter.

    Other unknown fields are the user's own columns and are left alone.
    """
    unknown = fields.keys() - KEYS
    if not unknown:
        return
    # A row that asks something does not also misspell `messages`: `message` is a column then.
    known = KEYS if _ASKED.isdisjoint(fields) else _SETTINGS
    for name in unknown:
        if name == id_field:
            continue
        if name in _PARAMETERS:
            raise RowError(f"put `{name}` inside `options`: a row has no such field itself")
        near = _nearest(name, known)
        if near:
            raise RowError(f"unknown field `{name}`: did you mean `{near}`?")


def typed_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """A CSV record with the settings among its columns as what they stand for.

    An empty cell says nothing; columns that only mean something in JSON are the user's own.
    """
    fields: dict[str, Any] = {k: v for k, v in cells.items() if k == "prompt" or k not in _ASKED}
    for name in _SETTINGS - {"id", "custom_id"}:
        cell = cells.get(name)
        if cell is None:
            continue
        if not cell.strip():
            del fields[name]
        elif name not in ("system", "model"):
            try:
                fields[name] = orjson.loads(cell)
            except orjson.JSONDecodeError:
                raise RowError(f"the cell of column `{name}` is not valid JSON") from None
    return fields


@lru_cache(maxsize=1024)
def _nearest(name: str, known: frozenset[str]) -> str | None:
    """The known field that `name` seems to mean. Short names are too much alike to tell."""
    low = name.strip().casefold()
    if low in known:
        return low
    if not 4 <= len(name) <= 40:
        return None
    long = sorted(key for key in known if len(key) >= 4)
    return next(iter(difflib.get_close_matches(low, long, n=1, cutoff=_ALIKE)), None)


def _prompt(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    if "messages" in fields:
        raise RowError("both `prompt` and `messages`: a row has one of them")
    prompt = fields["prompt"]
    if type(prompt) is not str:
        raise RowError("`prompt` must be text")
    if not prompt or prompt.isspace():
        raise RowError("the prompt is empty")
    return (Message("user", prompt),)


def _messages(value: Any) -> tuple[Message, ...]:
    if type(value) is not list or not value:
        raise RowError("`messages` must be a list of at least one message")
    return tuple(_message(turn, number) for number, turn in enumerate(value, 1))


def _message(turn: Any, number: int) -> Message:
    where = f"message {number}"
    if type(turn) is not dict:
        raise RowError(f"{where} is not an object with `role` and `content`")
    role = turn.get("role")
    if type(role) is not str or not role.strip():
        raise RowError(f"{where} has no `role`")
    content = turn.get("content")
    extra = {k: v for k, v in turn.items() if k not in ("role", "content")}
    if content is None:
        if not (turn.get("tool_calls") or turn.get("function_call")):
            raise RowError(f"{where} has no `content`")
        return Message(role, None, extra)
    if type(content) is str:
        return Message(role, content, extra or _EMPTY)
    if type(content) is not list or not content:
        raise RowError(f"the `content` of {where} is neither text nor a list of parts")
    for part in content:
        if type(part) is not dict or type(part.get("type")) is not str:
            raise RowError(f"a part of {where} is not an object with a `type`")
        if part["type"] == "text" and type(part.get("text")) is not str:
            raise RowError(f"a text part of {where} has no `text`")
    return Message(role, tuple(content), extra or _EMPTY)


def _schema(value: Any, default: JSON | None) -> JSON | None:
    if value is None:
        return default
    from llmctl import schemas

    try:
        return schemas.check(value)
    except ValueError as error:
        raise RowError(f"`schema`: {error}") from error


def _model(value: Any) -> str | None:
    if value is None or (type(value) is str and value.strip()):
        return value
    raise RowError("`model` must be text")


def _max_tokens(value: Any) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    raise RowError("`max_tokens` must be a whole number above 0")


def _temperature(value: Any) -> float | None:
    if value is None or (type(value) in (int, float) and value >= 0):
        return value  # type: ignore[no-any-return]
    raise RowError("`temperature` must be a number, 0 or above")


def _options(value: Any) -> dict[str, Any]:
    if value is None:
        return _EMPTY
    if type(value) is not dict:
        raise RowError("`options` must be an object")
    if value.get("stream"):
        raise RowError("`stream` in `options`: the answers of a batch are whole; remove it")
    for name in ("model", "messages"):
        if name in value:
            raise RowError(f"`{name}` belongs on the row itself, not in `options`")
    return value


def _tags(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise RowError("`tags` must be an object")
    tags: dict[str, str] = {}
    for name, tag in value.items():
        if type(tag) in (int, float, bool):
            tags[name] = orjson.dumps(tag).decode()
        elif type(tag) is str and name:
            tags[name] = tag
        else:
            raise RowError(f"the tag {name!r} must be text, a number, true or false")
    return tags
