"""What a person sees: figures, the closing line of a call, and text made safe for a terminal."""

from __future__ import annotations

import os
import re
import sys
from decimal import Decimal
from typing import TextIO

from llmctl.types import Answer, CallRecord

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI sequences (ECMA-48)
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC strings
    r"|\x1b[ -/]*[0-~]?"  # two-character sequences
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # control characters but tab and newline
    r"|[\u202a-\u202e\u2066-\u2069]"  # characters that turn the reading direction
)


def is_tty(stream: TextIO | None) -> bool:
    """True when `stream` is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def colours(stream: TextIO) -> bool:
    """True when `stream` may be coloured: a terminal, or `CLICOLOR_FORCE`; never `NO_COLOR`."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in {"", "0"}:
        return True
    return is_tty(stream) and os.environ.get("TERM") != "dumb"


class Safe:
    """Strips control and escape sequences from text that arrives in pieces.

    A sequence may begin in one piece and end in the next, so what could be its beginning is
    kept back until it is clear.
    """

    _LONGEST = 4096

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, text: str) -> str:
        """What of `text`, and of what was held back, may be shown now."""
        text = self._held + text
        start = text.rfind("\x1b")
        if start >= 0 and len(text) - start < self._LONGEST:
            match = _ESCAPES.match(text, start)
            if match is None or match.end() == len(text):
                self._held = text[start:]
                return _ESCAPES.sub("", text[:start])
        self._held = ""
        return _ESCAPES.sub("", text)


def safe(text: str) -> str:
    """`text` without control and escape sequences."""
    return _ESCAPES.sub("", text)


def dollars(cost: Decimal | None) -> str:
    """`$0.00021`; two significant digits, at least cents; `$?` when it is unknown."""
    if cost is None:
        return "$?"
    if cost == 0:
        return "$0"
    digits = max(2, 1 - cost.adjusted())
    return f"${cost:,.{digits}f}"


def seconds(value: float) -> str:
    """`0.9 s`, `12 s`, `3 min 5 s`, `2 h 14 min`."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def usage_line(outcome: CallRecord) -> str:
    """The closing line of a call: where, tokens, dollars, time, cache state."""
    target, usage = outcome.request.target, outcome.usage
    about = "~" if usage.estimated else ""
    cache = outcome.result.cache if isinstance(outcome.result, Answer) else "failed"
    return " · ".join(
        (
            f"{target.profile}/{target.model}",
            f"{about}{usage.input} in ({usage.cached_input} cached) + {about}{usage.output} out",
            dollars(outcome.cost),
            seconds(outcome.elapsed),
            cache,
        )
    )


def write_stdout(text: str) -> None:
    """Write to stdout as UTF-8, byte for byte, and flush. Raises `BrokenPipeError`."""
    out = sys.stdout.buffer
    out.write(text.encode("utf-8", "replace"))
    out.flush()
