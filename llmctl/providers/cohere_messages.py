"""Messages in Cohere's shape, which is close to OpenAI's; pure.

Reference: docs.cohere.com/reference/chat, docs.cohere.com/docs/image-inputs,
docs.cohere.com/docs/tool-use-overview.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from llmctl.providers.parts import Media, Native, Part, Text, parts, refuse, text_only
from llmctl.providers.translate import from_chat
from llmctl.providers.turns import ToolCall, call_id, forced, functions, tool_calls, turns
from llmctl.types import JSON, Message, Request

_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_OWN = frozenset({"thinking", "document"})
"""Cohere's own content blocks, which go out as they are."""

_OPTIONS = {
    "top_p": "p",
    "stop": "stop_sequences",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logprobs": "logprobs",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
"""OpenAI's names → ours; the value of the last one is translated below."""


def conversation(request: Request) -> dict[str, Any]:
    """`messages`: instructions are turns of the role `system`, as they are at OpenAI."""
    return {"messages": [_turn(turn, request) for turn in turns(request)]}


def plain_text(request: Request) -> str:
    """All texts of the conversation, a line each."""
    said = []
    for turn in turns(request):
        said += [part.text for part in parts(turn, request) if isinstance(part, Text)]
    return "\n".join(said)


def _turn(turn: Message, request: Request) -> JSON:
    made: dict[str, Any] = {"role": turn.role}
    calls = tool_calls(turn, request)
    if isinstance(turn.content, str) and (turn.content or not calls):
        made["content"] = turn.content
    elif turn.role == "system":
        made["content"] = text_only(turn, request, "instructions")
    else:
        blocks = [_block(part, request) for part in parts(turn, request)]
        if blocks or not calls:
            made["content"] = blocks
    if calls:
        made["tool_calls"] = [_call(call) for call in calls]
    if turn.role == "tool":
        made["tool_call_id"] = call_id(turn)
    return made


def _call(call: ToolCall) -> JSON:
    arguments = orjson.dumps(call.arguments).decode()
    called = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": called}


def _block(part: Part, request: Request) -> JSON:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Native):
        if part.kind in _OWN:
            return part.part
        raise refuse(f"parts of the type `{part.kind}`", request)
    return _image(part, request)


def _image(part: Media, request: Request) -> JSON:
    taken = part.mime in _IMAGES or (part.image and part.mime is None)
    if not taken or part.file_id:
        what = f"attachments of the type {part.mime}" if part.mime else "files by their id"
        raise refuse(what, request, "only images")
    url = part.url or f"data:{part.mime};base64,{part.data}"
    found: dict[str, Any] = {"url": url}
    if isinstance(part.extra.get("detail"), str):
        found["detail"] = part.extra["detail"]
    return {"type": "image_url", "image_url": found}


def from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Cohere's shape."""
    plain = from_chat(request, _OPTIONS)
    options = dict(plain.options)
    choice = options.pop("tool_choice", None)
    if options.get("tools"):
        options["tools"] = [
            {"type": "function", "function": found}
            for found in functions(options["tools"], request)
        ]
    if choice is not None:
        how, _ = forced(choice, request)
        if how == "named":
            raise refuse("a `tool_choice` that names a function", request)
        if how != "auto":  # which is what holds when nothing is said
            options["tool_choice"] = how.upper()
    return replace(plain, options=options)
