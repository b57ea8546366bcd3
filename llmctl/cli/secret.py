"""How a secret comes in: by a hidden prompt, or on stdin; never on the command line."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence

from llmctl.cli.render import is_tty
from llmctl.errors import InputError, UsageError

_MOST = 64 * 1024


def asker() -> Callable[[str], str] | None:
    """What asks the person at the terminal for a secret; None where there is nobody to ask."""
    return _hidden if is_tty(sys.stdin) and is_tty(sys.stderr) else None


def read_secret(prompt: str) -> str:
    """The secret: typed without being shown, or all of stdin when that is no terminal.

    Raises `InputError`.
    """
    if is_tty(sys.stdin):
        return _hidden(prompt)
    try:
        raw = sys.stdin.buffer.read(_MOST + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        # the error itself holds what was read
        raise InputError("stdin is not text; pipe in the key alone") from None
    if len(raw) > _MOST:
        raise InputError("stdin holds far more than a key; pipe in the key alone")
    return text


def refuse_words(words: Sequence[str]) -> None:
    """Raise `UsageError` when something stands where a key may have been put. It is not repeated:
    what is on a command line, everybody on the machine can read."""
    if words:
        raise UsageError(
            "a key is never given on the command line, where others can read it: type it at the "
            "prompt, or pipe it in on stdin (if that was a real key, revoke it)"
        )


def _hidden(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise InputError("nothing was typed") from None
