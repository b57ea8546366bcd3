"""Cohere's API: v2 chat plain and streamed, tokenize, the key check, the models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import time

from tests.simulator.call import Ask, Json
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem, Usage

from .openai import tool_json
from .wire import Kind, Turn, Wire, kind_of, named_event, spoken

_FINISH = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR",  # Cohere has no word for it
    "refusal": "ERROR",
}
_SAID: dict[Kind, tuple[int, str]] = {
    "auth": (401, "invalid api token"),
    "context": (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081"),
    "not_found": (404, "model 'nobody' not found, make sure the correct model ID was used"),
    "overloaded": (503, "service unavailable"),
    "permission": (403, "you do not have access to this model"),
    "quota": (402, "Please add or update your payment method to continue"),
    "rate": (429, "You have exceeded the calls / minute limit of this key."),
    "timeout": (504, "gateway timeout"),
}


class Cohere(Wire):
    """What every endpoint has in common: a bearer token, and errors that are a message."""

    names = "x-debug-trace-id"

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give `{"id", "message"}`."""
        kind = kind_of(status, problem)
        code, message = _SAID.get(kind, (status, problem.message))
        if kind == "auth":
            message = f"{message} ({problem.message})"
        return code, {"id": "simulator", "message": message}

    def error_event(self, problem: Problem) -> bytes:
        """Give the `message-end` of an answer that failed."""
        delta = {"finish_reason": "ERROR", "error": problem.message}
        return named_event({"type": "message-end", "delta": delta})

    def unknown_event(self) -> bytes:
        """Give citations, which are not text, and an event nobody has heard of."""
        citation = {"start": 0, "end": 4, "text": "unheard", "sources": []}
        delta = {"message": {"citations": citation}}
        start = {"type": "citation-start", "index": 0, "delta": delta}
        return named_event(start) + super().unknown_event()

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give `x-ratelimit-reset`, in Unix seconds, once a limit is used up."""
        used_up = [state.reset for state in standing.values() if state.remaining < 1]
        return (("x-ratelimit-reset", str(math.ceil(time() + max(used_up)))),) if used_up else ()


class Chat(Cohere):
    """`POST …/v2/chat`."""

    place = "POST", "/chat"

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read messages, model and limit."""
        form = body.get("response_format") or {}
        return spoken(
            [(message["role"], message.get("content")) for message in body["messages"]],
            model=body["model"],
            max_tokens=body.get("max_tokens"),
            stream=bool(body.get("stream")),
            temperature=body.get("temperature"),
            schema=form.get("schema") or form.get("json_schema"),
        )

    def whole(self, turn: Turn) -> Json:
        """Give the message; a chat's answer does not name its model."""
        message: Json = {"role": "assistant"}
        blocks = _blocks(turn)
        if blocks:
            message["content"] = blocks
        if turn.reply.tool_calls:
            message["tool_plan"] = "I will call a tool."
            message["tool_calls"] = [tool_json(tool) for tool in turn.reply.tool_calls]
        return {"id": f"chat-{turn.call.index:08d}", "message": message} | _end(turn)

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give message-start, contents, tool calls and message-end."""
        opening = {"message": {"role": "assistant", "content": [], "tool_calls": []}}
        number = f"chat-{turn.call.index:08d}"
        steps: list[Json] = [{"type": "message-start", "id": number, "delta": opening}]
        for index, block in enumerate(_blocks(turn)):
            steps += _block_steps(turn, index, block)
        for index, tool in enumerate(turn.reply.tool_calls):
            given = tool_json(tool)
            called = given | {"function": given["function"] | {"arguments": ""}}
            more = {"function": {"arguments": tool.arguments}}
            steps += [
                {"type": "tool-call-start", "index": index, "delta": _tools(called)},
                {"type": "tool-call-delta", "index": index, "delta": _tools(more)},
                {"type": "tool-call-end", "index": index},
            ]
        steps.append({"type": "message-end", "id": number, "delta": _end(turn)})
        return tuple(map(named_event, steps))


class Tokenize(Cohere):
    """`POST …/v1/tokenize`."""

    billing = "free"
    place = "POST", "/v1/tokenize"

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read the text."""
        return Ask(model=body["model"], prompt=body["text"], last=body["text"])

    def whole(self, turn: Turn) -> Json:
        """Give as many tokens as the text has."""
        numbers = list(range(turn.usage.input))
        return {"tokens": numbers, "token_strings": [str(n) for n in numbers], "meta": {}}


class CheckKey(Cohere):
    """`POST …/v1/check-api-key`; the status is the answer."""

    billing = "free"
    place = "POST", "/v1/check-api-key"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Find it valid."""
        return {"valid": True, "organization_id": "org", "owner_id": "owner"}


class Models(CheckKey):
    """`GET …/v1/models`."""

    place = "GET", "/v1/models"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is."""
        return {
            "models": [
                {
                    "name": name,
                    "is_deprecated": False,
                    "endpoints": ["chat"],
                    "finetuned": False,
                    "context_length": 128000,
                }
                for name in self.models
            ],
            "next_page_token": "",
        }


def _blocks(turn: Turn) -> list[Json]:
    blocks: list[Json] = []
    if turn.thought:
        blocks.append({"type": "thinking", "thinking": turn.thought})
    if turn.reply.text:
        blocks.append({"type": "text", "text": turn.reply.text})
    return blocks


def _block_steps(turn: Turn, index: int, block: Json) -> list[Json]:
    kind = str(block["type"])
    pieces = turn.pieces if kind == "text" else (turn.thought,)
    return [
        {"type": "content-start", "index": index, "delta": _content({"type": kind, kind: ""})},
        *(
            {"type": "content-delta", "index": index, "delta": _content({kind: piece})}
            for piece in pieces
        ),
        {"type": "content-end", "index": index},
    ]


def _content(content: Json) -> Json:
    return {"message": {"content": content}}


def _tools(tool: Json) -> Json:
    return {"message": {"tool_calls": tool}}


def _end(turn: Turn) -> Json:
    finish = turn.reply.word or _FINISH[turn.reason]
    return {"finish_reason": finish, "usage": _usage(turn.usage)}


def _usage(usage: Usage) -> Json:
    """Give usage in Cohere's convention: floats, and no word on reasoning."""
    tokens = {"input_tokens": float(usage.input), "output_tokens": float(usage.output)}
    said: Json = {"billed_units": tokens, "tokens": tokens}
    return said | {"cached_tokens": float(usage.cached)}
