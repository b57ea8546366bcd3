"""Groq: OpenAI's chat, with its usage in `x_groq` and requests limited by the day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.simulator.call import Json, bearer
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem

from .openai import Chat, OpenAI
from .openai_other import Models as OpenAIModels
from .wire import Turn, data_event

_DAY = 24 * 60


class Groq(OpenAI):
    """What every endpoint has in common: OpenAI's errors and headers, with days for minutes."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take a bearer token."""
        return bearer(headers)

    def error_event(self, problem: Problem) -> bytes:
        """Give an `error` event that carries its status."""
        error = {"message": problem.message, "type": problem.type, "code": problem.code}
        data = {"error": error | {"status_code": 500}}
        return b"event: error\n" + data_event(data)

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give OpenAI's names; requests are counted by the day, tokens by the minute."""
        by_day = dict(standing)
        if state := by_day.get("requests"):
            day = state.limit * _DAY
            left = day - state.limit + state.remaining
            by_day["requests"] = Standing(day, left, state.reset)
        return super().rate_headers(by_day)


class GroqChat(Groq, Chat):
    """`POST …/openai/v1/chat/completions`."""

    def whole(self, turn: Turn) -> Json:
        """Add `x_groq`."""
        return super().whole(turn) | {"x_groq": {"id": f"req_{turn.call.index:08d}", "seed": 1}}

    def message(self, turn: Turn) -> Json:
        """Give the thoughts beside the text."""
        kept = ("role", "content", "tool_calls")
        message = {name: value for name, value in super().message(turn).items() if name in kept}
        return message | ({"reasoning": turn.thought} if turn.thought else {})

    def deltas(self, turn: Turn) -> list[Json]:
        """Give the thoughts first."""
        first, *rest = super().deltas(turn)
        thought = {"reasoning": turn.thought, "channel": "analysis"}
        return [first, *([thought] if turn.thought else []), *rest]

    def closing(self, turn: Turn, frame: Json) -> list[Json]:
        """Give the usage inside `x_groq`, and as OpenAI does when that was asked for."""
        first, *rest = super().closing(turn, frame)
        named = {"id": f"req_{turn.call.index:08d}", "usage": self.usage(turn)}
        return [first | {"x_groq": named}, *rest]

    def usage(self, turn: Turn) -> Json:
        """Add the times, and leave zeros out."""
        usage = turn.usage
        said: Json = {
            "queue_time": 0.1,
            "prompt_tokens": usage.input,
            "prompt_time": 0.01,
            "completion_tokens": usage.output,
            "completion_time": 0.05,
            "total_tokens": usage.total,
            "total_time": 0.06,
        }
        if usage.cached:
            said["prompt_tokens_details"] = {"cached_tokens": usage.cached}
        if usage.reasoning:
            said["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
        return said


class Models(Groq, OpenAIModels):
    """`GET …/openai/v1/models`."""

    more: ClassVar[Json] = {
        "active": True,
        "context_window": 131072,
        "max_completion_tokens": 65536,
    }
