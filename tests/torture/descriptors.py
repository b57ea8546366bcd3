"""T21: fewer file descriptors than calls at a time.

With 256 descriptors and 400 calls at a time all rows are answered, none twice, and what is held
back is said.
"""

from __future__ import annotations

import shlex

from tests.torture.judge import Size, arena


def run(size: Size) -> str:
    """Both limits hard, then the soft one alone; one line."""
    rows = size.of(800, 8_000)
    for flags, told in (("-n", True), ("-Sn", False)):
        with arena(rows, concurrency=400, latency=0.2) as world:
            done = world.run(["bash", "-c", f"ulimit {flags} 256 && {shlex.join(world.batch)}"])
            assert done.returncode == 0, (done.returncode, done.stderr)
            assert ("instead of 400" in done.stderr) == told, done.stderr
            verdict = world.judge()
            assert (verdict.answered, verdict.requests) == (rows, rows)
    return f"T21 descriptors: 256 of them, 400 calls at a time: {rows:,} rows answered, {verdict}"
