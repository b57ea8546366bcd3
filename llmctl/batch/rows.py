"""A record becomes a row: its id and its question, or a sentence about what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import orjson
from msgspec import Struct

from llmctl.batch.lines import Problem
from llmctl.batch.openai_lines import raw_question
from llmctl.batch.questions import RowError, known_keys, question, reject_typos, typed_cells
from llmctl.batch.read import Record, Source
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.request import Question, fingerprint
from llmctl.types import JSON, Message

Render = Callable[[Mapping[str, Any]], str]
"""Renders a prompt from a record's fields; raises `RowError`."""


class Row(Struct, frozen=True):
    """One input row. `index` is 0-based and counts no blank lines; `line` is where it begins."""

    index: int
    line: int
    id: str
    question: Question


class Reader:
    """What the command line says about rows: template, id column, default system prompt and
    schema (which OpenAI batch lines do without: they go out as they are)."""

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
        self._first = (Message("system", self._system),) if self._system else ()
        self._simple = template is None and id_field is None
        try:
            orjson.dumps(system)
        except TypeError as error:
            raise InputError("--system is not valid Unicode text") from error

    def parse(self, index: int, record: Record) -> Row:
        """The row. Raises `RowError` with what is wrong."""
        line, data = record
        fields = _fields(data)
        plain = self._plain(fields)
        if plain is not None:
            name, prompt = plain
            turns = (*self._first, Message("user", prompt))
            return Row(index, line, name, Question(turns, schema=self._schema))
        return Row(index, line, self._id(fields, line), self._question(fields, type(data) is dict))

    def identify(self, record: Record, profile: Profile) -> tuple[str, bytes]:
        """The row's id and the fingerprint of its question; `RowError` as by `parse`."""
        row = self.parse(0, record)
        try:
            return row.id, bytes.fromhex(fingerprint(row.question, profile))
        except TypeError as error:
            # orjson reads 1024 levels and writes 254: what cannot be written cannot be sent.
            raise RowError("the JSON is nested too deeply to be sent (254 levels)") from error

    def _plain(self, fields: Mapping[str, Any]) -> tuple[str, str] | None:
        """Id and prompt of a row that is only these; None for all others."""
        if self._simple and len(fields) == 2:
            name, prompt = fields.get("id"), fields.get("prompt")
            if type(name) is str and type(prompt) is str and name:
                return (name, prompt) if prompt and not prompt.isspace() else None
        return None

    def id_of(self, record: Record) -> str:
        """The row's id alone. Raises `RowError`."""
        return self._id(_fields(record[1]), record[0])

    def rows(self, source: Source, skip: Container[int] = ()) -> Iterator[Row]:
        """All rows whose index is not in `skip`, for a source that has been validated.

        Raises `InputError` when a record is not what it was then.
        """
        for index, record in enumerate(source.records()):
            if index not in skip:
                try:
                    yield self.parse(index, record)
                except RowError as error:
                    raise InputError(f"{source.name}:{record[0]}: {error}") from error

    def _id(self, fields: Mapping[str, Any], line: int) -> str:
        name = self._id_field
        if name is None:
            name = "custom_id" if "id" not in fields else "id"
            if name not in fields:
                return str(line)
        elif name not in fields:
            raise RowError(f"there is no field {name!r} (--id-field) here{known_keys(fields)}")
        value = fields[name]
        if type(value) is int:
            return str(value)
        if type(value) is not str:
            raise RowError(f"`{name}` must be text or a whole number")
        if not value:
            raise RowError(f"`{name}` is empty")
        return value

    def _question(self, fields: dict[str, Any], cells: bool) -> Question:  # noqa: FBT001
        if self._template is not None:
            prompt = self._template(fields)
            if not prompt or prompt.isspace():
                raise RowError("the template gives an empty prompt")
            user = Message("user", prompt)
            return Question((*self._first, user), schema=self._schema)
        if cells:
            if "prompt" not in fields:
                # The same for every record: not worth a message each.
                raise InputError(
                    "a CSV file needs a `prompt` column or --template"
                    + known_keys(fields).replace("row", "file")
                )
            fields = typed_cells(fields)
        reject_typos(fields, self._id_field)
        if "body" in fields and "prompt" not in fields and "messages" not in fields:
            return raw_question(fields)
        return question(fields, self._system, self._schema)


def _fields(data: bytes | dict[str, str] | Problem) -> dict[str, Any]:
    """The record's fields. Raises `RowError` for anything but a JSON object in valid UTF-8."""
    if isinstance(data, dict):
        return data
    if isinstance(data, str):
        raise RowError(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RowError(_why(data, error)) from None
    if type(value) is not dict:
        raise RowError('not a JSON object: a row is {"prompt": …} or {"messages": […]}')
    return value


def _why(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as bad:
        return f"not valid UTF-8 (byte {bad.start + 1}): convert the file to UTF-8"
    return f"not valid JSON: {error.msg} (column {error.pos + 1})"
