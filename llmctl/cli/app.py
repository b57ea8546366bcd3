"""The way into the program `llmctl`."""

from __future__ import annotations

import sys

import llmctl


def main() -> None:
    """Run the command line. `--version` alone answers before anything is imported."""
    if sys.argv[1:] == ["--version"]:
        print(f"llmctl {llmctl.__version__}")
        return
    try:
        from llmctl.cli.program import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
