"""Messages as the input items of OpenAI's responses. Pure.

Reference: platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.protocols import WireRequest
from llmctl.providers.attached import Kind, checked
from llmctl.providers.strict import named_schema
from llmctl.types import JSON, Message, Request, Target

_COUNTED = frozenset(
    {"conversation", "input", "instructions", "model", "parallel_tool_calls",
     "previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation"}
)  # fmt: skip
"""What the counting endpoint takes of a request."""

_TAKES: frozenset[Kind] = frozenset({"image", "image_url", "file", "file_url"})


def items(messages: Iterable[Message], target: Target) -> list[JSON]:
    """The conversation. Raises `InvalidRequest` for parts that responses do not take (audio)."""
    found: list[JSON] = []
    for message in messages:
        if message.role == "tool":
            result = {"type": "function_call_output", "output": message.text}
            found.append({**result, "call_id": message.extra.get("tool_call_id", "")})
            continue
        calls = list(_calls(message))
        if message.content or (message.content is not None and not calls):
            content: Any = message.content
            if isinstance(content, tuple):
                content = [_part(part, message.role, target) for part in content]
            found.append({"role": message.role, "content": content})
        found.extend(calls)
    return found


def counted(request: Request) -> WireRequest:
    """Asks how many tokens the request is (platform.openai.com/docs/api-reference/responses,
    "Get input token counts"). Raises as `items` does."""
    raw = request.raw
    body: dict[str, Any]
    if raw is not None and raw.path.endswith("/responses"):
        body = dict(raw.body)
    else:
        body = {"model": request.target.model, "input": items(request.messages, request.target)}
        body |= request.options if raw is None else raw.body
        if request.schema is not None:
            body["text"] = text_format(request.schema)
    return WireRequest("/responses/input_tokens", {k: v for k, v in body.items() if k in _COUNTED})


def text_format(schema: JSON) -> JSON:
    """The `text` parameter that asks for an answer of this schema."""
    return {"format": {"type": "json_schema", **named_schema(schema)}}


def _calls(message: Message) -> Iterable[JSON]:
    calls = message.extra.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield {
                "type": "function_call",
                "call_id": call.get("id", ""),
                "name": function.get("name", ""),
                "arguments": function.get("arguments", ""),
            }


def _part(part: JSON, role: str, target: Target) -> JSON:
    said = checked(part, _TAKES, target).get("type")
    if said == "text":
        kind = "output_text" if role == "assistant" else "input_text"
        return {**part, "type": kind}
    if said == "image_url":
        image = part.get("image_url")
        told = image if isinstance(image, Mapping) else {"url": image}
        detail = {"detail": told["detail"]} if "detail" in told else {}
        return {"type": "input_image", "image_url": told.get("url"), **detail}
    if said == "file":
        file = part.get("file")
        told = dict(file) if isinstance(file, Mapping) else {}
        if "file_url" in told:
            told.pop("filename", None)  # the interface takes a name only with the data
        return {"type": "input_file", **told}
    return part  # an item of the interface's own
