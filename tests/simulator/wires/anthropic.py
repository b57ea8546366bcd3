"""Anthropic's Messages API: messages plain and streamed, the token count, the models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time

from tests.simulator.call import Ask, Call, Json, bearer
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem, Usage

from .wire import Kind, Turn, Wire, kind_of, load, named_event, spoken

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
}
_SAID: dict[Kind, tuple[int, str, str]] = {
    "auth": (401, "authentication_error", "invalid x-api-key"),
    "context": (400, "invalid_request_error", "prompt is too long: 219898 tokens > 200000 maximum"),
    "not_found": (404, "not_found_error", "model: nobody-knows-it"),
    "missing": (404, "not_found_error", ""),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "permission": (403, "permission_error", "Your API key may not use this model."),
    "quota": (400, "invalid_request_error", "Your credit balance is too low to access the API."),
    "rate": (429, "rate_limit_error", "This request would exceed your rate limit."),
    "timeout": (504, "timeout_error", "The request timed out."),
}


class Anthropic(Wire):
    """What every endpoint has in common: the key, `anthropic-version`, the error's shape.

    The key comes as `x-api-key` or as a bearer token; there are two versions, of which the newer
    has no sampling parameters (platform.claude.com/docs/en/api/overview, …/api/versioning).
    """

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take `x-api-key`, or a bearer token."""
        return headers.get("x-api-key") or bearer(headers)

    def objection(self, call: Call) -> str | None:
        """Miss the version, or mind what it has no longer."""
        version = call.headers.get("anthropic-version")
        if version not in {"2023-06-01", "2026-10-21"}:
            return "anthropic-version: header is required"
        gone = {"temperature", "top_p", "top_k"} & set(call.body or {})
        return f"{min(gone)}: removed in 2026-10-21" if gone and version == "2026-10-21" else None

    names = "request-id"

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give status, type and sentence as Anthropic words them; low credit comes as a 400."""
        kind = kind_of(status, problem)
        if kind == "quota" and status == 402:
            return 402, _body("billing_error", problem.message)
        code, type_, message = _SAID.get(kind, (status, "", ""))
        if kind == "auth":
            message = f"{message} ({problem.message})"
        fallback = "api_error" if code >= 500 else "invalid_request_error"
        return code, _body(type_ or fallback, message or problem.message)

    def error_event(self, problem: Problem) -> bytes:
        """Give an `error` event."""
        return named_event(self.refuse(500, problem)[1])

    def unknown_event(self) -> bytes:
        """Give an event, a block and a delta nobody has heard of."""
        block = {"type": "content_block_start", "index": 7, "content_block": {"type": "unheard"}}
        delta = {"type": "unheard_delta", "unheard": "unheard"}
        step = {"type": "content_block_delta", "index": 7, "delta": delta}
        return super().unknown_event() + named_event(block) + named_event(step)

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give `anthropic-ratelimit-*`; resets are RFC 3339, and tokens come in three kinds."""
        headers: list[tuple[str, str]] = []
        for name, state in standing.items():
            reset = datetime.fromtimestamp(time() + state.reset, UTC)
            kinds = (name,) if name == "requests" else (name, f"input-{name}", f"output-{name}")
            for each in kinds:
                headers += [
                    (f"anthropic-ratelimit-{each}-limit", str(state.limit)),
                    (f"anthropic-ratelimit-{each}-remaining", str(state.remaining)),
                    (f"anthropic-ratelimit-{each}-reset", f"{reset:%Y-%m-%dT%H:%M:%SZ}"),
                ]
        return tuple(headers)


class Messages(Anthropic):
    """`POST …/messages`."""

    place: tuple[str, str | tuple[str, ...]] = "POST", "/messages"

    def objection(self, call: Call) -> str | None:
        """Miss the version or `max_tokens`, or mind a role."""
        body = call.body or {}
        if "max_tokens" not in body:
            return "max_tokens: Field required"
        if "temperature" in body and re.match("claude-[a-z]+-5", str(body.get("model"))):
            return "`temperature` is deprecated for this model."
        if any(message.get("role") == "system" for message in body.get("messages", [])[:1]):
            return "messages: Unexpected role; the system prompt is a top-level parameter"
        return super().objection(call)

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read system, messages, model and limit."""
        system = body.get("system")
        opening = [("system", system)] if system else []
        form = (body.get("output_config") or {}).get("format") or {}
        return spoken(
            [*opening, *((message["role"], message["content"]) for message in body["messages"])],
            model=body["model"],
            max_tokens=body.get("max_tokens"),
            stream=bool(body.get("stream")),
            temperature=body.get("temperature"),
            schema=form.get("schema"),
        )

    def whole(self, turn: Turn) -> Json:
        """Give a `message`."""
        stopped = turn.reply.word or _STOP[turn.reason]
        return _message(turn) | {
            "content": _blocks(turn),
            "stop_reason": stopped,
            "usage": _usage(turn.usage),
        }

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give message_start, blocks, a ping, message_delta and message_stop."""
        opening = _message(turn) | {
            "content": [],
            "usage": _usage(turn.usage) | {"output_tokens": 1},
        }
        steps: list[Json] = [{"type": "message_start", "message": opening}]
        for index, block in enumerate(_blocks(turn)):
            steps += _block_steps(turn, index, block)
        steps.insert(2, {"type": "ping"})
        ended = self.whole(turn)
        delta = {"stop_reason": ended["stop_reason"], "stop_sequence": None}
        steps.append({"type": "message_delta", "delta": delta, "usage": ended["usage"]})
        steps.append({"type": "message_stop"})
        return tuple(map(named_event, steps))


class CountTokens(Anthropic):
    """`POST …/messages/count_tokens`."""

    billing = "free"
    place = "POST", "/messages/count_tokens"

    def objection(self, call: Call) -> str | None:
        """Mind what only a message may carry."""
        extra = {"max_tokens", "temperature", "stream"} & set(call.body or {})
        if extra:
            return f"{min(extra)}: Extra inputs are not permitted"
        return super().objection(call)

    def read(self, body: Json, path: str) -> Ask:
        """Read what would be asked."""
        return Messages().read(body, path)

    def whole(self, turn: Turn) -> Json:
        """Give the count."""
        return {"input_tokens": turn.usage.input}


class Models(Anthropic):
    """`GET …/models`."""

    billing = "free"
    place = "GET", "/models"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is."""
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": f"The {name}",
                "created_at": "2026-05-01T00:00:00Z",
            }
            for name in self.models
        ]
        first, last = (self.models[0], self.models[-1]) if data else (None, None)
        return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def _body(type_: str, message: str) -> Json:
    error = {"type": type_, "message": message}
    return {"type": "error", "error": error, "request_id": "req_simulator"}


def _message(turn: Turn) -> Json:
    return {
        "id": f"msg_{turn.call.index:08d}",
        "type": "message",
        "role": "assistant",
        "model": turn.model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(turn: Turn) -> list[Json]:
    blocks: list[Json] = []
    if turn.thought:
        blocks.append({"type": "thinking", "thinking": turn.thought, "signature": "c2ln"})
    if turn.reply.text:
        blocks.append({"type": "text", "text": turn.reply.text})
    blocks += [
        {
            "type": "tool_use",
            "id": tool.id,
            "name": tool.name,
            "input": load(tool.arguments.encode()),
        }
        for tool in turn.reply.tool_calls
    ]
    return blocks


def _block_steps(turn: Turn, index: int, block: Json) -> list[Json]:
    if block["type"] == "thinking":
        empty = block | {"thinking": "", "signature": ""}
        deltas: list[Json] = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    elif block["type"] == "text":
        empty = block | {"text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in turn.pieces]
    else:
        empty = block | {"input": {}}
        tools = {tool.id: tool.arguments for tool in turn.reply.tool_calls}
        deltas = [{"type": "input_json_delta", "partial_json": tools[block["id"]]}]
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _usage(usage: Usage) -> Json:
    """Give usage in Anthropic's convention: input leaves out what was read from and written to
    the cache."""
    return {
        "input_tokens": usage.input - usage.cached - usage.written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.written,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
    }
