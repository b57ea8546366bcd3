"""The seam for providers: one object per endpoint translates between it and plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.simulator.call import Ask, Call, Json, bearer
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem, Reply, Usage

Billing = Literal["generation", "input", "free"]
Kind = str  # one of those below, or invalid, server

_MEDIA = ("media_type", "mimeType", "mime_type")
_WORDS = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered request: what was asked, what is said, what it costs; `created` is Unix s."""

    call: Call
    ask: Ask
    reply: Reply
    usage: Usage
    created: int

    @property
    def model(self) -> str:
        """The model name the answer carries."""
        return self.reply.model or self.ask.model

    @property
    def reason(self) -> str:
        """Why the model stopped, in the simulator's word."""
        return "refusal" if self.reply.refusal is not None else self.reply.finish

    @property
    def thought(self) -> str:
        """What the model thought before it spoke; empty when it bills no reasoning."""
        return "Let me think." if self.usage.reasoning else ""

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text as a stream cuts it."""
        if self.reply.pieces is not None:
            return self.reply.pieces
        return tuple(_WORDS.findall(self.reply.text))


class Wire:
    """One endpoint of one provider; a new provider is one file of these, listed in `registry`.

    It is asked at `place`: the method, and how the path ends. `billing` says what it costs: prompt
    and answer, the prompt only, or nothing. What is `public` is served to any key; what
    `takes_bytes` gets no JSON. `unsaid` are headers that this provider's refusals leave out;
    `names` is the header that names a request, `stream_type` the type of a stream.
    """

    place: tuple[str, str | tuple[str, ...]]
    billing: Billing = "generation"
    public = False
    takes_bytes = False
    unsaid: frozenset[str] = frozenset({"retry-after-ms"})
    names = "x-request-id"
    stream_type = "text/event-stream; charset=utf-8"

    def __init__(self, models: Sequence[str] = ()) -> None:
        self.models = tuple(models)

    def serves(self, method: str, path: str) -> bool:
        """Whether a request to this path is for this endpoint."""
        return method == self.place[0] and path.endswith(self.place[1])

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take the API key from where this provider looks for it, and nowhere else."""
        return bearer(headers)

    def objection(self, call: Call) -> str | None:  # noqa: ARG002  (for subclasses)
        """Say what this provider finds wrong with a request, or None; it is a 400."""
        return None

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (for subclasses)
        """Read a request. ValueError, KeyError or TypeError when it is not one."""
        return Ask(model="")

    def whole(self, turn: Turn) -> Json:
        """Give the body of a plain answer."""
        raise NotImplementedError

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give a streamed answer, one complete event a piece; the last one ends it."""
        message = f"{turn.call.path} does not stream"
        raise ValueError(message)

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Put an error into this provider's status and body."""
        raise NotImplementedError

    def error_event(self, problem: Problem) -> bytes:
        """Give the event that reports an error after a 200."""
        return data_event(self.refuse(500, problem)[1])

    def unknown_event(self) -> bytes:
        """Give an event that no client knows yet, and must pass over."""
        return named_event({"type": "x-unheard-of", "delta": {"text": "unheard"}})

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:  # noqa: ARG002  (as above)
        """Give the headers that tell `requests` and `tokens` limits."""
        return ()


def kind_of(status: int, problem: Problem) -> Kind:
    """Tell what a problem is, so that a wire can say it in its provider's words.

    `Problem` speaks OpenAI's language; its code says more than the status.
    """
    said = _KIND_OF_CODE.get(problem.code or "") or _KIND_OF_CODE.get(problem.type)
    plain = "invalid" if 400 <= status < 500 else "server"
    return said or _KIND_OF_STATUS.get(status, plain)


_KIND_OF_CODE: dict[str, Kind] = {
    "insufficient_quota": "quota",
    "billing_error": "quota",
    "context_length_exceeded": "context",
    "invalid_api_key": "auth",
    "model_not_found": "not_found",
    "rate_limit_exceeded": "rate",
    "permission_error": "permission",
    "overloaded_error": "overloaded",
    "no_such_object": "missing",
}

_KIND_OF_STATUS: dict[int, Kind] = {
    401: "auth",
    402: "quota",
    403: "permission",
    404: "not_found",
    408: "timeout",
    429: "rate",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}


def data_event(value: Json, end: bytes = b"\n\n") -> bytes:
    """Write a data-only SSE event."""
    return b"data: %b%b" % (dump(value), end)


def named_event(value: Json) -> bytes:
    """Write an SSE event with the name of its type."""
    return b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), dump(value))


def dump(value: Json) -> bytes:
    """Write compact JSON in raw UTF-8; escaped when the text holds lone surrogates."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def load(raw: bytes) -> Json:
    """Read a JSON object; ValueError, TypeError or RecursionError when it is none, or holds NaN."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:  # lone surrogates and huge integers are JSON all the same
        value = json.loads(raw)
        json.dumps(value, allow_nan=False)
    if not isinstance(value, dict):
        message = "not a JSON object"
        raise TypeError(message)
    return value


def texts(content: object) -> str:
    """Join the text of a message: a plain text, or parts that carry `text` (others are skipped)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        found = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in found if isinstance(text, str))
    return ""


def spoken(turns: Sequence[tuple[str, object]], **more: Any) -> Ask:
    """Make an `Ask` from roles and contents in their order."""
    said = tuple((role, texts(content)) for role, content in turns)
    attached = [file for _, content in turns for file in files(content)]
    return Ask(
        prompt="\n".join(text for _, text in said),
        last=next((text for role, text in reversed(said) if role == "user"), ""),
        turns=said,
        files=tuple(attached),
        **more,
    )


def files(content: object) -> Iterator[tuple[str, str]]:
    """Find what is attached, in any provider's words: media type and base64, or `url` and it."""
    if isinstance(content, list):
        for part in content:
            yield from files(part)
    elif isinstance(content, dict):
        media = next((content[name] for name in _MEDIA if name in content), None)
        if isinstance(media, str) and "data" in content:
            yield media, content["data"]
        elif "format" in content and "data" in content:
            yield f"audio/{content['format']}", content["data"]
        elif isinstance(content.get("input_audio"), str):
            yield "audio/*", content["input_audio"]
        else:
            for value in content.values():
                yield from files(value)
    elif isinstance(content, str) and content.startswith("data:"):
        head, _, data = content.removeprefix("data:").partition(";base64,")
        yield head, data
    elif isinstance(content, str) and content.startswith("https://"):
        yield "url", content
