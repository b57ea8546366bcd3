"""The seam of the languages that callers speak: one file a language, pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct, field

from llmctl.types import JSON, Answer, StreamChunk


class Asked(Struct, frozen=True):
    """What a caller asks, as its dialect reads it.

    Attributes:
        body: as it came, without `stream` and what belongs to that.
        model: what the caller wrote: a profile, `profile/model`, or an alias.
        stream: whether the caller reads the answer while it comes.
        usage: whether a stream is to end with its usage (OpenAI's `stream_options`).
        limit: the field of the body that limits the answer's tokens; where it has several that are
            set, the one that the dialect's own servers go by.
        headers: of the caller's, that go to a provider of the same language.

    """

    body: JSON
    model: str
    stream: bool = False
    usage: bool = False
    limit: str = "max_tokens"
    headers: Mapping[str, str] = field(default_factory=dict)


class Failure(Struct, frozen=True):
    """An error as a caller hears of it. `kind` is an `error.type` of llmctl's own rows
    (`rate_limited`, `budget`, `auth`, …), `retry_after` seconds."""

    status: int
    kind: str
    message: str
    retry_after: float | None = None
    field: str | None = None


class StreamWriter(Protocol):
    """Writes one streamed answer as server-sent events, in the caller's language."""

    def piece(self, chunk: StreamChunk) -> bytes:
        """The events of one piece: the provider's own (`chunk.data`) where it speaks the same
        language, else of its text. Nothing where it says nothing to the caller."""

    def end(self, answer: Answer) -> bytes:
        """The last events: what was not told yet of the answer (all of a kept one), and the end
        mark."""

    def error(self, failure: Failure) -> bytes:
        """The event of an error after the first piece; nothing follows it."""


class Dialect(Protocol):
    """One language. `path` is where it is spoken below `/v1`, and where a provider of the same
    language takes its bodies (`registry.speaks`)."""

    path: str

    def read(self, body: JSON, headers: Mapping[str, str]) -> Asked:
        """The body, of which only what the gateway goes by is checked: the rest is the provider's
        to refuse. `headers` have lower-case names. Raises `InvalidRequest` (`sent=False`) that
        names the field."""

    def as_chat(self, asked: Asked) -> JSON:
        """The same question as a body of OpenAI's chat completions, for providers that do not
        speak this language. Raises `InvalidRequest` (`sent=False`) that names the field which has
        no counterpart there."""

    def answer(self, asked: Asked, answer: Answer, id: str) -> bytes:
        """The answer's body, made of its text, tool calls and usage. A provider's own body goes
        to the caller as it is, without this. `id` is the call's."""

    def writer(self, asked: Asked, id: str) -> StreamWriter:
        """A writer of one streamed answer."""

    def failure(self, failure: Failure) -> bytes:
        """The body of an error."""


def event(data: bytes, name: str = "") -> bytes:
    """A server-sent event; data of several lines stays so."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
