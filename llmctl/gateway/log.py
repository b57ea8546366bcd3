"""The gateway's log: lines on stderr."""

from __future__ import annotations

import sys

from llmctl.redact import printable, redact_known_keys


def log(text: str) -> None:
    """Write it on stderr, safe to show."""
    sys.stderr.write(printable(redact_known_keys(text)) + "\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    """The text without ends of lines: what callers or providers wrote makes no lines of ours."""
    return " ".join(text.split())


def warn(text: str) -> None:
    """Write a warning on stderr."""
    log(f"warning: {text}")
