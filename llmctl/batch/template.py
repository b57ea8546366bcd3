"""Jinja2 templates over a record's fields: the template is the user's, the records may not be.

A process of its own renders, so that its time and its memory have a bound whatever the template
does: this file, started as a program. It reads lines of JSON: `[text, seconds, memory]`, then the
fields of one record after the other, and answers each with a line, `[kind, text]`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import orjson

from llmctl.attachments import text_argument
from llmctl.batch.rows import RowError, field_names
from llmctl.errors import InputError

SECONDS = 5.0  # a template may take for one record
MEMORY = 512 << 20  # bytes of address space of the process: a few times the longest line
MAX_TEXT = 64 << 20  # characters of a prompt: as much as a line of the input may hold


class Template:
    """A compiled template: called with a record's fields, gives the prompt.

    A field is named directly, or as `row["any name"]` where its name is no identifier.
    """

    def __init__(self, given: str, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        """`given` is the text, or `@FILE`. Raises `InputError` when it cannot be read or
        compiled."""
        self._name, text = text_argument("--template", "template", given)
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
        self._process = subprocess.Popen(  # noqa: S603 - this Python, this file
            [sys.executable, "-P", __file__],
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
        reply = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        if reply:
            kind, text = orjson.loads(reply)
            return kind, text
        _end(self._process)
        return "error", f": not allowed: it takes more than {self._limits} for one row"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _main() -> None:
    """Compile the template, then render it for each record, until the input ends or a limit."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text, seconds, memory = orjson.loads(sys.stdin.buffer.readline())
    if sys.platform != "win32":  # there the time alone is bounded
        import resource

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    faulthandler.dump_traceback_later(seconds, exit=True)
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        return _reply("error", f", line {error.lineno}: {error.message}")
    except Exception as error:  # noqa: BLE001 - constants are computed: anything may come out
        return _reply("error", f" cannot be compiled: {type(error).__name__}: {error}")
    _reply("ready", "")
    for line in sys.stdin.buffer:
        faulthandler.dump_traceback_later(seconds, exit=True)
        _reply(*_render(template, orjson.loads(line)))
        faulthandler.cancel_dump_traceback_later()
    return None


def _render(template: Any, fields: dict[str, Any]) -> tuple[str, str]:
    """The prompt as `text`, or what is wrong: `undefined` where a name is, `error` otherwise."""
    import jinja2

    try:
        text = template.render({"row": fields, **fields})
        text.encode()
        if len(text) > MAX_TEXT:
            raise MemoryError  # noqa: TRY301 - as if the limit of memory had met it
    except jinja2.exceptions.SecurityError as error:
        return "error", f": not allowed: {error.message}"
    except jinja2.UndefinedError as error:
        return "undefined", f": {error.message}"
    except (MemoryError, OverflowError):
        return "error", ": not allowed: the text is too large"
    except Exception as error:  # noqa: BLE001 - a template computes: anything may come out of it
        return "error", f" fails: {type(error).__name__}: {error}"
    return "text", text


def _reply(kind: str, text: str) -> None:
    line = orjson.dumps([kind, text.encode(errors="replace").decode()])
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
