"""All runs in turn: `python -m tests.torture [--full]`.

Prints each run's line; exit 1 when one failed. A single one: `python -m tests.torture.NAME`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

RUNS = (
    "kill", "disk", "storm", "outage", "refused", "budget", "holds", "two", "memory", "fuzz",
    "signals", "clocks", "cache_damage", "ledger_damage", "folders", "cancelled", "hostile",
    "cachekeys",
)  # fmt: skip
"""In the order of their numbers, T1 to T20; each is a module beside this one."""


def main() -> int:
    """Run them, each in a process of its own; 1 when one failed."""
    failed = []
    for name in RUNS:
        module = f"tests.torture.{name}"
        if importlib.util.find_spec(module) is None:
            print(f"{name}: there is no such run", flush=True)
            failed.append(name)
        elif subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], check=False).returncode:
            print(f"{name}: FAILED", flush=True)
            failed.append(name)
    print(f"{len(RUNS) - len(failed)} of {len(RUNS)} runs passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
