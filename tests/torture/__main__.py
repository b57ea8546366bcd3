"""Torture runs: `python -m tests.torture [NAME …] [--full] [--seed N]`.

Each prints one line, from a process of its own when there are several; exit 1 when one failed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time

from tests.torture.judge import Size, UnableError

RUNS = (
    "kill", "disk", "storm", "outage", "refused", "budget", "holds", "two", "memory", "fuzz",
    "signals", "clocks", "damage", "folders", "cancelled", "hostile", "cachekeys",
    "descriptors", "budget_options", "inputs", "closed_streams", "queue", "machines", "join",
)  # fmt: skip
"""In the order of their numbers, T1 to T27; each is a module beside this one."""

WITH_RAY = ("nodes",)
"""Those that are in `tests/cluster/` in a small size."""


def line(name: str, size: Size) -> str:
    """Make the run; its line, or AssertionError."""
    found: str = importlib.import_module(f"tests.torture.{name}").run(size)
    return found


def main() -> int:
    """Make the named runs, or all; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("names", nargs="*", default=RUNS + WITH_RAY, metavar="NAME")
    parser.add_argument("--full", action="store_true", help="in full: about half an hour")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is random")
    options = parser.parse_args()
    if len(options.names) == 1:
        try:
            print(line(options.names[0], Size(options.full, options.seed)))
        except UnableError as reason:
            print(f"{options.names[0]}: skipped, {reason}")
        return 0
    flags = ["--seed", str(options.seed), *(["--full"] if options.full else [])]
    failed = 0
    for name in options.names:
        command = [sys.executable, "-m", "tests.torture", name, *flags]
        if subprocess.run(command, check=False).returncode:
            print(f"{' '.join(command[1:])}: FAILED", flush=True)
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
