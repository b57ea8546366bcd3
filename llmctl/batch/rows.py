"""Rows of a batch: a record becomes an id and a question, or a sentence about what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Struct
from msgspec.structs import replace

from llmctl.batch.input import Problem, Record
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.request import Question, compose
from llmctl.types import JSON, CacheMode, Message, RawRequest, Request

Render = Callable[[Mapping[str, Any]], str]
"""Renders a prompt from a record's fields; raises `RowError`."""


class RowError(ValueError):
    """What is wrong with one row: a sentence without the file's name and line."""


class _Part(Struct):
    type: str
    text: Any = None


class _Turn(Struct):
    role: Annotated[str, Meta(min_length=1)]
    content: str | Annotated[list[_Part], Meta(min_length=1)] | None = None
    tool_calls: Any = None
    function_call: Any = None


class RowFields(Struct, frozen=True):
    """The fields of a row with a question of its own. None: the command line's or the profile's."""

    prompt: str | None = None
    messages: Annotated[list[_Turn], Meta(min_length=1)] | None = None
    system: str | None = None
    model: Annotated[str, Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)] | None = None
    schema: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    tags: dict[str, str | int | float | bool] | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None


_ASKED = frozenset({"prompt", "messages", "method", "url", "body"})
_SETTINGS = frozenset(RowFields.__struct_fields__) - _ASKED
KEYS = _SETTINGS | _ASKED | {"id", "custom_id"}
"""The fields that mean something in a row; others are the user's own columns."""

_PARAMETERS = re.compile(
    "top_[pk]|(frequency|presence)_penalty|response_format|tools|tool_choice|parallel_tool_calls"
    "|reasoning_effort|logit_bias|(top_)?logprobs|max_(completion|output)_tokens"
)
"""Providers' own parameters, which someone who puts them on a row expects to be sent."""

_SYSTEM = frozenset({"system", "developer"})
_STREAMED = "`stream` in `{}`: the answers of a batch are whole; remove it"


class Row(Struct, frozen=True):
    """One input row; `fields` is all of it. Rows of a higher `priority` are sent first."""

    id: str
    question: Question
    fields: Mapping[str, Any]
    priority: int = 0


class RowReader:
    """Reads rows as the command line says: template, id column, and what a row that says nothing
    else asks with: system prompt, schema, limit, temperature, `options` of the provider.

    OpenAI batch lines do without the latter: they go out as they are.
    """

    def __init__(
        self,
        *,
        template: Render | None = None,
        id_field: str | None = None,
        system: str | None = None,
        schema: JSON | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: JSON | None = None,
        keep: Collection[str] | None = (),
        fixed_tags: Collection[str] = (),
        mask: Callable[[Request], Request] | None = None,
        parts: bool = False,
    ) -> None:
        """`keep` are the fields that the output row repeats (None: all), `fixed_tags` the tags of
        the profile that a row does not replace, `mask` masks requests; with `parts` they tell a
        template's fields, for a semantic cache. Raises `InputError` when `system` is no valid
        Unicode text."""
        self._template = template
        self._id_field = id_field
        self._system = system or None
        self._schema = schema
        self._max_tokens, self._temperature = max_tokens, temperature
        self._options = options or {}
        self._keep = keep
        self._fixed_tags = frozenset(fixed_tags)
        self._mask, self._parts = mask, parts
        self.missing = set(keep or ())  # of the fields to keep, those that no row had so far
        try:
            orjson.dumps(system)
        except TypeError as error:
            raise InputError("--system is not valid Unicode text") from error

    @property
    def knows_fields(self) -> bool:
        """Whether a template makes the prompts, of fields that are known."""
        return self._template is not None

    def request(
        self,
        record: Record,
        profile: Profile,
        index: int = 0,
        cache_mode: CacheMode = "use",
        call_id: str = "",
    ) -> Request:
        """The request of the row at the 0-based `index`. Raises `RowError`."""
        return self.read(record, profile, index, cache_mode, call_id)[1]

    def read(
        self,
        record: Record,
        profile: Profile,
        index: int = 0,
        cache_mode: CacheMode = "use",
        call_id: str = "",
    ) -> tuple[Row, Request]:
        """The row at the 0-based `index`, and its request. Raises `RowError`."""
        row = self.parse(record)
        question = row.question
        if fixed := self._fixed_tags & question.tags.keys() & profile.tags.keys():
            tags = {name: tag for name, tag in question.tags.items() if name not in fixed}
            question = replace(question, tags=tags)
        try:
            made = compose(
                question,
                profile,
                id=row.id,
                index=index,
                cache_mode=cache_mode,
                call_id=call_id,
            )
            if self._template is not None and self._parts:
                made = replace(made, parts=_parts(made.messages[-1].text, row.fields))
            made = made if self._mask is None else self._mask(made)
            return row, made if self._keep == () else replace(made, kept=self._kept(row.fields))
        except TypeError as error:
            # orjson reads 1024 levels and writes 254: what cannot be written cannot be sent.
            raise RowError("the JSON is nested too deeply to be sent (254 levels)") from error

    def _kept(self, fields: Mapping[str, Any]) -> JSON:
        """Those of the fields that the output row repeats. Raises `TypeError` for JSON that is
        nested too deeply."""
        names = fields.keys() if self._keep is None else self._keep
        kept = {name: fields[name] for name in names if name in fields}
        self.missing -= kept.keys()
        orjson.dumps(kept)
        return kept

    def parse(self, record: Record) -> Row:
        """The row. Raises `RowError` with what is wrong."""
        line, data = record
        fields = data if isinstance(data, dict) else _fields(data)
        name = self._id_field or ("id" if "id" in fields else "custom_id")
        own_id = fields.get(name, line)
        if type(own_id) is not str or not own_id:
            own_id = self._other_id(name, own_id, fields)
        if self._template is not None:
            prompt = self._template(fields)
            _check(prompt.strip(), "the template gives an empty prompt")
            return Row(own_id, self._asking(_turns(self._system, prompt), RowFields()), fields)
        given = fields
        if fields is data:
            if "prompt" not in fields:
                # The same for every record: not worth a message each.
                columns = field_names(fields).replace("row", "file")
                raise InputError(f"a CSV file needs a `prompt` column or --template{columns}")
            fields = _typed_cells(fields)
        if not KEYS.issuperset(fields):
            _reject_typos(fields, self._id_field)
        if "body" in fields and "prompt" not in fields and "messages" not in fields:
            return Row(own_id, _openai_question(fields), given)
        own = _typed(fields)
        return Row(own_id, self._question(fields, own), given, own.priority or 0)

    def _other_id(self, name: str, id: object, fields: Mapping[str, Any]) -> str:
        """The id of a row where it is no text, or missing: then `id` is the line's number."""
        if name not in fields and self._id_field:
            raise RowError(f"there is no field {name!r} (--id-field) here{field_names(fields)}")
        _check(id != "", f"`{name}` is empty")
        _check(type(id) is int, f"`{name}` must be text or a whole number")
        return str(id)

    def _question(self, fields: dict[str, Any], own: RowFields) -> Question:
        """The question of a row with `prompt` or `messages`."""
        system = self._system if own.system is None else own.system
        if own.messages is not None:
            _check(own.prompt is None, "both `prompt` and `messages`: a row has one of them")
            turns = tuple(_messages(own.messages, fields["messages"]))
            if system and (own.system or not any(turn.role in _SYSTEM for turn in turns)):
                turns = (Message("system", system), *turns)
        elif own.prompt is not None:
            _check(own.prompt and not own.prompt.isspace(), "the prompt is empty")
            turns = _turns(system, own.prompt)
        else:
            raise RowError(
                "no prompt: a row needs `prompt`, `messages` or an OpenAI `body` "
                f"(or use --template){field_names(fields)}"
            )
        return self._asking(turns, own)

    def _asking(self, turns: tuple[Message, ...], own: RowFields) -> Question:
        """The question of these turns; what the row does not say the command line does."""
        return Question(
            messages=turns,
            model=own.model,
            max_tokens=self._max_tokens if own.max_tokens is None else own.max_tokens,
            temperature=self._temperature if own.temperature is None else own.temperature,
            options={**self._options, **(own.options or {})},
            tags={
                name: tag if isinstance(tag, str) else orjson.dumps(tag).decode()
                for name, tag in (own.tags or {}).items()
            },
            schema=self._schema if own.schema is None else own.schema,
        )


def _parts(prompt: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that a template has put into the prompt as they are, each as its text."""
    texts = (str(value) for value in fields.values() if isinstance(value, str | int | float))
    return tuple(text for text in texts if text.strip() and text in prompt)


def _check(good: object, why: str) -> None:
    if not good:
        raise RowError(why)


def _turns(system: str | None, prompt: str) -> tuple[Message, ...]:
    asked = Message("user", prompt)
    return (Message("system", system), asked) if system else (asked,)


def field_names(fields: Mapping[str, Any]) -> str:
    """`; the row has: a, b, c`, for a message about what it has not."""
    names = [name if len(name) <= 40 else name[:40] + "…" for name in list(fields)[:8]]
    more = ", …" if len(fields) > 8 else ""
    return f"; the row has: {', '.join(names)}{more}" if names else "; the row is empty"


def _fields(data: bytes | Problem) -> dict[str, Any]:
    """The line's fields. Raises `RowError` for anything but a JSON object in valid UTF-8."""
    if isinstance(data, str):
        raise RowError(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as bad:
            at = f"byte {bad.start + 1}"
            raise RowError(f"not valid UTF-8 ({at}): convert the file to UTF-8") from None
        raise RowError(f"not valid JSON: {error.msg} (column {error.pos + 1})") from None
    if not isinstance(value, dict):
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
        elif name not in {"system", "model"}:
            try:
                fields[name] = orjson.loads(fields[name])
            except orjson.JSONDecodeError:
                raise RowError(f"the cell of column `{name}` is not valid JSON") from None
    return fields


def _reject_typos(fields: Mapping[str, Any], id_field: str | None) -> None:
    """Raise `RowError` for a field that looks like a known one misspelt, or like a parameter.

    Other unknown fields are the user's own columns and are left alone.
    """
    # A row that asks something does not also misspell `messages`: `message` is a column then.
    known = KEYS if _ASKED.isdisjoint(fields) else KEYS - _ASKED
    for name in fields.keys() - KEYS - {id_field}:
        if _PARAMETERS.fullmatch(name):
            raise RowError(f"put `{name}` inside `options`: a row has no such field itself")
        if near := _nearest(name, known):
            raise RowError(f"unknown field `{name}`: did you mean `{near}`?")


@lru_cache(maxsize=1 << 17)  # the columns of a very wide table, too
def _nearest(name: str, known: frozenset[str]) -> str | None:
    # 0.88: `tag` and `idx` are columns, `max_token` and `promt` are not.
    near = difflib.get_close_matches(name.strip().casefold(), sorted(known), n=1, cutoff=0.88)
    return near[0] if near else None


def _typed(fields: dict[str, Any]) -> RowFields:
    """The fields as their types. Raises `RowError` that names the one that is wrong."""
    try:
        own = msgspec.convert(fields, RowFields)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        if path == "`$.priority`":
            what = f"a whole number from -100 to 100, not {str(fields['priority'])[:20]!r}"
        raise RowError(f"{path.replace('$.', '')}: {what[0].lower()}{what[1:]}") from None
    if own.options:
        _check(not own.options.get("stream"), _STREAMED.format("options"))
        for name in {"model", "messages"} & own.options.keys():
            raise RowError(f"`{name}` belongs on the row itself, not in `options`")
    if own.schema is not None:
        from llmctl import schemas

        try:
            schemas.check(own.schema)
        except ValueError as error:
            raise RowError(f"`schema`: {error}") from error
    return own


def _messages(turns: list[_Turn], given: list[dict[str, Any]]) -> Iterable[Message]:
    for number, (turn, fields) in enumerate(zip(turns, given, strict=True)):
        content = turn.content
        if content is None:
            called = turn.tool_calls or turn.function_call
            _check(called, f"`messages[{number}]` has no `content`")
        elif not isinstance(content, str):
            said = all(part.type != "text" or isinstance(part.text, str) for part in content)
            _check(said, f"a text part of `messages[{number}]` has no `text`")
        extra = {k: v for k, v in fields.items() if k not in {"role", "content"}}
        kept = content if isinstance(content, str | None) else tuple(fields["content"])
        yield Message(turn.role, kept, extra)


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
    _check(type(body) is dict, "`body` must be an object")
    _check(fields.get("method", "POST") == "POST", '`method` must be "POST"')
    _check(type(url) is str and url in URLS, f"`url` must be one of {', '.join(URLS)}")
    assert isinstance(url, str)
    _check(not body.get("stream"), _STREAMED.format("body"))
    asked = any(body.get(name) for name in URLS[url])
    _check(asked, f"no prompt: `body` has no `{URLS[url][0]}`")
    model = body.get("model")
    named = "model" not in body or (type(model) is str and model.strip())
    _check(named, "`model` in `body` must be text")
    limit = next((body[name] for name in _LIMITS if type(body.get(name)) is int), 0)
    return Question(
        messages=tuple(_openai_messages(body)),
        model=model,
        max_tokens=limit if limit > 0 else None,
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
                role, content = item.get("role"), item.get("content", item.get("output"))
                extra = {k: v for k, v in item.items() if k not in {"role", "content", "output"}}
                if type(content) is list:
                    content = tuple(part for part in content if type(part) is dict)
                elif type(content) is not str:
                    content = None
                yield Message(role if type(role) is str else "user", content, extra)
