"""The way into the program `llmctl`."""

from __future__ import annotations

import gc
import os
import sys

import llmctl

_GARBAGE = 100_000
"""Objects before the first look for garbage: more than a start makes, all of which stay."""


def main() -> None:
    """Run the command line. `--version` alone answers before anything is imported, and so does what
    a shell asks for but a few odd lines.

    Python looks for garbage every 700 objects and, at its end, in all there is. Modules coming
    in make most of the objects of a short command, and none of those is garbage: looking took a
    fifth of an answer's time.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"llmctl {llmctl.__version__}")
        return
    if "_LLMCTL_COMPLETE" in os.environ:
        from llmctl.cli.completing import completed

        if (found := completed(os.environ)) is not None:
            said, code = found
            if said:
                print(said)
            sys.exit(code)
    gc.set_threshold(_GARBAGE)
    try:
        from llmctl.cli.program import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # what is left goes with the process; files and databases are closed by now
