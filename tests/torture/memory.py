"""T12: memory does not grow with the rows: `python -m tests.torture.memory [--full]`.

A million rows, all to be sent and all but one answered already, take at most 200 MiB, and at most
a tenth more than 10,000 do. The measuring is that of `tests.bench.memory`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench.loopback import served
from tests.bench.memory import fresh, resumed
from tests.torture.judge import Size, main

MOST, TIMES = 200, 1.1
"""MiB at the peak, and how many times those of fewer rows."""


def run(size: Size) -> str:
    """Both; one line."""
    few, many = 10_000, size.of(30_000, 1_000_000)
    told = []
    with (
        tempfile.TemporaryDirectory(prefix="llmctl-torture-") as name,
        served("tests.bench.loopback") as url,
    ):
        for kind, work in (("fresh", fresh), ("resumed", resumed)):
            less, more = work(Path(name), url, few).peak, work(Path(name), url, many).peak
            assert more <= MOST, f"{kind}: {more:.0f} MiB"
            assert more <= TIMES * less, f"{kind}: {more:.0f} MiB after {less:.0f}"
            told.append(f"{kind} {more:.0f} MiB, {more / less:.2f} times that of {few:,}")
    return f"T12 memory: {many:,} rows: {'; '.join(told)}"


if __name__ == "__main__":
    sys.exit(main("memory", run))
