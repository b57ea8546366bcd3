"""T12: memory does not grow with the rows.

A million rows, all to be sent and all but one answered already, take at most 220 MiB, and at most
a tenth more than 10,000 do. The measuring is that of `tests.bench.resume`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench.loopback import served
from tests.bench.resume import measure
from tests.torture.judge import Size

MOST, TIMES = 220, 1.1
"""MiB at the peak, and how many times those of fewer rows."""


def run(size: Size) -> str:
    """Both; one line."""
    few, many = 10_000, size.of(20_000, 1_000_000)
    told = []
    with (
        tempfile.TemporaryDirectory(prefix="llmctl-torture-") as name,
        served("tests.bench.loopback") as url,
    ):
        less, more = (measure(Path(name), url, rows) for rows in (few, many))
    for kind in ("fresh", "resumed"):
        peak, times = more[kind].peak_mib, more[kind].peak_mib / less[kind].peak_mib
        assert peak <= MOST, f"{kind}: {peak:.0f} MiB"
        assert times <= TIMES, f"{kind}: {peak:.0f} MiB, {times:.2f} times that of {few:,}"
        told.append(f"{kind} {peak:.0f} MiB, {times:.2f} times that of {few:,}")
    return f"T12 memory: {many:,} rows: {'; '.join(told)}"
