"""OpenAI-shaped messages, tools and bodies, read for providers that speak another language. Pure.

Reference: platform.openai.com/docs/api-reference/chat/create. `types.Message` names the shapes of
parts.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes, urlsplit

import orjson
from msgspec import Meta, Struct, ValidationError, convert, field
from msgspec.structs import replace

from llmctl.errors import InvalidRequest
from llmctl.providers.replies import required_text
from llmctl.types import JSON, Message, Request

_SHAPE_ERRORS = (KeyError, TypeError, AttributeError, ValueError)


def refusal(what: str, request: Request, why: str = "") -> InvalidRequest:
    """The error for something that this provider does not take."""
    reason = f": {why}" if why else ""
    return InvalidRequest(f"{request.target.provider} does not take {what}{reason}", sent=False)


# --- Parts of a message -------------------------------------------------------------------------


class Text(Struct, frozen=True):
    """A text part; `extra` holds its other fields (`cache_control`, say)."""

    text: str
    extra: JSON = field(default_factory=dict)


class Media(Struct, frozen=True):
    """An image, sound or document: `data` (base64), an https `url`, or the provider's `file_id`.
    `mime` is in lower case, and guessed from the name where nothing else says it. `image` says
    that it came as an `image_url`, whatever its type."""

    mime: str | None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    image: bool = False
    extra: JSON = field(default_factory=dict)

    @property
    def plain(self) -> str:
        """The data as text. Raises `InvalidRequest` where it is none."""
        try:
            return base64.b64decode(self.data or "", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            why = f"the attached {self.mime} is no UTF-8 text"
            raise InvalidRequest(why, sent=False) from error


class Native(Struct, frozen=True):
    """A part that is none of OpenAI's; a codec lets its provider's own through."""

    part: JSON

    @property
    def kind(self) -> str:
        """The part's `type`."""
        return str(self.part.get("type", ""))


Part = Text | Media | Native


def parts(message: Message, request: Request) -> Iterator[Part]:
    """The parts of the content; empty texts are left out (providers refuse them). Raises
    `InvalidRequest` for parts that are not what their type says."""
    content = message.content
    for part in ({"type": "text", "text": content},) if isinstance(content, str) else content or ():
        try:
            found = _read(part)
        except _SHAPE_ERRORS as error:
            what = f"this `{part.get('type')}` part"
            raise refusal(what, request, "it is not well-formed") from error
        if not isinstance(found, Text) or found.text:
            yield found


def text_only(message: Message, request: Request, where: str) -> str:
    """The content of a turn of which only text is taken, as one text."""
    found = list(parts(message, request))
    if not all(isinstance(part, Text) for part in found):
        raise refusal(f"anything but text in {where}", request)
    return "".join(part.text for part in found if isinstance(part, Text))


def _read(part: JSON) -> Part:
    kind = part.get("type")
    found: Any = part.get(str(kind))
    extra = {key: value for key, value in part.items() if key not in ("type", kind)}
    if kind == "text":
        return Text(required_text(found), extra)
    if kind == "image_url":
        url = found if isinstance(found, str) else found["url"]
        if isinstance(found, Mapping) and isinstance(found.get("detail"), str):
            extra["detail"] = found["detail"]
        return _located(url, None, extra, image=True)
    if kind == "input_audio":
        form = str(found.get("format") or "wav").lower()
        return Media(f"audio/{form}", data=_base64(found["data"]), extra=extra)
    if kind != "file":
        return Native(part)
    name = found.get("filename")
    if found.get("file_id"):
        return Media(_guessed_mime(name), file_id=str(found["file_id"]), extra=extra)
    return _located(found.get("file_data") or found["file_url"], name, extra, image=False)


def _located(url: str, name: str | None, extra: JSON, *, image: bool) -> Media:
    if url[:5].lower() == "data:":
        head, comma, payload = url[5:].partition(",")
        if not comma:
            raise ValueError("a data URL has a comma")
        kind, *settings = (setting.strip().lower() for setting in head.split(";"))
        mime = kind or _guessed_mime(name) or "text/plain"
        plain = "base64" not in settings
        data = base64.b64encode(unquote_to_bytes(payload)).decode() if plain else _base64(payload)
        return Media(mime, data=data, image=image, extra=extra)
    if "://" not in url[:16]:
        # Some clients give a file's bare base64 where a data URL belongs.
        return Media(_guessed_mime(name), data=_base64(url), image=image, extra=extra)
    mime_type = _guessed_mime(urlsplit(url).path) or _guessed_mime(name)
    return Media(mime_type, url=url, image=image, extra=extra)


def _base64(data: str) -> str:
    """Base64 without white space. Raises `ValueError` for anything else."""
    joined = "".join(data.split())
    base64.b64decode(joined, validate=True)
    return joined


def _guessed_mime(name: str | None) -> str | None:
    return mimetypes.guess_type(name)[0] if name else None


# --- Turns, tool calls and tools ----------------------------------------------------------------

_ROLES = ("system", "user", "assistant", "tool")
_READ = frozenset({"tool_calls", "tool_call_id"})
_NOT_SENT_BACK = frozenset({"refusal", "annotations", "reasoning", "reasoning_content"})
"""Fields of an answer that say nothing to the model when the answer is sent back as history."""


Choice = tuple[str, str | None]
"""A `tool_choice`: `auto`, `none`, `required` or `named`, and the name."""


class ToolCall(Struct, frozen=True):
    """A call the model made earlier. `signature` is Gemini's, as its own OpenAI-compatible
    interface hands it out."""

    id: str
    name: str
    arguments: JSON
    signature: str | None = None


def turns(request: Request) -> Iterator[Message]:
    """The turns, with `developer` called `system`; every role one of system, user, assistant,
    tool. Raises `InvalidRequest` for other roles and for fields that have no counterpart."""
    for message in request.messages:
        role = "system" if message.role == "developer" else message.role
        if role not in _ROLES:
            raise refusal(f"messages of the role `{role}`", request)
        for name, value in message.extra.items():
            tool_name = name == "name" and role == "tool"
            if value and name not in _READ and name not in _NOT_SENT_BACK and not tool_name:
                raise refusal(f"the field `{name}` of a message", request)
        content = message.content
        if content is None and isinstance(message.extra.get("refusal"), str):
            content = message.extra["refusal"]
        yield Message(role, content, message.extra)


def call_id(message: Message) -> str:
    """The id of the call that a tool's turn answers; empty where none is named."""
    return str(message.extra.get("tool_call_id") or "")


def tool_calls(message: Message, request: Request) -> list[ToolCall]:
    """The calls of an assistant's turn; arguments are read from their JSON text."""
    listed = message.extra.get("tool_calls") if message.role == "assistant" else None
    found: list[ToolCall] = []
    try:
        for call in listed or ():
            function, given = call["function"], call["function"].get("arguments") or "{}"
            arguments = dict(orjson.loads(given) if isinstance(given, str) else given)
            google = (call.get("extra_content") or {}).get("google") or {}
            name, signature = str(function["name"]), google.get("thought_signature")
            found.append(ToolCall(str(call.get("id") or ""), name, arguments, signature))
    except _SHAPE_ERRORS as error:
        raise refusal("this `tool_calls`", request, "it is not well-formed") from error
    return found


# --- The body of a chat completion --------------------------------------------------------------

_CHAT = "/chat/completions"

_DEFAULTS: JSON = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "store": False,
}
"""Values that only say what holds without them."""


class _Turn(Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Function(Struct):
    name: str


class _Tool(Struct):
    function: _Function


class _Schema(Struct):
    schema: dict[str, Any]


class _SchemaFormat(Struct, tag="json_schema"):
    json_schema: _Schema


class _TextFormat(Struct, tag="text"):
    pass


class _Body(Struct):
    """The fields that codecs read; the others become options."""

    messages: Annotated[list[_Turn], Meta(min_length=1)]
    model: Any = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: _SchemaFormat | _TextFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Tool | None = None


def from_chat(
    request: Request, options: Mapping[str, str]
) -> tuple[Request, list[JSON], Choice | None]:
    """The raw request with its body taken apart, the functions among its tools, and its choice.

    `options` maps OpenAI's names to the provider's: {"top_p": "topP", "stop": "stopSequences"};
    `stop` always arrives as a list. Raises `InvalidRequest` (`sent=False`) that names the field
    which has no translation.
    """
    raw = request.raw
    assert raw is not None
    if raw.path.rstrip("/") != _CHAT:
        why = f"`/v1{raw.path}` is not translated, only `/v1{_CHAT}`"
        raise _untranslated("url", why, request)
    try:
        body = convert(raw.body, _Body)
    except ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise _untranslated(re.split(r"\W", where)[0] or "body", what, request) from error
    found: dict[str, Any] = {}
    for name, value in raw.body.items():
        if name in _Body.__struct_fields__ or value is None or value == _DEFAULTS.get(name, ...):
            continue
        if name not in options:
            raise _untranslated(name, "it has no counterpart", request)
        found[options[name]] = [value] if name == "stop" and isinstance(value, str) else value
    messages = []
    for turn, given in zip(body.messages, raw.body["messages"], strict=True):
        content = tuple(turn.content) if isinstance(turn.content, list) else turn.content
        known = ("role", "content")
        extra = {k: v for k, v in given.items() if k not in known and v is not None}
        messages.append(Message(turn.role, content, extra))
    limits = (body.max_completion_tokens, body.max_tokens)
    form, choice = body.response_format, body.tool_choice
    plain = replace(
        request,
        messages=tuple(messages),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        temperature=raw.body.get("temperature"),
        options=found,
        schema=form.json_schema.schema if isinstance(form, _SchemaFormat) else None,
        raw=None,
    )
    functions = [tool["function"] for tool in raw.body.get("tools") or ()]
    if isinstance(choice, _Tool):
        return plain, functions, ("named", choice.function.name)
    return plain, functions, None if choice is None else (choice, None)


def _untranslated(name: str, why: str, request: Request) -> InvalidRequest:
    where = request.target.provider
    return InvalidRequest(f"`{name}` cannot be translated for {where}: {why}", sent=False)
