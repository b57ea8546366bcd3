"""The seam for providers: one object per endpoint translates between it and plain values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.simulator.call import Ask, Call, Json
    from tests.simulator.http1 import Headers
    from tests.simulator.limits import Standing
    from tests.simulator.reply import Problem, Reply, Usage

Billing = Literal["generation", "input", "free"]

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
    def pieces(self) -> tuple[str, ...]:
        """The text as a stream cuts it."""
        if self.reply.pieces is not None:
            return self.reply.pieces
        return tuple(_WORDS.findall(self.reply.text))


class Wire(Protocol):
    """One endpoint of one provider; a new provider is one file of these, listed in `registry`.

    `billing` says what it costs: prompt and answer, the prompt only, or nothing.
    """

    billing: Billing

    def serves(self, method: str, path: str) -> bool:
        """Whether a request to this path is for this endpoint."""

    def read(self, body: Json, path: str) -> Ask:
        """Read a request. ValueError, KeyError or TypeError when it is not one."""

    def whole(self, turn: Turn) -> Json:
        """Give the body of a plain answer."""

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give a streamed answer, one complete SSE event a piece; the last one ends it."""

    def error(self, status: int, problem: Problem) -> Json:
        """Give the body of an error."""

    def error_event(self, problem: Problem) -> bytes:
        """Give the SSE event that reports an error after a 200."""

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:
        """Give the headers that tell `requests` and `tokens` limits."""


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


def _no_constant(name: str) -> object:
    message = f"{name} is not JSON"
    raise ValueError(message)
