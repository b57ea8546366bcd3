"""Messages in Anthropic's shape; pure.

Reference: platform.claude.com/docs/en/api/messages, …/docs/en/build-with-claude/vision,
…/pdf-support, …/docs/en/agents-and-tools/tool-use/overview.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from llmctl.providers.parts import Media, Native, Part, Text, parts, refuse
from llmctl.providers.translate import from_chat
from llmctl.providers.turns import call_id, forced, functions, tool_calls, turns
from llmctl.types import JSON, Message, Request

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PDF = "application/pdf"

_OWN = frozenset(
    {
        "text",
        "image",
        "document",
        "search_result",
        "thinking",
        "redacted_thinking",
        "compaction",
        "container_upload",
        "tool_addition",
        "tool_removal",
    }
)
"""Anthropic's own content blocks, which go out as they are; so do those whose names say that
they belong to a tool."""

_OPTIONS = {
    "top_p": "top_p",
    "stop": "stop_sequences",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "user": "user",
}
"""OpenAI's names → ours; the values of the last four are translated below."""

_SYSTEM_FIRST = re.compile(r"claude-(?:instant|[123]|(?:opus|sonnet|haiku)-4(?!-8))")
"""Models that take instructions only ahead of the conversation. Later ones also take a turn of
the role `system` between others (SystemMessageParam in Anthropic's SDK; seen in traffic of
claude-opus-4-8)."""


def conversation(request: Request) -> dict[str, Any]:
    """`messages`, and `system` where there is one.

    Instructions ahead of the conversation are `system`. Later ones stay where they are on models
    that know such turns, and join the others at older ones. Several are kept apart by a blank
    line. Results of tools that follow each other are one turn, as the API demands.
    """
    system: list[Message] = []
    messages: list[dict[str, Any]] = []
    hoisted = _SYSTEM_FIRST.match(request.target.model) is not None
    results = False
    for turn in turns(request):
        if turn.role == "system" and (hoisted or not messages):
            system.append(turn)
            continue
        if turn.role == "tool":
            block = _result(turn, request)
            if results:
                messages[-1]["content"].append(block)
            else:
                messages.append({"role": "user", "content": [block]})
        else:
            messages.append({"role": turn.role, "content": _content(turn, request)})
        results = turn.role == "tool"
    found: dict[str, Any] = {"messages": messages}
    if system:
        found["system"] = _system(system, request)
    return found


def _system(system: Iterable[Message], request: Request) -> str | list[JSON]:
    listed = list(system)
    if all(isinstance(turn.content, str) for turn in listed):
        return "\n\n".join(str(turn.content) for turn in listed)
    return [_block(part, request) for turn in listed for part in parts(turn, request)]


def _content(turn: Message, request: Request) -> str | list[JSON]:
    calls = tool_calls(turn, request)
    if isinstance(turn.content, str) and not calls:
        return turn.content
    return [
        *(_block(part, request) for part in parts(turn, request)),
        *({"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in calls),
    ]


def _result(turn: Message, request: Request) -> JSON:
    content = _content(turn, request)
    return {"type": "tool_result", "tool_use_id": call_id(turn), "content": content}


def _block(part: Part, request: Request) -> JSON:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text, **part.extra}
    if isinstance(part, Native):
        if part.kind in _OWN or "tool" in part.kind:
            return part.part
        raise refuse(f"parts of the type `{part.kind}`", request)
    return _media(part, request)


def _media(part: Media, request: Request) -> JSON:
    # `detail` says how closely to look; there is nothing like it here, and nothing is lost.
    extra = {key: value for key, value in part.extra.items() if key != "detail"}
    image = part.mime in _IMAGES or (part.image and part.mime != _PDF)
    kind = "image" if image else "document"
    if part.file_id:
        return {"type": kind, "source": {"type": "file", "file_id": part.file_id}, **extra}
    if part.url:
        if not image and part.mime not in (None, _PDF):
            raise refuse(f"files of the type {part.mime} by their address", request)
        return {"type": kind, "source": {"type": "url", "url": part.url}, **extra}
    mime = part.mime or _PDF
    if mime in _IMAGES or mime == _PDF:
        source = {"type": "base64", "media_type": mime, "data": part.data}
    elif mime.startswith("text/") and not part.image:
        source = {"type": "text", "media_type": "text/plain", "data": part.plain}
    else:
        raise refuse(f"attachments of the type {mime}", request)
    return {"type": kind, "source": source, **extra}


def from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Anthropic's shape."""
    plain = from_chat(request, _OPTIONS)
    options = dict(plain.options)
    tools, choice = options.pop("tools", None), options.pop("tool_choice", None)
    one_by_one = options.pop("parallel_tool_calls", True) is False
    user = options.pop("user", None)
    if user is not None:
        options["metadata"] = {"user_id": user}
    if tools:
        options["tools"] = [_tool(found) for found in functions(tools, request)]
    if choice is not None or (one_by_one and tools):
        options["tool_choice"] = _choice(choice or "auto", request)
        if one_by_one and options["tool_choice"]["type"] != "none":
            options["tool_choice"]["disable_parallel_tool_use"] = True
    return replace(plain, options=options)


def _tool(found: JSON) -> JSON:
    made: dict[str, Any] = {"name": found["name"]}
    if found.get("description"):
        made["description"] = found["description"]
    made["input_schema"] = found.get("parameters") or {"type": "object"}
    if isinstance(found.get("strict"), bool):
        made["strict"] = found["strict"]
    return made


def _choice(choice: Any, request: Request) -> dict[str, Any]:
    how, name = forced(choice, request)
    if how == "named":
        return {"type": "tool", "name": name}
    return {"type": "any" if how == "required" else how}
