"""What every command gets besides its own options, and how every command ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import typer
from msgspec import Struct, field

from llmctl.clock import Clock, SystemClock
from llmctl.errors import ConfigError, LlmctlError
from llmctl.redact import redact_known_keys


class Context(Struct, frozen=True):
    """The options common to all commands, and the world outside as a command may see it."""

    profile: str | None = None
    model: str | None = None
    config: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = field(default_factory=SystemClock)

    def cwd(self) -> Path:
        """The current folder. Raises `ConfigError` when it has been deleted."""
        try:
            return Path.cwd()
        except OSError:
            raise ConfigError("the current folder is gone; change to one that exists") from None

    def say(self, text: str) -> None:
        """A note for the person at the terminal: stderr, unless `--quiet`."""
        if not self.quiet:
            print(redact_known_keys(text), file=sys.stderr)

    def warn(self, text: str) -> None:
        """A warning: stderr, always."""
        print(f"warning: {redact_known_keys(text)}", file=sys.stderr)


def finish(run: Callable[[], int], context: Context) -> NoReturn:
    """Run a command and leave with its exit code.

    An error of ours is one sentence on stderr; with `-vv` its traceback comes before it,
    without locals, which may hold keys and prompts, and without any key that its words hold.
    An error that is not ours is a mistake in the program, and ends in one sentence too.
    """
    try:
        code = run()
    except LlmctlError as error:
        _explain(error.message, context)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - its traceback is for whoever mends it
        said = " ".join(str(error).split())
        _explain(
            f"a mistake in llmctl, {type(error).__name__}: {said}; please report it with what "
            "-vv shows",
            context,
        )
        code = 1
    raise typer.Exit(code)


def _explain(message: str, context: Context) -> None:
    if context.verbose > 1:
        print(redact_known_keys(traceback.format_exc()), end="", file=sys.stderr)
    print(f"error: {redact_known_keys(message)}", file=sys.stderr)
