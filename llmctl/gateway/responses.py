"""OpenAI's responses, as callers speak them. Pure.

Reference: platform.openai.com/docs/api-reference/responses, …/responses/create and
…/responses-streaming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from llmctl.errors import InvalidRequest
from llmctl.gateway.chat import (
    error_body,
    error_object,
    is_streamed,
    model_of,
    refusal,
    tool_calls,
    url_citations,
    without_stream,
)
from llmctl.gateway.dialect import Asked, Failure, StreamWriter, event
from llmctl.providers.replies import object_or_empty
from llmctl.types import JSON, Answer, StreamChunk, Usage


class Responses:
    """Responses; see `dialect.Dialect`. `now` gives seconds since the epoch."""

    path = "/responses"

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def read(self, body: JSON, headers: Mapping[str, str]) -> Asked:  # noqa: ARG002 - the seam's
        """The body: `model`, `input`, and whether it is streamed. Raises `InvalidRequest`."""
        given = body.get("input")
        if not given or not isinstance(given, str | list):
            raise refusal("input", "give a text, or a list of items")
        if isinstance(given, list) and not all(isinstance(item, dict) for item in given):
            raise refusal("input", "every item is an object")
        return Asked(
            body=without_stream(body),
            model=model_of(body),
            stream=is_streamed(body),
            limit="max_output_tokens",
        )

    def as_chat(self, asked: Asked) -> JSON:
        """The chat completion that asks the same. Raises `InvalidRequest`."""
        return _chat_body(asked)

    def answer(self, asked: Asked, answer: Answer, id: str) -> bytes:
        """A `response`."""
        return orjson.dumps(_finished(self._response(asked, id), answer, id))

    def writer(self, asked: Asked, id: str) -> StreamWriter:
        """A writer of the events of a response."""
        return ResponsesWriter(id, self._response(asked, id))

    def failure(self, failure: Failure) -> bytes:
        """`{"error": …}`."""
        return error_body(failure)

    def _response(self, asked: Asked, id: str) -> dict[str, Any]:
        """The response before its answer: what was asked, said again."""
        said = {name: asked.body.get(name) for name in _SAID_AGAIN}
        return {
            **said,
            "id": f"resp_{id}",
            "object": "response",
            "created_at": int(self._now()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "metadata": asked.body.get("metadata") or {},
            "model": asked.model,
            "output": [],
            "parallel_tool_calls": asked.body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": asked.body.get("reasoning") or {"effort": None, "summary": None},
            "store": False,
            "text": {"format": {"type": "text"}, **object_or_empty(asked.body.get("text"))},
            "tool_choice": asked.body.get("tool_choice") or "auto",
            "tools": asked.body.get("tools") or [],
            "truncation": "disabled",
            "usage": None,
        }


_SAID_AGAIN = ("instructions", "max_output_tokens", "temperature", "top_p", "user")


class ResponsesWriter:
    """Writes one streamed response; `response` is it before its answer."""

    def __init__(self, id: str, response: dict[str, Any]) -> None:
        self._id, self._response = id, response
        self._begun = self._relayed = False
        self._length = self._number = 0

    def piece(self, chunk: StreamChunk) -> bytes:
        """The provider's own event, or those of the text."""
        if not chunk.data:
            self._response["model"] = chunk.model or self._response["model"]
            return self._text(chunk.text)
        self._relayed = True
        if chunk.data.strip() == "[DONE]":
            return b""
        self._number += 1
        return event(chunk.data.encode(), "" if chunk.event == "message" else chunk.event)

    def end(self, answer: Answer) -> bytes:
        """What was not told yet: the rest of the text, tool calls, and the whole response. Nothing
        after a provider's own events, whose last one holds it."""
        if self._relayed:
            return b""
        whole = _finished(self._response, answer, self._id)
        if not self._begun:
            self._response["model"] = whole["model"]
        said = self._text(answer.text[self._length :])
        if not self._begun:
            said += self._begin()
        for index, item in enumerate(whole["output"]):
            said += self._message(item) if item["type"] == "message" else self._call(index, item)
            said += self._tell("response.output_item.done", output_index=index, item=item)
        return said + self._tell(f"response.{whole['status']}", response=whole)

    def error(self, failure: Failure) -> bytes:
        """The event `error`."""
        said = error_object(failure)
        return self._tell("error", **{name: said[name] for name in ("code", "message", "param")})

    def _begin(self) -> bytes:
        self._begun = True
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._tell(kind, response=self._response) for kind in kinds)

    def _text(self, text: str) -> bytes:
        if not text:
            return b""
        said = b"" if self._begun else self._begin()
        if not self._length:
            item = _message(self._id, "in_progress", [])
            said += self._tell("response.output_item.added", output_index=0, item=item)
            said += self._tell("response.content_part.added", part=_part(""), **self._place())
        self._length += len(text)
        kind = "response.output_text.delta"
        return said + self._tell(kind, delta=text, logprobs=[], **self._place())

    def _message(self, item: JSON) -> bytes:
        part, place = item["content"][0], self._place()
        kind = "response.output_text.done"
        said = self._tell(kind, text=part["text"], logprobs=[], **place)
        return said + self._tell("response.content_part.done", part=part, **place)

    def _call(self, index: int, item: JSON) -> bytes:
        begun = {**item, "arguments": "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": index}
        kind, written = "response.function_call_arguments", item["arguments"]
        said = self._tell("response.output_item.added", output_index=index, item=begun)
        said += self._tell(f"{kind}.delta", delta=written, **place)
        return said + self._tell(f"{kind}.done", arguments=written, **place)

    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": 0}

    def _tell(self, kind: str, **fields: Any) -> bytes:
        data = orjson.dumps({"type": kind, **fields, "sequence_number": self._number})
        self._number += 1
        return event(data, kind)


# --- The answer ---------------------------------------------------------------------------------

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _finished(response: JSON, answer: Answer, id: str) -> dict[str, Any]:
    """The response with its answer."""
    reason = _INCOMPLETE.get(answer.finish)
    status = "completed" if reason is None else "incomplete"
    output: list[JSON] = []
    if answer.text:
        cited = [{"type": "url_citation", **citation} for citation in url_citations(answer)]
        output.append(_message(id, status, [_part(answer.text, cited)]))
    for at, call in enumerate(tool_calls(answer, id)):
        made = {"id": f"fc_{id}_{at}", "type": "function_call", "status": "completed"}
        output.append({**made, "call_id": call["id"], **call["function"]})
    return {
        **response,
        "status": status,
        "incomplete_details": reason and {"reason": reason},
        "model": answer.model or response["model"],
        "output": output,
        "usage": _usage(answer.usage),
    }


def _message(id: str, status: str, content: list[JSON]) -> JSON:
    made = {"id": f"msg_{id}", "type": "message", "status": status}
    return {**made, "role": "assistant", "content": content}


def _part(text: str, annotations: Iterable[JSON] = ()) -> JSON:
    made = {"type": "output_text", "text": text, "annotations": list(annotations)}
    return {**made, "logprobs": []}


def _usage(usage: Usage) -> JSON:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


# --- The same question as a chat completion -----------------------------------------------------

_NOTHING_LIKE_IT = (
    "chat completions, which the provider is asked for, have nothing like it; leave it out, or "
    "name a profile with `api: responses`"
)
_SHAPE_ERRORS = (KeyError, TypeError, AttributeError, ValueError)

_SAME = ("temperature", "top_p", "user")
_TRANSLATED = frozenset(
    {"input", "instructions", "max_output_tokens", "model", "parallel_tool_calls", "reasoning",
     "text", "tool_choice", "tools", *_SAME}
)  # fmt: skip
_DROPPED = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "store"})
"""What changes no answer: notes of the caller's, hints, and whether the provider keeps a copy."""

_DEFAULTS: Mapping[str, Any] = {
    "background": False,
    "include": [],
    "service_tier": "auto",
    "top_logprobs": 0,
    "truncation": "disabled",
}
"""Values that only say what holds without them."""


def _chat_body(asked: Asked) -> JSON:
    body = asked.body
    for name, value in body.items():
        said = value is not None and value != _DEFAULTS.get(name, ...)
        if said and name not in _TRANSLATED and name not in _DROPPED:
            raise refusal(name, _NOTHING_LIKE_IT)
    made: dict[str, Any] = {"model": asked.model, "messages": _messages(body)}
    made |= {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        made["max_tokens"] = body["max_output_tokens"]
    for name, read in (("reasoning", _effort), ("text", _text), ("tools", _tools)):
        try:
            made |= read(body)
        except _SHAPE_ERRORS as error:
            raise refusal(name, "it is not well-formed") from error
    return made


def _effort(body: JSON) -> JSON:
    given = dict(body.get("reasoning") or {})
    effort = given.pop("effort", None)
    for name, value in given.items():
        if value is not None:
            raise refusal(f"reasoning.{name}", _NOTHING_LIKE_IT)
    return {} if effort is None else {"reasoning_effort": effort}


def _text(body: JSON) -> JSON:
    given = dict(body.get("text") or {})
    form, verbosity = given.pop("format", None), given.pop("verbosity", None)
    for name in given:
        raise refusal(f"text.{name}", _NOTHING_LIKE_IT)
    made = {} if verbosity in (None, "medium") else {"verbosity": verbosity}
    if form is None or form["type"] == "text":
        return made
    if form["type"] == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        return {**made, "response_format": {"type": "json_schema", "json_schema": schema}}
    return {**made, "response_format": form}


def _tools(body: JSON) -> JSON:
    """Tools, and which are to be called: without tools, chat completions refuse to hear of it."""
    tools = [_tool(tool) for tool in body.get("tools") or ()]
    if not tools:
        return {}
    made: dict[str, Any] = {"tools": tools}
    choice = body.get("tool_choice")
    if isinstance(choice, str):
        made["tool_choice"] = choice
    elif choice is not None:
        if choice["type"] != "function":
            raise refusal("tool_choice", _NOTHING_LIKE_IT)
        made["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    if body.get("parallel_tool_calls") is False:
        made["parallel_tool_calls"] = False
    return made


def _tool(tool: JSON) -> JSON:
    if tool["type"] != "function":
        raise refusal("tools", f"`{tool['type']}`: {_NOTHING_LIKE_IT}")
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _messages(body: JSON) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    instructions, given = body.get("instructions"), body["input"]
    if instructions is not None:
        if not isinstance(instructions, str):
            raise refusal("instructions", "it is a text")
        made.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*made, {"role": "user", "content": given}]
    for at, item in enumerate(given):
        try:
            _add_item(made, item)
        except _SHAPE_ERRORS as error:
            raise refusal("input", f"item {at} is not well-formed") from error
    return made


def _add_item(made: list[dict[str, Any]], item: JSON) -> None:
    """Add an input item to the messages. What the model said and called in one go is one message:
    the results of its calls must follow that at once."""
    kind, last = item.get("type") or "message", made[-1] if made else {}
    if kind == "message":
        role = item["role"]
        if role != "assistant":
            role = "system" if role == "developer" else role
            made.append({"role": role, "content": _content(item["content"])})
        elif last.get("tool_calls"):
            last["content"] = (last["content"] or "") + _said(item["content"])
        else:
            made.append({"role": role, "content": _said(item["content"])})
    elif kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": None}
            made.append(last)
        call = {"id": item["call_id"], "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        result = {"role": "tool", "tool_call_id": item["call_id"]}
        made.append({**result, "content": _content(item["output"])})
    elif kind != "reasoning":  # thoughts are of use only to the provider that sealed them
        raise _unknown("items", kind)


def _said(content: Any) -> str:
    """The text of a message of the model's."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in content)


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    parts = [_chat_part(part) for part in content]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _chat_part(part: JSON) -> JSON:
    kind = part["type"]
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image" and part.get("image_url"):
        detail = {} if part.get("detail") in (None, "auto") else {"detail": part["detail"]}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        names = ("filename", "file_data", "file_id", "file_url")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    if kind == "input_audio":
        return {"type": kind, kind: part[kind]}
    raise _unknown("parts", kind)


def _unknown(what: str, kind: object) -> InvalidRequest:
    return refusal("input", f"{what} of the type `{kind}`: {_NOTHING_LIKE_IT}")
