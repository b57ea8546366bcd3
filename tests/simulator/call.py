"""One request as the simulator saw it, and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .http1 import Head
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

    `key` is `content_key` of its body, `index` counts requests from 0, `attempt` the requests with
    this key from 1, `received` and `ended` are in seconds of `time.monotonic`. `outcome` is
    `pending` until the answer is out: then `answered` (whole, below 400), `refused` (400 and
    above), `dropped` (the simulator broke the connection) or `abandoned` (the client left first).
    `billed` is None when nothing was billed; `fault` names the fault that was injected.
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

    @classmethod
    def of(cls, head: Head, raw: bytes, connection: int) -> Call:
        """Note a request that arrives now; without a body its key is method and path."""
        return cls(
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            raw=raw,
            key=content_key(raw) if raw else f"{head.method} {head.path}",
            connection=connection,
            received=time.monotonic(),
        )

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
        """The key the client sent in any provider's header, or None."""
        return api_key(self.headers)


def api_key(headers: Mapping[str, str]) -> str | None:
    """Take the key from lower-case headers: a bearer token, or any provider's own header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    own = ("x-api-key", "x-goog-api-key", "api-key")
    return next((headers[name] for name in own if name in headers), None)


def content_key(raw: bytes) -> str:
    """Name a request body: 16 hex digits, equal for equal bytes."""
    return blake2b(raw, digest_size=8).hexdigest()
