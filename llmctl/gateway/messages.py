"""Anthropic's Messages API, as callers speak it. Pure.

Reference: platform.claude.com/docs/en/api/messages, …/api/messages-count-tokens,
…/api/models-list, …/api/errors, …/api/migration-2026-10-21,
…/docs/en/build-with-claude/streaming, …/docs/en/agents-and-tools/tool-use/overview.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import orjson
from msgspec import Meta, Struct, ValidationError, convert

from llmctl.errors import InvalidRequest
from llmctl.gateway.dialect import Asked, Failure, event
from llmctl.providers.anthropic import MESSAGES, VERSION, WITHOUT_SAMPLING
from llmctl.providers.openai_chat import json_schema_format
from llmctl.types import JSON, Answer, Finish, ModelInfo, StreamChunk, Usage

T = TypeVar("T")

_PASSED_ON = ("anthropic-version", "anthropic-beta")

_STOP: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "other": "end_turn",
}

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The `error.type` of a status; of the others it is `invalid_request_error` or `api_error`."""


class Messages:
    """The dialect; see `dialect.Dialect`."""

    path = MESSAGES

    def read(self, body: JSON, headers: Mapping[str, str]) -> Asked:
        """The body of a message. A version that is not named is the provider's default."""
        found = _read(body, _Message)
        kept = {name: value for name, value in body.items() if name != "stream"}
        return Asked(kept, found.model, found.stream, headers=_passed_on(headers))

    def as_chat(self, asked: Asked) -> JSON:
        """The same question as a chat completion.

        What changes no answer is left out: `cache_control`, `service_tier`, `metadata` (an id that
        was meant for Anthropic), and thoughts of earlier turns, which only their model can read.
        """
        _refuse_server_tools(asked.body)
        said = {name: value for name, value in asked.body.items() if value is not None}
        question = _read(said, _Question)
        version = asked.headers.get("anthropic-version", VERSION)
        for name in ("temperature", "top_p"):
            if version >= WITHOUT_SAMPLING and name in said:
                raise InvalidRequest(
                    f"`{name}` is not part of anthropic-version {version}: leave it out, or send "
                    f"anthropic-version {VERSION}",
                    sent=False,
                )
        choice, form = question.tool_choice, question.output_config
        made = {
            "model": question.model,
            "messages": list(_turns(question)),
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "stop": question.stop_sequences or None,
            "tools": [_function(tool) for tool in question.tools] or None,
            "tool_choice": choice and choice.as_chat,
            "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
            "response_format": form and form.as_chat,
        }
        return {name: value for name, value in made.items() if value is not None}

    def answer(self, asked: Asked, answer: Answer, id: str) -> bytes:  # noqa: ARG002 - the seam's
        """A message."""
        message = _message(id, answer.model)
        message["content"] = _blocks(answer, id)
        message["stop_reason"] = _stop_reason(answer)
        message["usage"] = _usage(answer.usage)
        return orjson.dumps(message)

    def writer(self, asked: Asked, id: str) -> MessageWriter:
        """A writer of one streamed message."""
        return MessageWriter(asked.model, id)

    def failure(self, failure: Failure) -> bytes:
        """An error object; its type is that of the status."""
        return orjson.dumps(_error(failure))


class MessageWriter:
    """Writes one message as events; see `dialect.StreamWriter`. `model` is told where the first
    piece does not say which one answers."""

    def __init__(self, model: str, id: str) -> None:
        self._model, self._id = model, id
        self._relayed: str | None = None
        self._begun = False
        self._told = 0  # characters of the text

    def piece(self, chunk: StreamChunk) -> bytes:
        """The provider's own event, or a delta of the text."""
        if chunk.data:
            self._relayed = chunk.event
            return event(chunk.data.encode(), chunk.event)
        return self._text(chunk.text, chunk.model) if chunk.text else b""

    def end(self, answer: Answer) -> bytes:
        """The rest of the text, the tool calls, and why it ended. Of relayed events only the end
        mark, where the provider left it out."""
        stop = _typed({"type": "message_stop"})
        if self._relayed is not None:
            return b"" if self._relayed == "message_stop" else stop
        rest = answer.text[self._told :]
        events = self._text(rest, answer.model) if rest else self._start(answer.model)
        calls = _tool_uses(answer, self._id)
        if self._told:
            events += _typed({"type": "content_block_stop", "index": 0})
        for index, block in enumerate(calls, start=1 if self._told else 0):
            events += _tool_events(index, block)
        delta = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
        usage = _usage(answer.usage)
        return events + _typed({"type": "message_delta", "delta": delta, "usage": usage}) + stop

    def error(self, failure: Failure) -> bytes:
        """An `error` event."""
        return _typed(_error(failure))

    def _text(self, text: str, model: str | None) -> bytes:
        events = self._start(model)
        if not self._told:
            events += _block_start(0, {"type": "text", "text": ""})
        self._told += len(text)
        return events + _block_delta(0, {"type": "text_delta", "text": text})

    def _start(self, model: str | None) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message = _message(self._id, model or self._model)
        return _typed({"type": "message_start", "message": message})


# --- Counting, and the list of models -----------------------------------------------------------


def read_count(body: JSON, headers: Mapping[str, str]) -> Asked:
    """The body of `/messages/count_tokens`: a message's, that needs no limit. Raises
    `InvalidRequest` that names the field."""
    return Asked(body, _read(body, _Counted).model, headers=_passed_on(headers))


def count_body(tokens: int) -> bytes:
    """The body of a count."""
    return orjson.dumps({"input_tokens": tokens})


def models_body(models: Sequence[ModelInfo]) -> bytes:
    """The list of models, on one page."""
    data = [_model(model) for model in models]
    first, last = (models[0].id, models[-1].id) if models else (None, None)
    return orjson.dumps({"data": data, "has_more": False, "first_id": first, "last_id": last})


def model_body(model: ModelInfo) -> bytes:
    """One model."""
    return orjson.dumps(_model(model))


def _model(model: ModelInfo) -> JSON:
    created = datetime.fromtimestamp(model.created or 0, UTC)  # the epoch: nobody knows
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.name or model.id,
        "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
        "max_input_tokens": model.context,
        "max_tokens": model.output,
    }


# --- What is read of a body ---------------------------------------------------------------------


class _Counted(Struct, frozen=True):
    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]


class _Message(_Counted, frozen=True, kw_only=True):
    max_tokens: int
    stream: bool = False


class _Given(Struct, frozen=True, forbid_unknown_fields=True):
    """An object of which every field is either said in a chat completion or changes no answer."""


class _Text(_Given, frozen=True, tag="text"):
    text: str
    cache_control: Any = None
    citations: Any = None  # of an earlier answer


class _Base64(_Given, frozen=True, tag="base64"):
    media_type: str
    data: str


class _Url(_Given, frozen=True, tag="url"):
    url: str


class _PlainText(_Given, frozen=True, tag="text"):
    data: str
    media_type: str = "text/plain"


class _Image(_Given, frozen=True, tag="image"):
    source: _Base64 | _Url
    cache_control: Any = None


class _Blocks(_Given, frozen=True, tag="content"):
    content: str | list[_Text | _Image]


class _Document(_Given, frozen=True, tag="document"):
    source: _Base64 | _Url | _PlainText | _Blocks
    title: str | None = None
    context: str | None = None
    cache_control: Any = None


class _ToolUse(_Given, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None  # of an earlier answer, as the next
    toolset_name: None = None
    cache_control: Any = None


class _ToolResult(_Given, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: str | list[_Text] = ""
    is_error: bool | None = False
    cache_control: Any = None


class _Thinking(Struct, frozen=True, tag="thinking"):
    pass


class _RedactedThinking(Struct, frozen=True, tag="redacted_thinking"):
    pass


class _User(_Given, frozen=True, tag_field="role", tag="user"):
    content: str | list[_Text | _Image | _Document | _ToolResult]


class _Assistant(_Given, frozen=True, tag_field="role", tag="assistant"):
    content: str | list[_Text | _ToolUse | _Thinking | _RedactedThinking]


class _System(_Given, frozen=True, tag_field="role", tag="system"):
    content: str | list[_Text]


class _Tool(_Given, frozen=True):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None
    cache_control: Any = None
    eager_input_streaming: Any = None  # how its calls are cut, which are told whole here


class _Choice(_Given, frozen=True):
    type: Literal["auto", "any", "none", "tool"]
    name: str = ""
    disable_parallel_tool_use: bool = False

    @property
    def as_chat(self) -> JSON | str:
        """OpenAI's `tool_choice`."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name}}
        return "required" if self.type == "any" else self.type


class _Format(_Given, frozen=True, tag="json_schema"):
    schema: dict[str, Any]


class _OutputConfig(_Given, frozen=True):
    format: _Format | None = None

    @property
    def as_chat(self) -> JSON | None:
        """OpenAI's `response_format`."""
        if self.format is None:
            return None
        return {"type": "json_schema", "json_schema": json_schema_format(self.format.schema)}


class _NoThinking(_Given, frozen=True, tag="disabled"):
    pass


class _Question(_Given, frozen=True):
    """A message that can be said as a chat completion; `max_tokens` is left out of a count."""

    model: str
    messages: list[_User | _Assistant | _System]
    max_tokens: int | None = None
    system: str | list[_Text] = ""
    tools: list[_Tool] = []
    tool_choice: _Choice | None = None
    stop_sequences: list[str] = []
    temperature: float | None = None
    top_p: float | None = None
    output_config: _OutputConfig | None = None
    thinking: _NoThinking | None = None
    metadata: Any = None
    cache_control: Any = None
    service_tier: Any = None


_NO_COUNTERPART = (
    "cannot be said to this profile's provider, which does not speak Anthropic's Messages API: "
    "leave it out, or ask a profile of Anthropic's"
)
_FIELD = re.compile(r"field `(.+)`")
_UNKNOWN = re.compile(r"(?:unknown field|Invalid(?: enum)? value) (.+)")


def _read(body: JSON, kind: type[T]) -> T:
    """The body as this struct. Raises `InvalidRequest` that names the field."""
    try:
        return convert(body, kind)
    except ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise _refusal(what, where.strip("`.")) from error


def _refusal(what: str, where: str) -> InvalidRequest:
    """The error for what msgspec says of a place (`messages[0].content[1].type`)."""
    field, unknown = _FIELD.search(what), _UNKNOWN.search(what)
    place = ".".join(filter(None, (where, field and field[1])))
    if unknown is None:
        return InvalidRequest(f"`{place or 'body'}`: {what}", sent=False)
    value = "" if field else f" {unknown[1]}"
    return InvalidRequest(f"`{place}`{value} {_NO_COUNTERPART}", sent=False)


def _refuse_server_tools(body: JSON) -> None:
    """Raises `InvalidRequest` for tools that Anthropic runs, by their type, whatever else they
    say."""
    tools = body.get("tools")
    for at, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind not in (None, "custom"):
            raise InvalidRequest(f"`tools[{at}].type` {kind!r} {_NO_COUNTERPART}", sent=False)


def _passed_on(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers that are Anthropic's. Raises `InvalidRequest` for one that HTTP cannot carry."""
    found = {name: headers[name] for name in _PASSED_ON if headers.get(name)}
    for name, value in found.items():
        if not (value.isascii() and value.isprintable()):
            raise InvalidRequest(f"the header {name} is not plain ASCII: mend it", sent=False)
    return found


# --- The question as a chat completion ----------------------------------------------------------


def _turns(question: _Question) -> Iterator[JSON]:
    if question.system:
        yield _told(question.system)
    for turn in question.messages:
        if isinstance(turn, _Assistant):
            yield _answered(turn)
        elif isinstance(turn, _System):
            yield _told(turn.content)
        else:
            yield from _asked(turn)


def _told(content: str | list[_Text]) -> JSON:
    return {"role": "system", "content": content if isinstance(content, str) else _parts(content)}


def _asked(turn: _User) -> Iterator[JSON]:
    """A user's turn: the results of tools, each a turn of its own right behind the calls, and the
    rest."""
    if isinstance(turn.content, str):
        yield {"role": "user", "content": turn.content}
        return
    results = [block for block in turn.content if isinstance(block, _ToolResult)]
    rest = [block for block in turn.content if not isinstance(block, _ToolResult)]
    for result in results:
        yield {"role": "tool", "tool_call_id": result.tool_use_id, "content": _result(result)}
    if rest or not results:
        yield {"role": "user", "content": _parts(rest)}


def _result(result: _ToolResult) -> str:
    """The text of a result. That a tool failed has no field there; agents live on failures, so
    that it is told in the text instead of refused."""
    held = result.content
    text = held if isinstance(held, str) else "\n".join(block.text for block in held)
    return f"Error: {text}" if result.is_error else text


def _answered(turn: _Assistant) -> JSON:
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    text = "".join(block.text for block in turn.content if isinstance(block, _Text))
    calls = [_call(block) for block in turn.content if isinstance(block, _ToolUse)]
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


def _call(block: _ToolUse) -> JSON:
    function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _parts(blocks: Sequence[_Text | _Image | _Document]) -> list[JSON]:
    return [part for block in blocks for part in _part(block)]


def _part(block: _Text | _Image | _Document) -> Iterator[JSON]:
    if isinstance(block, _Text):
        yield {"type": "text", "text": block.text}
    elif isinstance(block, _Image):
        yield {"type": "image_url", "image_url": {"url": _address(block.source)}}
    else:
        yield from _document(block)


def _document(block: _Document) -> Iterator[JSON]:
    """A document, behind what is said of it; one of text is text."""
    if about := "\n".join(filter(None, (block.title, block.context))):
        yield {"type": "text", "text": about}
    source = block.source
    if isinstance(source, _PlainText):
        yield {"type": "text", "text": source.data}
    elif isinstance(source, _Blocks):
        held = source.content
        yield from [{"type": "text", "text": held}] if isinstance(held, str) else _parts(held)
    elif isinstance(source, _Url):
        yield {"type": "file", "file": {"file_url": source.url}}
    else:
        file = {"filename": "document.pdf", "file_data": _address(source)}  # OpenAI wants a name
        yield {"type": "file", "file": file}


def _address(source: _Base64 | _Url) -> str:
    if isinstance(source, _Url):
        return source.url
    return f"data:{source.media_type};base64,{source.data}"


def _function(tool: _Tool) -> JSON:
    said = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {k: v for k, v in said.items() if v is not None}}


# --- The answer ---------------------------------------------------------------------------------


def _message(id: str, model: str) -> dict[str, Any]:
    """A message that has just begun."""
    return {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(Usage()),
    }


def _blocks(answer: Answer, id: str) -> list[JSON]:
    text = [{"type": "text", "text": answer.text}] if answer.text else []
    return [*text, *_tool_uses(answer, id)]


def _tool_uses(answer: Answer, id: str) -> list[JSON]:
    """The calls as blocks; one without an id is given one, for its result to name."""
    return [
        {
            "type": "tool_use",
            "id": call["id"] or f"toolu_{id}_{at}",
            "name": call["function"]["name"],
            "input": _input(call["function"]["arguments"]),
        }
        for at, call in enumerate(answer.tool_calls)
    ]


def _input(arguments: str) -> orjson.Fragment:
    """The arguments as the model wrote them. What is no JSON object (a call that a limit cut) is
    wrapped as Anthropic's documentation does it ("Fine-grained tool streaming")."""
    written = arguments or "{}"
    try:
        found = orjson.loads(written)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return orjson.Fragment(orjson.dumps({"INVALID_JSON": arguments}))
    return orjson.Fragment(written)


def _stop_reason(answer: Answer) -> str:
    calls = answer.tool_calls and answer.finish in ("stop", "other")
    return "tool_use" if calls else _STOP[answer.finish]


def _usage(usage: Usage) -> JSON:
    """Usage in Anthropic's convention: `input_tokens` leaves out what was cached."""
    apart = usage.cached_input + usage.cache_write
    found: dict[str, Any] = {
        "input_tokens": max(0, usage.input - apart),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return found


def _error(failure: Failure) -> JSON:
    other = "api_error" if failure.status >= 500 else "invalid_request_error"
    error = {"type": _TYPES.get(failure.status, other), "message": failure.message}
    return {"type": "error", "error": error}


# --- Events -------------------------------------------------------------------------------------


def _typed(said: JSON) -> bytes:
    return event(orjson.dumps(said), said["type"])


def _block_start(index: int, block: JSON) -> bytes:
    return _typed({"type": "content_block_start", "index": index, "content_block": block})


def _block_delta(index: int, delta: JSON) -> bytes:
    return _typed({"type": "content_block_delta", "index": index, "delta": delta})


def _tool_events(index: int, block: JSON) -> bytes:
    written = orjson.dumps(block["input"]).decode()
    return (
        _block_start(index, {**block, "input": {}})
        + _block_delta(index, {"type": "input_json_delta", "partial_json": written})
        + _typed({"type": "content_block_stop", "index": index})
    )
