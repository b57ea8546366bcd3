"""Why the server of a local model did not come up, or went away, in words for its user."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path

from llmctl.errors import SetupError
from llmctl.providers.embedded_model import GET_MODEL, SMOLLM2, extra_version


def failure(path: Path, code: int, answer: Mapping[str, object], noise: str) -> SetupError:
    """The error for a server that ended with `code` before it was ready.

    `answer` is its report, empty when it died before it could make one; `noise` is the end of
    what llama.cpp printed.
    """
    words = _last_words(noise)
    if answer.get("import"):
        return SetupError(
            f"the server for local models cannot be loaded ({answer['error']}): "
            f"run `pip install --force-reinstall xllamacpp=={extra_version() or '*'}`"
        )
    if answer:
        mend = (
            f"run `{GET_MODEL}`, which checks and mends it"
            if path.name == SMOLLM2.file
            else "check the file, and the profile's `context`"
        )
        return SetupError(f"{path} cannot be served ({words or answer['error']}): {mend}")
    return SetupError(
        f"the server for {path} {death(code)} while it started{f' ({words})' if words else ''}: "
        "choose a smaller model, or a smaller `context`"
    )


def death(code: int) -> str:
    """How a process ended, from its return code."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"


def _last_words(noise: str) -> str:
    """Why llama.cpp did not load a model: its own reason, or the last it printed."""
    reasons = re.findall(r"error loading model: (.+)", noise) or noise.strip().splitlines()
    return "".join(c for c in reasons[-1].strip() if c.isprintable())[:300] if reasons else ""
