"""Reading the configuration, with a question where a project's file needs the user's trust."""

from __future__ import annotations

import sys

from llmctl.cli.context import Context
from llmctl.cli.render import is_tty, safe
from llmctl.config import load as loading
from llmctl.config.load import Overrides
from llmctl.config.paths import find_folders
from llmctl.config.settings import Settings
from llmctl.config.trust import Untrusted, record


def load(context: Context, overrides: Overrides) -> Settings:
    """All of the configuration. At a terminal the user is asked to trust a project's file that
    needs it; without one that is an error. Raises `ConfigError`."""
    try:
        return _load(context, overrides)
    except Untrusted as error:
        if not (is_tty(sys.stdin) and is_tty(sys.stderr)) or not _agreed(error):
            raise
        record(find_folders(context.environ, context.cwd()), error.path, error.raw)
    return _load(context, overrides)


def _load(context: Context, overrides: Overrides) -> Settings:
    return loading.load(
        environ=context.environ, cwd=context.cwd(), config=context.config, overrides=overrides
    )


def _agreed(error: Untrusted) -> bool:
    """Whether the person at the terminal trusts the file as it is now."""
    print(f"{error.path} sets what needs your trust:", file=sys.stderr)
    for line in error.asks:
        print(f"  {safe(line)}", file=sys.stderr)
    print("Trust this file until it changes? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
