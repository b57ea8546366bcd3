"""Mistral's chat completions: OpenAI's frame with words of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from tests.simulator.call import Call, Json
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem

from .openai import Chat, content
from .openai_other import Models as OpenAIModels
from .wire import Kind, Turn, Wire, kind_of

_FIELDS = (
    "frequency_penalty guardrails logprobs max_tokens messages metadata min_tokens model n "
    "parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_logprobs "
    "prompt_mode random_seed reasoning_effort repetition_penalty response_format safe_prompt "
    "service_tier stop stream temperature tool_choice tools top_k top_logprobs top_p "
    "top_prompt_logprobs"
)
"""The fields of Mistral's own SDK; others are refused."""

_SAID: dict[Kind, tuple[int, Json]] = {
    "auth": (401, {"detail": "Unauthorized"}),
    "context": (
        400,
        {
            "message": "Prompt contains 38141 tokens, too large for model with 32768 maximum "
            "context length",
            "type": "invalid_request_prompt",
            "code": "3051",
        },
    ),
    "not_found": (400, {"message": "Invalid model", "type": "invalid_model", "code": "1500"}),
    "overloaded": (
        503,
        {"message": "capacity exceeded", "type": "service_tier_capacity_exceeded", "code": "3505"},
    ),
    "permission": (403, {"message": "You cannot use this model.", "type": "forbidden"}),
    "quota": (402, {"detail": "Payment required"}),
    "rate": (429, {"message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"}),
}


class Mistral(Wire):
    """What every endpoint has in common: errors that stand at the top of the body."""

    names = "mistral-correlation-id"

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give `{"object": "error", message, type, param, code, raw_status_code}` or `detail`."""
        kind = kind_of(status, problem)
        code, said = _SAID.get(kind, (status, {"message": problem.message, "type": problem.type}))
        if "detail" not in said:
            frame = {"object": "error", "param": None, "code": None, "raw_status_code": code}
            said = frame | said
        return code, said

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give `x-ratelimit-{limit,remaining}-{req,tokens}-minute`; resets are not told."""
        headers: list[tuple[str, str]] = []
        for name, state in standing.items():
            short = "req" if name == "requests" else name
            headers += [
                (f"x-ratelimit-limit-{short}-minute", str(state.limit)),
                (f"x-ratelimit-remaining-{short}-minute", str(state.remaining)),
            ]
            if name == "tokens":
                headers.append(("x-ratelimit-tokens-query-cost", str(math.ceil(state.limit / 100))))
        return tuple(headers)


class MistralChat(Mistral, Chat):
    """`POST …/chat/completions`."""

    def objection(self, call: Call) -> str | None:
        """Mind every field that Mistral does not know."""
        extra = sorted(set(call.body or {}) - set(_FIELDS.split()))
        return f"extra_forbidden: {extra[0]}: Extra inputs are not permitted" if extra else None

    def frame(self, turn: Turn, kind: str) -> Json:
        """Leave OpenAI's own fields out."""
        number = f"{turn.call.index:032x}"
        return {"id": number, "object": kind, "created": turn.created, "model": turn.model}

    def message(self, turn: Turn) -> Json:
        """Give text, or parts when the model thought."""
        said: Json = {"role": "assistant", "tool_calls": None, "content": content(turn.reply) or ""}
        if turn.thought:
            said["content"] = [_thinking(turn), {"type": "text", "text": turn.reply.text}]
        if turn.reply.tool_calls:
            said["tool_calls"] = [
                {"id": tool.id, "function": {"name": tool.name, "arguments": tool.arguments}}
                for tool in turn.reply.tool_calls
            ]
        return said

    def deltas(self, turn: Turn) -> list[Json]:
        """Give text pieces, thoughts as parts before them, tool calls whole."""
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if turn.thought:
            deltas.append({"content": [_thinking(turn)]})
            parts = ([{"type": "text", "text": piece}] for piece in turn.pieces)
            deltas += [{"content": part} for part in parts]
        else:
            deltas += [{"content": piece} for piece in turn.pieces]
        if turn.reply.tool_calls:
            deltas.append({"content": "", "tool_calls": self.message(turn)["tool_calls"]})
        return deltas

    def closing(self, turn: Turn, frame: Json) -> list[Json]:
        """Give finish reason and usage in one chunk, asked for or not."""
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": self.finish(turn)}
        return [frame | {"choices": [choice], "usage": self.usage(turn)}]

    def usage(self, turn: Turn) -> Json:
        """Give OpenAI's names, the cached tokens twice, and no word on reasoning."""
        usage = turn.usage
        return {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
            "num_cached_tokens": usage.cached,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }


class Models(Mistral, OpenAIModels):
    """`GET …/models`."""

    more: ClassVar[Json] = {
        "type": "base",
        "max_context_length": 131072,
        "capabilities": {"completion_chat": True},
    }


def _thinking(turn: Turn) -> Json:
    return {"type": "thinking", "thinking": [{"type": "text", "text": turn.thought}]}
