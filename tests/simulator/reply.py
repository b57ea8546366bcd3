"""What the simulated model says: plain values, free of any provider's wire format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "content_filter", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer: `input` includes `cached` (read from the provider's prompt cache) and
    `written` (put there), `output` includes `reasoning`."""

    input: int
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    written: int = 0

    @property
    def total(self) -> int:
        """Input plus output tokens."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.written + other.written,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool the model wants called; `arguments` is JSON text and may be malformed on purpose."""

    name: str
    arguments: str = "{}"
    id: str = "call_0"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    `usage` None means: counted from the prompt and the text, and `max_tokens` is honoured by
    cutting the text (finish becomes `length`). A given `usage` is billed as it is. `model` is the
    name the answer carries (None: the requested one). `pieces` fixes how a stream cuts the text
    (None: at words). `word` is the provider's own finish reason, in place of the one that stands
    for `finish`.
    """

    text: str = ""
    finish: Finish = "stop"
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    model: str | None = None
    pieces: tuple[str, ...] | None = None
    word: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a provider's words; a wire puts it into its own shape.

    `{key}` inside `message` becomes the key the client sent, to test that it is redacted. `wait`
    is what `retry-after` says.
    """

    message: str
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    wait: str | None = None
