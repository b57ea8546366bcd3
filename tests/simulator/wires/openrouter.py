"""OpenRouter: OpenAI's chat with a price on every answer, comments, and errors inside a 200."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from tests.simulator.call import Json
from tests.simulator.reply import Problem, Usage

from .openai import Chat
from .openai_other import Models as OpenAIModels
from .wire import Kind, Turn, Wire, data_event, kind_of

_COMMENT = b": OPENROUTER PROCESSING\n\n"
_INPUT, _OUTPUT = Decimal("0.00000123"), Decimal("0.00000456")
_SAID: dict[Kind, tuple[int, str]] = {
    "auth": (401, "No auth credentials found"),
    "context": (400, "This endpoint's maximum context length is 128000 tokens."),
    "not_found": (404, "No endpoints found for nobody/knows-it."),
    "overloaded": (503, "Provider returned error"),
    "permission": (403, "This model requires moderation, and your input was flagged."),
    "quota": (402, "This request requires more credits, or fewer max_tokens."),
    "rate": (429, "Rate limit exceeded: free-models-per-min."),
    "server": (502, "Provider returned error"),
    "timeout": (408, "The request timed out."),
}


def cost(usage: Usage) -> Decimal:
    """Give what OpenRouter says an answer cost, in dollars."""
    return _INPUT * usage.input + _OUTPUT * usage.output


class OpenRouter(Wire):
    """What every endpoint has in common: the status inside the body, and no rate headers."""

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give `{"error": {code, message, metadata}}`; with a status of 200 the body alone."""
        kind = kind_of(status if status >= 400 else 502, problem)
        code, message = _SAID.get(kind, (status, problem.message))
        if kind == "auth":
            message = f"{message} ({problem.message})"
        error = {"code": code, "message": message, "metadata": {"provider_name": "Simulator"}}
        shown = status if status < 400 else code
        return shown, {"error": error, "user_id": "user_simulator"}

    def error_event(self, problem: Problem) -> bytes:
        """Give a chunk with an `error`, and the finish reason `error`."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        chunk: Json = {
            "id": "gen-simulator",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "sim",
            "provider": "Simulator",
            "error": self.refuse(502, problem)[1]["error"],
            "choices": [choice | {"finish_reason": "error", "native_finish_reason": "error"}],
        }
        return data_event(chunk)


class OpenRouterChat(OpenRouter, Chat):
    """`POST …/api/v1/chat/completions`."""

    def frame(self, turn: Turn, kind: str) -> Json:
        """Name the provider that answered."""
        return {
            "id": f"gen-{turn.created}-{turn.call.index:08d}",
            "object": kind,
            "created": turn.created,
            "model": turn.model,
            "provider": "Simulator",
        }

    def whole(self, turn: Turn) -> Json:
        """Add the finish reason in the provider's own word."""
        whole = super().whole(turn)
        whole["choices"][0]["native_finish_reason"] = "completed"
        return whole

    def message(self, turn: Turn) -> Json:
        """Give the thoughts beside the text."""
        thought = turn.thought or None
        return super().message(turn) | {"reasoning": thought}

    def deltas(self, turn: Turn) -> list[Json]:
        """Give the thoughts first."""
        first, *rest = super().deltas(turn)
        thought = {"role": "assistant", "content": "", "reasoning": turn.thought}
        return [first, *([thought] if turn.thought else []), *rest]

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Keep the connection awake with comments."""
        first, *rest = super().events(turn)
        return (_COMMENT + _COMMENT + first, *(_COMMENT + event for event in rest))

    def closing(self, turn: Turn, frame: Json) -> list[Json]:
        """Give the finish reason, and once more with the usage, asked for or not."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "finish_reason": self.finish(turn)}
        chunk = frame | {"choices": [choice | {"native_finish_reason": "completed"}]}
        return [chunk, chunk | {"usage": self.usage(turn)}]

    def usage(self, turn: Turn) -> Json:
        """Add the price."""
        price = float(cost(turn.usage))
        details = {"upstream_inference_cost": None}
        return super().usage(turn) | {"cost": price, "cost_details": details, "is_byok": False}


class Key(OpenRouter):
    """`GET …/api/v1/key`: what is known of the key; free, so it serves to check one."""

    billing = "free"
    place = "GET", "/key"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the key's label and credit."""
        return {"data": {"label": "sk-or-v1-sim...ulator", "usage": 1.5, "limit": None}}


class Models(OpenRouter, OpenAIModels):
    """`GET …/models`, which OpenRouter shows to everybody: it says nothing of a key."""

    public = True

    more: ClassVar[Json] = {
        "context_length": 128000,
        "top_provider": {"max_completion_tokens": 16384},
        "pricing": {"prompt": str(_INPUT), "completion": str(_OUTPUT)},
    }
