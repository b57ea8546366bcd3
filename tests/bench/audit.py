"""What the audit costs a batch, in one line: `python -m tests.bench.audit`.

The installed command with everything on, 50 at a time against a server without latency, in turns
without an audit, with one, and with one that holds what was said. Then the log is verified.

Options: `--rows N` (20,000 a turn), `--rounds N` (3).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.bench.command import LLMCTL, batch, new_home, write_rows
from tests.bench.loopback import served

_TASKS = 50
_SECRET = "0123456789abcdef" * 4
_AUDITS = {"off": "", "on": "audit: {}\n", "with content": "audit: {content: full}\n"}


def main() -> None:
    """The figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.audit", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in _AUDITS}
    environ = dict(os.environ)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name,
        served("tests.bench.loopback") as url,
    ):
        folder = Path(name)
        write_rows(folder / "in.jsonl", options.rows)
        for _ in range(options.rounds):
            for kind, text in _AUDITS.items():
                (folder / "in.out.jsonl").unlink(missing_ok=True)
                environ = {**new_home(folder, url, text), "LLMCTL_STORE_KEY": _SECRET}
                rates[kind].append(batch(folder, environ, _TASKS).rate)
        start = time.perf_counter()
        subprocess.run([LLMCTL, "audit", "verify"], env=environ, check=True, stdout=subprocess.PIPE)
        verified = options.rows / (time.perf_counter() - start)
    off = median(rates["off"])
    print(
        f"audit: {_TASKS} at a time, no latency: off {off:,.0f} rows/s",
        *(
            f"{kind} {median(found):,.0f}, {median(found) / off:.2f}x"
            for kind, found in rates.items()
            if kind != "off"
        ),
        f"verified {verified:,.0f} lines/s",
        sep="; ",
    )


if __name__ == "__main__":
    main()
