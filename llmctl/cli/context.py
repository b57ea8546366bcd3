"""What every command gets besides its own options, and how every command ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import typer

from llmctl.clock import Clock, SystemClock
from llmctl.errors import ConfigError, LlmctlError


@dataclass(frozen=True, slots=True)
class Context:
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
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """A warning: stderr, always."""
        print(f"warning: {text}", file=sys.stderr)


def finish(run: Callable[[], int], context: Context) -> NoReturn:
    """Run a command and leave with its exit code.

    An error of ours is one sentence on stderr; with `-vv` its traceback comes before it,
    without locals, which may hold keys and prompts.
    """
    try:
        code = run()
    except LlmctlError as error:
        if context.verbose > 1:
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
