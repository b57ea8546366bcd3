"""Jinja2 templates over a record's fields: the template is the user's, the records may not be."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from llmctl.batch import render
from llmctl.batch.rows import RowError, field_names
from llmctl.errors import InputError

SECONDS = 5.0
"""Time a template may take for one record."""

MEMORY = 512 << 20
"""Address space of the process that renders, in bytes: a few times the longest line."""


class Template:
    """A compiled template: called with a record's fields, gives the prompt.

    A field is named directly, or as `row["any name"]` where its name is no identifier. A process
    of its own renders, so that its time and its memory have a bound whatever the template does.
    """

    def __init__(self, given: str, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        """`given` is the text, or `@FILE`. Raises `InputError` when it cannot be read or
        compiled."""
        self._name, text = _read(given)
        try:
            self._setup = orjson.dumps([text, seconds, memory]) + b"\n"
        except TypeError:
            raise InputError(f"{self._name} is not valid Unicode text") from None
        self._limits = f"{seconds:g} s or {memory >> 20} MiB"
        kind, message = self._start()
        if kind != "ready":
            raise InputError(f"{self._name}{message}")

    def __call__(self, fields: Mapping[str, Any]) -> str:
        """The prompt. Raises `RowError` for an undefined name, a forbidden access, a text that
        grows too large, or whatever else goes wrong while the template computes."""
        if self._process.poll() is not None:
            self._start()
        try:
            kind, text = self._ask(orjson.dumps(fields) + b"\n")
        except TypeError:
            raise RowError("the JSON is nested too deeply for a template (254 levels)") from None
        if kind != "text":
            raise RowError(self._name + text + (field_names(fields) if kind == "undefined" else ""))
        return text

    def _start(self) -> tuple[str, str]:
        self._process = subprocess.Popen(  # noqa: S603 - this Python, a file of ours
            [sys.executable, "-P", render.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the batch, which ends this process
        )
        weakref.finalize(self, _end, self._process)
        return self._ask(self._setup)

    def _ask(self, line: bytes) -> tuple[str, str]:
        """The process's reply: what it is, and its text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = b""
        if reply:
            kind, text = orjson.loads(reply)
            return kind, text
        _end(self._process)
        return "error", f": not allowed: it takes more than {self._limits} for one row"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _read(given: str) -> tuple[str, str]:
    """What messages call the template, and its text."""
    if not given.startswith("@"):
        return "--template", given
    path = given[1:]
    try:
        return path, Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the template {path} is not valid UTF-8: convert it") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the template {path or '@'}: {why}") from error
