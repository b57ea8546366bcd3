"""OpenAI chat completions, and the error and rate-limit shapes its other endpoints share."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.simulator.call import Ask, Call, Json, bearer
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem, Reply, ToolCall

from .wire import Turn, Wire, data_event, spoken

_MINUTE = 60
_ERROR = ("message", "type", "param", "code")
_THINKS = re.compile(r"(o[134]|gpt-5)(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$")
_SAMPLING = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}


class OpenAI(Wire):
    """What every OpenAI endpoint has in common."""

    unsaid = frozenset()

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take a bearer token, or Azure's `api-key`."""
        return bearer(headers) or headers.get("api-key")

    def objection(self, call: Call) -> str | None:
        """Mind, as a model that thinks, how it is told to choose its words."""
        body = call.body or {}
        if self.billing != "generation" or not _THINKS.match(str(body.get("model"))):
            return None
        for name, default in _SAMPLING.items():
            if body.get(name) not in (None, default):
                return f"Unsupported value: '{name}' does not support {body[name]} with this model."
        if "max_tokens" in body:
            return "Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'."
        return None

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give `{"error": {message, type, param, code}}`."""
        return status, {"error": {name: getattr(problem, name) for name in _ERROR}}

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets like `6m0s`."""
        return tuple(
            header
            for name, state in standing.items()
            for header in (
                (f"x-ratelimit-limit-{name}", str(state.limit)),
                (f"x-ratelimit-remaining-{name}", str(state.remaining)),
                (f"x-ratelimit-reset-{name}", duration(state.reset)),
            )
        )


class Chat(OpenAI):
    """`POST …/chat/completions`, under any prefix (`/v1`, `/openai/v1`, `/api/v1`).

    Providers that speak nearly the same language replace the small methods.
    """

    place = "POST", "/chat/completions"

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read messages, model, limits and stream options."""
        limit = body.get("max_completion_tokens")
        form = body.get("response_format") or {}
        return spoken(
            [(message["role"], message.get("content")) for message in body["messages"]],
            model=body["model"],
            max_tokens=body.get("max_tokens") if limit is None else limit,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            temperature=body.get("temperature"),
            schema=(form.get("json_schema") or {}).get("schema"),
        )

    def whole(self, turn: Turn) -> Json:
        """Give a `chat.completion`."""
        choice = {"index": 0, "message": self.message(turn), "logprobs": None}
        choice["finish_reason"] = self.finish(turn)
        whole = {"choices": [choice], "usage": self.usage(turn)}
        return self.frame(turn, "chat.completion") | whole

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give role, deltas, finish, the usage when asked for, and `[DONE]`."""
        frame = self.frame(turn, "chat.completion.chunk")
        if turn.ask.include_usage:
            frame["usage"] = None
        chunks = [frame | {"choices": [_choice(delta, None)]} for delta in self.deltas(turn)]
        chunks += self.closing(turn, frame)
        return (*map(data_event, chunks), b"data: [DONE]\n\n")

    def unknown_event(self) -> bytes:
        """Give a chunk of a kind nobody has heard of, and a named event."""
        chunk = {"object": "chat.completion.unheard", "choices": [], "x": {"y": ["z"]}}
        return data_event(chunk) + super().unknown_event()

    def frame(self, turn: Turn, kind: str) -> Json:
        """Give what stands around every answer and chunk."""
        return {
            "id": f"chatcmpl-{turn.call.index:08d}",
            "object": kind,
            "created": turn.created,
            "model": turn.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }

    def message(self, turn: Turn) -> Json:
        """Give the whole message."""
        message: Json = {"role": "assistant", "content": content(turn.reply)}
        message["refusal"] = turn.reply.refusal
        if turn.reply.tool_calls:
            message["tool_calls"] = [tool_json(tool) for tool in turn.reply.tool_calls]
        return message

    def deltas(self, turn: Turn) -> list[Json]:
        """Give the message in pieces."""
        reply = turn.reply
        deltas: list[Json] = [{"role": "assistant", "content": "", "refusal": None}]
        if reply.refusal is not None:
            deltas.append({"refusal": reply.refusal})
        deltas += [{"content": piece} for piece in turn.pieces]
        for index, tool in enumerate(reply.tool_calls):
            opening = tool_json(ToolCall(tool.name, "", tool.id))
            deltas.append({"tool_calls": [{"index": index} | opening]})
            arguments = {"index": index, "function": {"arguments": tool.arguments}}
            deltas.append({"tool_calls": [arguments]})
        return deltas

    def closing(self, turn: Turn, frame: Json) -> list[Json]:
        """Give the chunk with the finish reason, and the usage when it was asked for."""
        chunks = [frame | {"choices": [_choice({}, self.finish(turn))]}]
        if turn.ask.include_usage:
            chunks.append(frame | {"choices": [], "usage": self.usage(turn)})
        return chunks

    def finish(self, turn: Turn) -> str:
        """Give the finish reason."""
        return turn.reply.word or turn.reply.finish

    def usage(self, turn: Turn) -> Json:
        """Give the usage; cached is inside prompt, reasoning inside completion."""
        usage = turn.usage
        cached = {"cached_tokens": usage.cached, "cache_write_tokens": usage.written}
        return {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
            "prompt_tokens_details": cached,
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }


def duration(seconds: float) -> str:
    """Write seconds as OpenAI does: `12ms`, `7.66s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 2), _MINUTE)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _choice(delta: Json, finish: str | None) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def content(reply: Reply) -> str | None:
    """Give the text of a message; None when there is only a refusal or a tool call."""
    silent = reply.refusal is not None or bool(reply.tool_calls)
    return None if silent and not reply.text else reply.text


def tool_json(tool: ToolCall) -> Json:
    """Give a tool call in OpenAI's shape."""
    return {
        "id": tool.id,
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    }
