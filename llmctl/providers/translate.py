"""An OpenAI chat completion's body becomes a plain request, for providers that speak another
language. Pure.

Reference: platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from llmctl.errors import InvalidRequest
from llmctl.types import JSON, Message, Request

_CHAT = "/chat/completions"
_LIMITS = ("max_completion_tokens", "max_tokens")
_OWN = frozenset({"model", "messages", "temperature", "response_format", *_LIMITS})
_IDLE: Mapping[str, tuple[Any, ...]] = {
    # With these values the field only says what holds without it.
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "store": (False,),
}


def from_chat(request: Request, options: Mapping[str, str]) -> Request:
    """The raw request with its body taken apart: messages, model, limit, temperature and schema
    in their fields, all else in `options` under this provider's names.

    `options` maps OpenAI's names to the provider's: {"top_p": "topP", "stop": "stopSequences"};
    `stop` always arrives as a list. Fields that are null, or say what holds anyway, are left
    out. Raises `InvalidRequest` (`sent=False`) that names the field which has no translation.
    """
    raw = request.raw
    assert raw is not None
    if raw.path.rstrip("/") != _CHAT:
        raise refused("url", f"`/v1{raw.path}` is not translated, only `/v1{_CHAT}`", request)
    body = raw.body
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name in _OWN or value is None or value in _IDLE.get(name, ()):
            continue
        if name not in options:
            raise refused(name, "it has no counterpart", request)
        found[options[name]] = [value] if name == "stop" and isinstance(value, str) else value
    limit = next((body[name] for name in _LIMITS if body.get(name) is not None), None)
    if limit is not None and type(limit) is not int:
        raise refused("max_tokens", "it must be a whole number", request)
    temperature = body.get("temperature")
    if temperature is not None and type(temperature) not in (int, float):
        raise refused("temperature", "it must be a number", request)
    return replace(
        request,
        messages=_messages(request),
        max_tokens=limit,
        temperature=temperature,
        options=found,
        schema=_schema(request),
        raw=None,
    )


def refused(field: str, why: str, request: Request) -> InvalidRequest:
    """The error for a field of a chat completion that a provider cannot be asked for."""
    where = request.target.provider
    return InvalidRequest(f"`{field}` cannot be translated for {where}: {why}", sent=False)


def _messages(request: Request) -> tuple[Message, ...]:
    assert request.raw is not None
    given = request.raw.body.get("messages")
    if not isinstance(given, list | tuple) or not given:
        raise refused("messages", "it must be a list of messages", request)
    turns = []
    for turn in given:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if isinstance(content, list | tuple) and all(isinstance(p, Mapping) for p in content):
            content = tuple(content)
        elif content is not None and not isinstance(content, str):
            raise refused("messages", "a message's `content` is neither text nor parts", request)
        if not isinstance(role, str):
            raise refused("messages", "a message has no `role`", request)
        extra = {k: v for k, v in turn.items() if k not in ("role", "content") and v is not None}
        turns.append(Message(role, content, extra))
    return tuple(turns)


def _schema(request: Request) -> JSON | None:
    """The schema of a `response_format`. `json_object` names none, so it has no translation."""
    assert request.raw is not None
    form = request.raw.body.get("response_format")
    kind = form.get("type") if isinstance(form, Mapping) else form
    if form is None or kind == "text":
        return None
    if kind == "json_schema" and isinstance(form, Mapping):
        held = form.get("json_schema")
        schema = held.get("schema") if isinstance(held, Mapping) else None
        if isinstance(schema, Mapping):
            return schema
    raise refused("response_format", "only a `json_schema` has a counterpart", request)
