"""Google's Gemini API: content plain and streamed, the token count, the models."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

from tests.simulator.call import Ask, Call, Json
from tests.simulator.reply import Problem, Usage

from .wire import Kind, Turn, Wire, data_event, kind_of, load, spoken

_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",  # Gemini has no word for it: the parts say so
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
}
_ROLES = {"user": "user", "model": "assistant", "function": "tool"}
_TYPES = "type.googleapis.com/google.rpc."
_SAID: dict[Kind, tuple[int, str, str]] = {
    "auth": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "context": (400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number."),
    "invalid": (400, "INVALID_ARGUMENT", ""),
    "missing": (404, "NOT_FOUND", ""),
    "not_found": (404, "NOT_FOUND", "models/nobody is not found for API version v1beta."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "permission": (403, "PERMISSION_DENIED", "The caller does not have permission"),
    "quota": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    "rate": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    "server": (500, "INTERNAL", "An internal error has occurred."),
    "timeout": (504, "DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}


class Gemini(Wire):
    """What every endpoint has in common: `x-goog-api-key` and Google's error shape."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take `x-goog-api-key`."""
        return headers.get("x-goog-api-key")

    unsaid = frozenset({"retry-after", "retry-after-ms"})
    names = ""  # Google names an answer in its body

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give Google's status and details; waits stand in `RetryInfo`, never in a header."""
        kind = kind_of(status, problem)
        code, word, message = _SAID[kind]
        if kind in {"invalid", "missing", "server"}:
            code, message = max(status, code), problem.message
        if kind == "auth":
            message = f"{message} ({problem.message})"
        error: Json = {"code": code, "message": message, "status": word}
        details = _details(kind, _seconds(problem.wait))
        if details:
            error["details"] = details
        return code, {"error": error}

    def error_event(self, problem: Problem) -> bytes:
        """Give the error as an event's data."""
        return data_event(self.refuse(500, problem)[1], b"\r\n\r\n")

    def unknown_event(self) -> bytes:
        """Give a chunk of fields nobody has heard of, and a part of a kind nobody knows."""
        part = {"unheardOf": {"x": 1}, "thoughtSignature": "c2ln"}
        candidate = {"index": 0, "content": {"role": "model", "parts": [part]}}
        chunks: tuple[Json, ...] = ({"unheard": [1]}, {"candidates": [candidate]})
        return b"".join(data_event(chunk, b"\r\n\r\n") for chunk in chunks)


class Generate(Gemini):
    """`POST …/models/M:generateContent` and `:streamGenerateContent?alt=sse`."""

    place = "POST", (":generateContent", ":streamGenerateContent")

    def objection(self, call: Call) -> str | None:
        """Mind a stream that is not asked for as SSE."""
        streamed = call.ask is not None and call.ask.stream
        if streamed and parse_qs(call.query).get("alt") != ["sse"]:
            return "the simulator streams with alt=sse only"
        return None

    def read(self, body: Json, path: str) -> Ask:
        """Read contents, the system instruction, the limit, and the model in the path."""
        names = ("systemInstruction", "system_instruction")
        system = [("system", body[name]["parts"]) for name in names if body.get(name)]
        given = body.get("generationConfig") or {}
        model, _, verb = unquote(path).rpartition("/models/")[2].partition(":")
        turns = [(_ROLES[turn.get("role", "user")], turn["parts"]) for turn in body["contents"]]
        return spoken(
            [*system, *turns],
            model=model,
            max_tokens=given.get("maxOutputTokens"),
            stream=verb == "streamGenerateContent",
            temperature=given.get("temperature"),
            schema=given.get("responseJsonSchema") or given.get("responseSchema"),
        )

    def whole(self, turn: Turn) -> Json:
        """Give one candidate; a refused prompt has none."""
        if turn.reply.refusal is not None:
            feedback = {
                "blockReason": "PROHIBITED_CONTENT",
                "blockReasonMessage": turn.reply.refusal,
            }
            return {"promptFeedback": feedback} | self.frame(turn, last=True)
        parts: list[Json] = []
        if turn.thought:
            parts.append({"text": turn.thought, "thought": True})
        if turn.reply.text:
            parts.append({"text": turn.reply.text})
        said = _candidate(turn, [*parts, *_calls(turn)], last=True)
        return {"candidates": [said]} | self.frame(turn, last=True)

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give a chunk a piece, each with the usage so far; the stream ends with the bytes."""
        if turn.reply.refusal is not None:
            return (data_event(self.whole(turn), b"\r\n\r\n"),)
        parts: list[Json] = [{"text": piece} for piece in turn.pieces]
        if turn.thought:
            parts.insert(0, {"text": turn.thought, "thought": True})
        parts += _calls(turn)
        chunks = [[part] for part in parts]
        frame = self.frame(turn, last=False)
        bodies = [{"candidates": [_candidate(turn, chunk)]} | frame for chunk in chunks]
        ended = _candidate(turn, [{"text": ""}], last=True)
        bodies.append({"candidates": [ended]} | self.frame(turn, last=True))
        return tuple(data_event(body, b"\r\n\r\n") for body in bodies)

    def frame(self, turn: Turn, *, last: bool) -> Json:  # noqa: ARG002  (for subclasses)
        """Give what stands beside the candidates of an answer, or of a chunk of one."""
        return {
            "usageMetadata": _usage(turn.usage),
            "modelVersion": turn.model,
            "responseId": f"resp_{turn.call.index:08d}",
        }


class CountTokens(Gemini):
    """`POST …/models/M:countTokens`."""

    billing = "free"
    place = "POST", ":countTokens"

    def read(self, body: Json, path: str) -> Ask:
        """Read contents, or the whole request that would be sent."""
        inner = body.get("generateContentRequest") or body
        return Generate().read(inner, path)

    def whole(self, turn: Turn) -> Json:
        """Give the count."""
        each = [{"modality": "TEXT", "tokenCount": turn.usage.input}]
        return {"totalTokens": turn.usage.input, "promptTokensDetails": each}


class Models(Gemini):
    """`GET …/models`."""

    billing = "free"
    place = "GET", "/models"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is; names carry the collection before them."""
        return {
            "models": [
                {
                    "name": f"models/{name}",
                    "displayName": f"The {name}",
                    "inputTokenLimit": 1048576,
                    "outputTokenLimit": 65536,
                    "supportedGenerationMethods": ["generateContent", "countTokens"],
                }
                for name in self.models
            ]
        }


def _seconds(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _details(kind: Kind, wait: float | None) -> list[Json]:
    details: list[Json] = []
    if kind == "auth":
        reason = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        details.append({"@type": _TYPES + "ErrorInfo"} | reason)
    if kind in {"quota", "rate"}:
        per = "Day" if kind == "quota" else "Minute"
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
            "quotaId": f"GenerateRequestsPer{per}PerProjectPerModel",
            "quotaDimensions": {"location": "global", "model": "gemini"},
        }
        details.append({"@type": _TYPES + "QuotaFailure", "violations": [violation]})
        details.append({"@type": _TYPES + "Help", "links": []})
    if wait is not None:
        details.append({"@type": _TYPES + "RetryInfo", "retryDelay": f"{wait:.9f}s"})
    return details


def _candidate(turn: Turn, parts: list[Json], *, last: bool = False) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
    if last:
        candidate["finishReason"] = turn.reply.word or _FINISH[turn.reason]
    return candidate


def _calls(turn: Turn) -> list[Json]:
    return [
        {"functionCall": {"name": tool.name, "args": load(tool.arguments.encode()), "id": tool.id}}
        for tool in turn.reply.tool_calls
    ]


def _usage(usage: Usage) -> Json:
    """Give usage in Google's convention: candidates leave out thoughts; zeros are not said."""
    said = {
        "promptTokenCount": usage.input,
        "cachedContentTokenCount": usage.cached,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": usage.total,
    }
    return {name: count for name, count in said.items() if count}
