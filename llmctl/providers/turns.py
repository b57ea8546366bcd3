"""Turns, tool calls and tools out of OpenAI's shape; for codecs of other languages. Pure.

Reference: platform.openai.com/docs/api-reference/chat/create (`messages`, `tools`,
`tool_choice`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from msgspec import Struct

from llmctl.providers.parts import refuse
from llmctl.types import JSON, Message, Request

_SYSTEM = ("system", "developer")
_ROLES = ("system", "user", "assistant", "tool")
_READ = frozenset({"tool_calls", "tool_call_id"})
_NOT_SENT_BACK = frozenset({"refusal", "annotations", "reasoning", "reasoning_content"})
"""Fields of an answer that say nothing to the model when the answer is sent back as history."""


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
        role = "system" if message.role in _SYSTEM else message.role
        if role not in _ROLES:
            raise refuse(f"messages of the role `{role}`", request)
        for name, value in message.extra.items():
            named_tool = name == "name" and role == "tool"
            if value and name not in _READ and name not in _NOT_SENT_BACK and not named_tool:
                raise refuse(f"the field `{name}` of a message", request)
        yield Message(role, _said(message), message.extra)


def _said(message: Message) -> str | tuple[JSON, ...] | None:
    refusal = message.extra.get("refusal")
    if message.content is None and isinstance(refusal, str):
        return refusal
    return message.content


def call_id(message: Message) -> str:
    """The id of the call that a tool's turn answers; empty where none is named."""
    return str(message.extra.get("tool_call_id") or "")


def tool_calls(message: Message, request: Request) -> list[ToolCall]:
    """The calls of an assistant's turn; arguments are read from their JSON text."""
    found = []
    given = message.extra.get("tool_calls") if message.role == "assistant" else None
    for call in given if isinstance(given, list | tuple) else ():
        try:
            found.append(_call(call))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise refuse("this `tool_calls`", request, "it is not well-formed") from error
    return found


def _call(call: Mapping[str, Any]) -> ToolCall:
    asked = call["function"]
    given = asked.get("arguments") or "{}"
    arguments = orjson.loads(given) if isinstance(given, str) else given
    if not isinstance(arguments, Mapping):
        raise TypeError("arguments are an object")
    google = (call.get("extra_content") or {}).get("google") or {}
    return ToolCall(
        id=str(call.get("id") or ""),
        name=str(asked["name"]),
        arguments=arguments,
        signature=google.get("thought_signature"),
    )


def function(tool: Any, request: Request) -> JSON:
    """The `function` of a tool's definition. Raises `InvalidRequest` for other tools."""
    found = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise refuse("`tools` other than functions", request)
    return found


def functions(tools: Any, request: Request) -> list[JSON]:
    """The functions of a list of tools."""
    if not isinstance(tools, list | tuple):
        raise refuse("these `tools`", request, "they are no list")
    return [function(tool, request) for tool in tools]


def forced(choice: Any, request: Request) -> tuple[str, str | None]:
    """A `tool_choice` as (`auto`, `none`, `required` or `named`; the name)."""
    if isinstance(choice, str) and choice in ("auto", "none", "required"):
        return choice, None
    named = choice.get("function") if isinstance(choice, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise refuse("this `tool_choice`", request)
    return "named", name
