"""OpenAI's responses: `api: responses` in a profile. Pure.

Reference: platform.openai.com/docs/api-reference/responses, …/responses/create and
…/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.openai_base import (
    AttachmentKind,
    OpenAIFamily,
    json_schema_format,
    require_taken,
    responses_reply,
)
from llmctl.types import JSON, Message, Request, StreamChunk, Target

_COUNTED = frozenset(
    {"conversation", "input", "instructions", "model", "parallel_tool_calls",
     "previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation"}
)  # fmt: skip
"""What the counting endpoint takes of a request."""

_TAKES: frozenset[AttachmentKind] = frozenset({"image", "image_url", "file", "file_url"})


class OpenAIResponses(OpenAIFamily):
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A response, or the raw body as it is."""
        if request.raw is not None:
            return WireRequest(request.raw.path, request.raw.body)
        target = request.target
        body: dict[str, Any] = {
            "model": target.model,
            "input": _items(request.messages, target),
        }
        if request.max_tokens is not None and "max_output_tokens" not in request.options:
            body["max_output_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            body["text"] = _text_format(request.schema)
        options = dict(request.options)
        if isinstance(options.get("text"), dict) and "text" in body:
            body["text"] = {**body["text"], **options.pop("text")}  # `verbosity` stands beside it
        body.update(options)
        if stream:
            body["stream"] = True
        return WireRequest("/responses", body)

    def reader(self) -> ResponsesReader:
        """A reader for one streamed answer."""
        return ResponsesReader()

    def count(self, request: Request) -> WireRequest | None:
        """`POST /responses/input_tokens`."""
        return count_request(request)


def count_request(request: Request) -> WireRequest:
    """Asks how many tokens the request is (platform.openai.com/docs/api-reference/responses,
    "Get input token counts"). Raises `InvalidRequest` as `OpenAIResponses.encode` does."""
    raw = request.raw
    body: dict[str, Any]
    if raw is not None and raw.path.endswith("/responses"):
        body = dict(raw.body)
    else:
        body = {"model": request.target.model, "input": _items(request.messages, request.target)}
        body |= request.options if raw is None else raw.body
        if request.schema is not None:
            body["text"] = _text_format(request.schema)
    return WireRequest("/responses/input_tokens", {k: v for k, v in body.items() if k in _COUNTED})


def _items(messages: Iterable[Message], target: Target) -> list[JSON]:
    """The input items. Raises `InvalidRequest` for parts that responses do not take (audio)."""
    found: list[JSON] = []
    for message in messages:
        if message.role == "tool":
            result = {"type": "function_call_output", "output": message.text}
            found.append({**result, "call_id": message.extra.get("tool_call_id", "")})
            continue
        calls = list(_function_calls(message))
        if message.content or (message.content is not None and not calls):
            content: Any = message.content
            if isinstance(content, tuple):
                content = [_part(part, message.role, target) for part in content]
            found.append({"role": message.role, "content": content})
        found.extend(calls)
    return found


def _function_calls(message: Message) -> Iterable[JSON]:
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
    kind = require_taken(part, _TAKES, target).get("type")
    if kind == "text":
        return {**part, "type": "output_text" if role == "assistant" else "input_text"}
    if kind == "image_url":
        image = part.get("image_url")
        given = image if isinstance(image, Mapping) else {"url": image}
        detail = {"detail": given["detail"]} if "detail" in given else {}
        return {"type": "input_image", "image_url": given.get("url"), **detail}
    if kind == "file":
        file = dict(replies.object_or_empty(part.get("file")))
        if "file_url" in file:
            file.pop("filename", None)  # the interface takes a name only with the data
        return {"type": "input_file", **file}
    return part  # an item of the interface's own


def _text_format(schema: JSON) -> JSON:
    """The `text` parameter that asks for an answer of this schema."""
    return {"format": {"type": "json_schema", **json_schema_format(schema)}}


class ResponsesReader(replies.BaseReader):
    """Reads one streamed response; `response.completed` or `.incomplete` end it."""

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One event; the last one holds the whole answer."""
        kind = found.get("type", event)
        if kind == "error" or found.get("error"):
            raise replies.error_from_event(replies.object_or_empty(found.get("error")) or found)
        if kind == "response.output_text.delta":
            return StreamChunk(text=replies.required_text(found.get("delta")))
        if kind not in ("response.completed", "response.incomplete", "response.failed"):
            return StreamChunk()
        reply = responses_reply(found["response"])
        return StreamChunk(
            text="" if self._has_text else reply.text,
            finish=reply.finish,
            model=reply.model or None,
            usage=reply.usage,
            cost=reply.cost,
            done=True,
        )
