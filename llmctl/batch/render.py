"""The process that renders templates: `template.Template` starts this file as a program.

Lines of JSON: `[text, seconds, memory]`, then the fields of one record after the other. A line
back for each, `[kind, text]`. The process ends with its input, or by a limit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from typing import Any

import jinja2
import orjson
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 64 << 20
"""Characters of a prompt: as much as a line of the input may hold."""


def main() -> None:
    """Compile the template, then render it for each record."""
    text, seconds, memory = orjson.loads(sys.stdin.buffer.readline())
    limit_memory(memory)
    faulthandler.dump_traceback_later(seconds, exit=True)
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        return reply("error", f", line {error.lineno}: {error.message}")
    except Exception as error:  # noqa: BLE001 - constants are computed: anything may come out
        return reply("error", f" cannot be compiled: {type(error).__name__}: {error}")
    reply("ready", "")
    for line in sys.stdin.buffer:
        faulthandler.dump_traceback_later(seconds, exit=True)
        reply(*render(template, orjson.loads(line)))
        faulthandler.cancel_dump_traceback_later()
    return None


def render(template: jinja2.Template, fields: dict[str, Any]) -> tuple[str, str]:
    """The prompt as `text`, or what is wrong: `undefined` where a name is, `error` otherwise."""
    try:
        text = template.render({"row": fields, **fields})
        text.encode()
        if len(text) > MAX_TEXT:
            raise MemoryError  # noqa: TRY301 - as if the limit of memory had met it
    except jinja2.UndefinedError as error:
        return "undefined", f": {error.message}"
    except SecurityError as error:
        return "error", f": not allowed: {error.message}"
    except (MemoryError, OverflowError):
        return "error", ": not allowed: the text is too large"
    except Exception as error:  # noqa: BLE001 - a template computes: anything may come out of it
        return "error", f" fails: {type(error).__name__}: {error}"
    return "text", text


def reply(kind: str, text: str) -> None:
    """Write one line."""
    line = orjson.dumps([kind, text.encode(errors="replace").decode()])
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def limit_memory(size: int) -> None:
    """Bound the address space where the system can; elsewhere the time alone is bounded."""
    if sys.platform != "win32":
        import resource

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
