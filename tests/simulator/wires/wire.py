"""The seam for providers: one object per endpoint translates between it and plain values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import orjson

from tests.simulator.call import Ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.simulator.call import Call, Json
    from tests.simulator.http1 import Headers
    from tests.simulator.limits import Standing
    from tests.simulator.reply import Problem, Reply, Usage

Billing = Literal["generation", "input", "free"]
Kind = Literal[
    "auth",
    "context",
    "invalid",
    "not_found",
    "overloaded",
    "permission",
    "quota",
    "rate",
    "server",
    "timeout",
]

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


class Refused(NamedTuple):
    """How a provider says no: its own status, body and headers."""

    status: int
    body: Json
    headers: Mapping[str, str]


class Wire(Protocol):
    """One endpoint of one provider; a new provider is one file of these, listed in `registry`.

    `billing` says what it costs: prompt and answer, the prompt only, or nothing. What is `public`
    is served to any key.
    """

    billing: Billing
    public: bool

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take the API key from where this provider looks for it, and nowhere else."""

    def objection(self, call: Call) -> str | None:
        """Say what this provider finds wrong with a request, or None; it is a 400."""

    def serves(self, method: str, path: str) -> bool:
        """Whether a request to this path is for this endpoint."""

    def read(self, body: Json, path: str) -> Ask:
        """Read a request. ValueError, KeyError or TypeError when it is not one."""

    def whole(self, turn: Turn) -> Json:
        """Give the body of a plain answer."""

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give a streamed answer, one complete SSE event a piece; the last one ends it."""

    def refuse(self, status: int, problem: Problem, headers: Mapping[str, str]) -> Refused:
        """Put an error into this provider's status, body and headers."""

    def error_event(self, problem: Problem) -> bytes:
        """Give the SSE event that reports an error after a 200."""

    def unknown_event(self) -> bytes:
        """Give an SSE event that no client knows yet, and must pass over."""

    def id_headers(self, index: int) -> Headers:
        """Give the headers that name a request, for the provider's support desk."""

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give the headers that tell `requests` and `tokens` limits."""


class Base:
    """What most endpoints have in common: a bearer token, no objections, no stream."""

    billing: Billing = "generation"
    public: bool = False

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take a bearer token."""
        return bearer(headers)

    def objection(self, call: Call) -> str | None:  # noqa: ARG002  (the seam passes it)
        """Find nothing wrong."""
        return None

    def refuse(self, status: int, problem: Problem, headers: Mapping[str, str]) -> Refused:
        """Give the body of `error`, with status and headers as they are."""
        return Refused(status, self.error(status, problem), headers)

    def error(self, status: int, problem: Problem) -> Json:
        """Give the body of an error."""
        raise NotImplementedError

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Refuse to stream; the endpoints that can do so replace this."""
        message = f"{turn.call.path} does not stream"
        raise ValueError(message)

    def error_event(self, problem: Problem) -> bytes:
        """Give the error as a data-only event."""
        return data_event(self.error(200, problem))

    def unknown_event(self) -> bytes:
        """Give a named event nobody has heard of."""
        return named_event("x-unheard-of", {"type": "x-unheard-of", "delta": {"text": "unheard"}})

    def id_headers(self, index: int) -> Headers:
        """Give `x-request-id`."""
        return (("x-request-id", f"req_{index:08d}"),)

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:  # noqa: ARG002  (as above)
        """Say nothing of limits."""
        return ()


def bearer(headers: Mapping[str, str]) -> str | None:
    """Take the token of an `authorization: Bearer …` header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def kind_of(status: int, problem: Problem) -> Kind:
    """Tell what a problem is, so that a wire can say it in its provider's words.

    `Problem` speaks OpenAI's language; its code says more than the status.
    """
    said = _KIND_OF_CODE.get(problem.code or "") or _KIND_OF_CODE.get(problem.type)
    if said:
        return said
    if status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    return "invalid" if 400 <= status < 500 else "server"


_KIND_OF_CODE: dict[str, Kind] = {
    "insufficient_quota": "quota",
    "billing_error": "quota",
    "context_length_exceeded": "context",
    "invalid_api_key": "auth",
    "model_not_found": "not_found",
    "rate_limit_exceeded": "rate",
    "permission_error": "permission",
    "overloaded_error": "overloaded",
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


def named_event(name: str, value: Json) -> bytes:
    """Write an SSE event with a name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dump(value))


def dump(value: Json) -> bytes:
    """Write compact JSON in raw UTF-8; escaped when the text holds lone surrogates."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def load(raw: bytes) -> Json:
    """Read a JSON object; ValueError or RecursionError when it is none, or holds NaN."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:  # lone surrogates and huge integers are JSON all the same
        value = json.loads(raw, parse_constant=_no_constant)
    if not isinstance(value, dict):
        message = "not a JSON object"
        raise ValueError(message)  # noqa: TRY004  (whoever reads a request catches one kind)
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


def _no_constant(name: str) -> object:
    message = f"{name} is not JSON"
    raise ValueError(message)
