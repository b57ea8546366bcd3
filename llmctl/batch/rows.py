"""Rows of a batch: a record becomes an id and a question, or a sentence about what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Struct

from llmctl.batch.input import Problem, Record
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.request import Question, compose
from llmctl.types import JSON, Message, RawRequest

Render = Callable[[Mapping[str, Any]], str]
"""Renders a prompt from a record's fields; raises `RowError`."""


class RowError(ValueError):
    """What is wrong with one row: a sentence without the file's name and line."""


class RowSettings(Struct, frozen=True):
    """The settings of one call that a row may carry. None: the command line's or the profile's."""

    system: str | None = None
    model: Annotated[str, Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)] | None = None
    schema: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    tags: dict[str, str | int | float | bool] | None = None


_IDS = frozenset({"id", "custom_id"})
_SETTINGS = frozenset(RowSettings.__struct_fields__)
_ASKED = frozenset({"prompt", "messages", "method", "url", "body"})
KEYS = _IDS | _SETTINGS | _ASKED
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


class Row(Struct, frozen=True):
    """One input row. `index` is 0-based and counts no blank lines; `line` is where it begins."""

    index: int
    line: int
    id: str
    question: Question


class RowReader:
    """Reads rows as the command line says: template, id column, default system prompt and schema.

    OpenAI batch lines do without the last two: they go out as they are.
    """

    def __init__(
        self,
        *,
        template: Render | None = None,
        id_field: str | None = None,
        system: str | None = None,
        schema: JSON | None = None,
    ) -> None:
        """Raises `InputError` when `system` is no valid Unicode text."""
        self._template = template
        self._id_field = id_field
        self._system = system or None
        self._schema = schema
        try:
            orjson.dumps(system)
        except TypeError as error:
            raise InputError("--system is not valid Unicode text") from error

    def parse(self, index: int, record: Record) -> Row:
        """The row. Raises `RowError` with what is wrong."""
        line, data = record
        fields = _fields(data)
        name = self._id(fields, line)
        return Row(index, line, name, self._question(fields, is_csv=isinstance(data, dict)))

    def identify(self, record: Record, profile: Profile) -> tuple[str, bytes]:
        """The row's id, and the first 16 bytes of its request's fingerprint. Raises `RowError`."""
        row = self.parse(0, record)
        try:
            request = compose(row.question, profile, id=row.id)
        except TypeError as error:
            # orjson reads 1024 levels and writes 254: what cannot be written cannot be sent.
            raise RowError("the JSON is nested too deeply to be sent (254 levels)") from error
        return row.id, bytes.fromhex(request.fingerprint[:32])

    def _id(self, fields: Mapping[str, Any], line: int) -> str:
        name = self._id_field
        if name is None:
            name = "custom_id" if "id" not in fields else "id"
            if name not in fields:
                return str(line)
        elif name not in fields:
            raise RowError(f"there is no field {name!r} (--id-field) here{field_names(fields)}")
        value = fields[name]
        if type(value) is int:
            return str(value)
        if type(value) is not str:
            raise RowError(f"`{name}` must be text or a whole number")
        if not value:
            raise RowError(f"`{name}` is empty")
        return value

    def _question(self, fields: dict[str, Any], *, is_csv: bool) -> Question:
        if self._template is not None:
            prompt = self._template(fields)
            if not prompt or prompt.isspace():
                raise RowError("the template gives an empty prompt")
            user = Message("user", prompt)
            return Question(_with_system(self._system, (user,)), schema=self._schema)
        if is_csv:
            if "prompt" not in fields:
                # The same for every record: not worth a message each.
                raise InputError(
                    "a CSV file needs a `prompt` column or --template"
                    + field_names(fields).replace("row", "file")
                )
            fields = _typed_cells(fields)
        _reject_typos(fields, self._id_field)
        if "body" in fields and "prompt" not in fields and "messages" not in fields:
            return _openai_question(fields)
        return self._plain_question(fields)

    def _plain_question(self, fields: Mapping[str, Any]) -> Question:
        """The question of a row with `prompt` or `messages`."""
        default = self._system
        if "prompt" in fields:
            turns = _prompt(fields)
        elif "messages" in fields:
            turns = _messages(fields["messages"])
            if any(turn.role in ("system", "developer") for turn in turns):
                default = None
        else:
            raise RowError(
                "no prompt: a row needs `prompt`, `messages` or an OpenAI `body` "
                f"(or use --template){field_names(fields)}"
            )
        settings = _settings(fields)
        return Question(
            messages=_with_system(default if settings.system is None else settings.system, turns),
            model=settings.model,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            options=_options(settings.options),
            tags={
                name: tag if isinstance(tag, str) else orjson.dumps(tag).decode()
                for name, tag in (settings.tags or {}).items()
            },
            schema=self._schema if settings.schema is None else _schema(settings.schema),
        )


def field_names(fields: Mapping[str, Any]) -> str:
    """`; the row has: a, b, c`, for a message about what it has not."""
    names = [name if len(name) <= 40 else name[:40] + "…" for name in list(fields)[:8]]
    more = ", …" if len(fields) > 8 else ""
    return f"; the row has: {', '.join(names)}{more}" if names else "; the row is empty"


def _fields(data: bytes | dict[str, str] | Problem) -> dict[str, Any]:
    """The record's fields. Raises `RowError` for anything but a JSON object in valid UTF-8."""
    if isinstance(data, dict):
        return data
    if isinstance(data, str):
        raise RowError(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as bad:
            raise RowError(
                f"not valid UTF-8 (byte {bad.start + 1}): convert the file to UTF-8"
            ) from None
        raise RowError(f"not valid JSON: {error.msg} (column {error.pos + 1})") from None
    if type(value) is not dict:
        raise RowError('not a JSON object: a row is {"prompt": …} or {"messages": […]}')
    return value


def _typed_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """A CSV record with the settings among its columns as what they stand for.

    An empty cell says nothing; columns that only mean something in JSON are the user's own.
    """
    fields: dict[str, Any] = {k: v for k, v in cells.items() if k == "prompt" or k not in _ASKED}
    for name in _SETTINGS & fields.keys():
        if not fields[name].strip():
            del fields[name]
        elif name not in ("system", "model"):
            try:
                fields[name] = orjson.loads(fields[name])
            except orjson.JSONDecodeError:
                raise RowError(f"the cell of column `{name}` is not valid JSON") from None
    return fields


def _reject_typos(fields: Mapping[str, Any], id_field: str | None) -> None:
    """Raise `RowError` for a field that looks like a known one misspelt, or like a parameter.

    Other unknown fields are the user's own columns and are left alone.
    """
    unknown = fields.keys() - KEYS
    if not unknown:
        return
    # A row that asks something does not also misspell `messages`: `message` is a column then.
    known = KEYS if _ASKED.isdisjoint(fields) else KEYS - _ASKED
    for name in unknown:
        if name == id_field:
            continue
        if name in _PARAMETERS:
            raise RowError(f"put `{name}` inside `options`: a row has no such field itself")
        near = _nearest(name, known)
        if near:
            raise RowError(f"unknown field `{name}`: did you mean `{near}`?")


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


def _settings(fields: Mapping[str, Any]) -> RowSettings:
    try:
        settings = msgspec.convert(fields, RowSettings)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        raise RowError(f"{path.replace('$.', '')}: {what[0].lower()}{what[1:]}") from None
    if settings.model is not None and settings.model.isspace():
        raise RowError("`model` is empty")
    return settings


def _options(options: dict[str, Any] | None) -> dict[str, Any]:
    if not options:
        return {}
    if options.get("stream"):
        raise RowError("`stream` in `options`: the answers of a batch are whole; remove it")
    for name in ("model", "messages"):
        if name in options:
            raise RowError(f"`{name}` belongs on the row itself, not in `options`")
    return options


def _schema(value: JSON) -> JSON:
    from llmctl import schemas

    try:
        return schemas.check(value)
    except ValueError as error:
        raise RowError(f"`schema`: {error}") from error


def _with_system(system: str | None, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    return (Message("system", system), *turns) if system else turns


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
    return tuple(_message(turn, f"message {number}") for number, turn in enumerate(value, 1))


def _message(turn: Any, where: str) -> Message:
    if type(turn) is not dict:
        raise RowError(f"{where} is not an object with `role` and `content`")
    role, content = turn.get("role"), turn.get("content")
    if type(role) is not str or not role.strip():
        raise RowError(f"{where} has no `role`")
    extra = {k: v for k, v in turn.items() if k not in ("role", "content")}
    if content is None:
        if not (turn.get("tool_calls") or turn.get("function_call")):
            raise RowError(f"{where} has no `content`")
        return Message(role, None, extra)
    if type(content) is str:
        return Message(role, content, extra)
    if type(content) is not list or not content:
        raise RowError(f"the `content` of {where} is neither text nor a list of parts")
    for part in content:
        if type(part) is not dict or type(part.get("type")) is not str:
            raise RowError(f"a part of {where} is not an object with a `type`")
        if part["type"] == "text" and type(part.get("text")) is not str:
            raise RowError(f"a text part of {where} has no `text`")
    return Message(role, tuple(content), extra)


URLS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/v1/embeddings": ("input",),
    "/v1/responses": ("input", "prompt"),
}
"""The endpoints an OpenAI batch line may name, and the fields of its body that ask something."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def _openai_question(fields: Mapping[str, Any]) -> Question:
    """The question of an OpenAI batch line: its body passed through, its texts for counting.

    Reference: platform.openai.com/docs/guides/batch. Raises `RowError`.
    """
    body, url = fields["body"], fields.get("url")
    if type(body) is not dict:
        raise RowError("`body` must be an object")
    if fields.get("method", "POST") != "POST":
        raise RowError('`method` must be "POST"')
    if type(url) is not str or url not in URLS:
        raise RowError(f"`url` must be one of {', '.join(URLS)}")
    if body.get("stream"):
        raise RowError("`stream` in `body`: the answers of a batch are whole; remove it")
    if not any(body.get(name) for name in URLS[url]):
        raise RowError(f"no prompt: `body` has no `{URLS[url][0]}`")
    model = body.get("model")
    if "model" in body and (type(model) is not str or not model.strip()):
        raise RowError("`model` in `body` must be text")
    limit = next((body[name] for name in _LIMITS if type(body.get(name)) is int), None)
    return Question(
        messages=tuple(_openai_messages(body)),
        model=model,
        max_tokens=limit if limit is not None and limit > 0 else None,
        raw=RawRequest(url.removeprefix("/v1"), body),
    )


def _openai_messages(body: Mapping[str, Any]) -> Iterable[Message]:
    """The texts of a body as messages, wherever they are found; the rest is left out."""
    if type(body.get("instructions")) is str:
        yield Message("system", body["instructions"])
    for name in ("messages", "input", "prompt"):
        value = body.get(name)
        for item in value if type(value) is list else [value]:
            if type(item) is str:
                yield Message("user", item)
            elif type(item) is dict and name != "prompt":
                yield _openai_message(item)


def _openai_message(item: Mapping[str, Any]) -> Message:
    role, content = item.get("role"), item.get("content", item.get("output"))
    extra = {k: v for k, v in item.items() if k not in ("role", "content", "output")}
    kept: str | tuple[Mapping[str, Any], ...] | None = None
    if type(content) is str:
        kept = content
    elif type(content) is list:
        kept = tuple(part for part in content if type(part) is dict)
    return Message(role if type(role) is str else "user", kept, extra)
