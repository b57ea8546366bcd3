"""OpenAI chat completions, and the error and rate-limit shapes its other endpoints share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulator.call import Ask, Json
from tests.simulator.reply import Problem, Reply, ToolCall, Usage

from .wire import Billing, Turn, dump, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.simulator.http1 import Headers
    from tests.simulator.limits import Standing

FINGERPRINT = "fp_simulator"
_MINUTE = 60


class OpenAI:
    """What every OpenAI endpoint has in common."""

    billing: Billing = "generation"

    def error(self, status: int, problem: Problem) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give `{"error": {message, type, param, code}}`."""
        return {
            "error": {
                "message": problem.message,
                "type": problem.type,
                "param": problem.param,
                "code": problem.code,
            }
        }

    def error_event(self, problem: Problem) -> bytes:
        """Give the error as a data-only event."""
        return b"data: %b\n\n" % dump(self.error(200, problem))

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Refuse to stream; the endpoints that can do so replace this."""
        message = f"{turn.call.path} does not stream"
        raise ValueError(message)

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets like `6m0s`."""
        headers: list[tuple[str, str]] = []
        for name, state in standing.items():
            headers += [
                (f"x-ratelimit-limit-{name}", str(state.limit)),
                (f"x-ratelimit-remaining-{name}", str(state.remaining)),
                (f"x-ratelimit-reset-{name}", duration(state.reset)),
            ]
        return tuple(headers)


class Chat(OpenAI):
    """`POST …/chat/completions`, under any prefix (`/v1`, `/openai/v1`, `/api/v1`)."""

    def serves(self, method: str, path: str) -> bool:
        """Whether the path ends in `/chat/completions`."""
        return method == "POST" and path.endswith("/chat/completions")

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read messages, model, limits and stream options."""
        said = [(message["role"], texts(message.get("content"))) for message in body["messages"]]
        limit = body.get("max_completion_tokens")
        return Ask(
            model=body["model"],
            prompt="\n".join(text for _, text in said),
            last=next((text for role, text in reversed(said) if role == "user"), ""),
            max_tokens=body.get("max_tokens") if limit is None else limit,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    def whole(self, turn: Turn) -> Json:
        """Give a `chat.completion`."""
        message: Json = {
            "role": "assistant",
            "content": _content(turn.reply),
            "refusal": turn.reply.refusal,
            "annotations": [],
        }
        if turn.reply.tool_calls:
            message["tool_calls"] = [_tool(tool) for tool in turn.reply.tool_calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": turn.reply.finish,
        }
        return _base(turn, "chat.completion") | {
            "choices": [choice],
            "usage": chat_usage(turn.usage),
        }

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give role, deltas, finish, the usage when asked for, and `[DONE]`."""
        base = _base(turn, "chat.completion.chunk")
        if turn.ask.include_usage:
            base["usage"] = None
        reply = turn.reply
        deltas: list[Json] = [{"role": "assistant", "content": "", "refusal": None}]
        if reply.refusal is not None:
            deltas.append({"refusal": reply.refusal})
        deltas += [{"content": piece} for piece in turn.pieces]
        for index, tool in enumerate(reply.tool_calls):
            opening = _tool(ToolCall(tool.name, "", tool.id))
            deltas.append({"tool_calls": [{"index": index} | opening]})
            arguments = {"index": index, "function": {"arguments": tool.arguments}}
            deltas.append({"tool_calls": [arguments]})
        choices = [_choice(delta, None) for delta in deltas] + [_choice({}, reply.finish)]
        chunks = [base | {"choices": [choice]} for choice in choices]
        if turn.ask.include_usage:
            chunks.append(base | {"choices": [], "usage": chat_usage(turn.usage)})
        return (*(b"data: %b\n\n" % dump(chunk) for chunk in chunks), b"data: [DONE]\n\n")


def chat_usage(usage: Usage) -> Json:
    """Give usage in chat completions' names; cached is inside prompt, reasoning in completion."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def duration(seconds: float) -> str:
    """Write seconds as OpenAI does: `12ms`, `7.66s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 2), _MINUTE)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _base(turn: Turn, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{turn.call.index:08d}",
        "object": kind,
        "created": turn.created,
        "model": turn.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _choice(delta: Json, finish: str | None) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _content(reply: Reply) -> str | None:
    silent = reply.refusal is not None or bool(reply.tool_calls)
    return None if silent and not reply.text else reply.text


def _tool(tool: ToolCall) -> Json:
    return {
        "id": tool.id,
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    }
