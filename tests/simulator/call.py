"""One request as the simulator saw it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .reply import Usage

Json = dict[str, Any]
Outcome = Literal["pending", "answered", "refused", "dropped", "abandoned"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for, whichever provider's wire it came on.

    `prompt` is all its text, `last` the last user text; `max_tokens` None means no limit.
    `turns` are roles (`system`, `user`, `assistant`, …) and texts in their order, `files` media
    type and base64 (or `url` and an address) of what is attached, `schema` the JSON Schema that
    the answer should fit.
    """

    model: str
    prompt: str = ""
    last: str = ""
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    temperature: float | None = None
    turns: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    schema: Json | None = None


@dataclass(slots=True)
class Call:
    """One request.

    `key` stands for its body (method and path without one), `index` counts requests from 0,
    `attempt` the requests with this key from 1, `received` and `ended` are in seconds of
    `time.monotonic`. `outcome` is `pending` until the answer is out: then `answered` (whole, below
    400), `refused` (400 and above), `dropped` (the simulator broke the connection) or `abandoned`
    (the client left first). `billed` is None when nothing was billed; `fault` names the fault.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    raw: bytes
    key: str
    connection: int
    received: float
    index: int = 0
    attempt: int = 0
    body: Json | None = None
    ask: Ask | None = None
    outcome: Outcome = "pending"
    ended: float | None = None
    status: int | None = None
    fault: str | None = None
    billed: Usage | None = None

    @property
    def model(self) -> str:
        """The requested model, or an empty text."""
        return self.ask.model if self.ask else ""

    @property
    def prompt(self) -> str:
        """All text of the request (system, user, input), or an empty text."""
        return self.ask.prompt if self.ask else ""

    @property
    def api_key(self) -> str | None:
        """The key the client sent: a bearer token, or any provider's own header."""
        own = ("x-api-key", "x-goog-api-key", "api-key")
        found = next((self.headers[name] for name in own if name in self.headers), None)
        return bearer(self.headers) or found


def bearer(headers: Mapping[str, str]) -> str | None:
    """Take the token of an `authorization: Bearer …` header (names are lower case)."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
