"""T12: memory does not grow with the rows.

A million rows, all to be sent and all but one answered already, take at most 220 MiB, and at most
a tenth more than 10,000 do; 200,000 rows in the provider's batches take at most 220 MiB, and 20,000
at most a fifth more than 2,000. The measuring is that of `tests.bench.resume` and
`tests.bench.provider_batches`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench import provider_batches
from tests.bench.command import Run, batch, new_home, write_rows
from tests.bench.loopback import served
from tests.bench.resume import measure
from tests.torture.judge import Size

MOST, TIMES, TIMES_IN_BATCHES = 220, 1.1, 1.2
"""MiB at the peak, and how many times those of fewer rows."""

_TASKS = 50
_LONGEST = 4096  # bytes of a line of the output


def run(size: Size) -> str:
    """Both; one line."""
    few, many = size.of(1_000, 10_000), size.of(8_000, 1_000_000)
    told, measured = [], measure if size.full else _measured
    with (
        tempfile.TemporaryDirectory(prefix="llmctl-torture-") as name,
        served("tests.bench.loopback") as url,
    ):
        less, more = (measured(Path(name), url, rows) for rows in (few, many))
    for kind in ("fresh", "resumed"):
        peak, times = more[kind].peak_mib, more[kind].peak_mib / less[kind].peak_mib
        assert peak <= MOST, f"{kind}: {peak:.0f} MiB"
        assert times <= TIMES, f"{kind}: {peak:.0f} MiB, {times:.2f} times that of {few:,}"
        told.append(f"{kind} {peak:.0f} MiB, {times:.2f} times that of {few:,}")
    told.append(_in_batches(size))
    return f"T12 memory: {many:,} rows: {'; '.join(told)}"


def _measured(folder: Path, url: str, rows: int) -> dict[str, Run]:
    """A fresh run, and one that has a row to go: what is looked at of `measure`."""
    environ, output = new_home(folder, url), folder / "in.out.jsonl"
    output.unlink(missing_ok=True)
    write_rows(folder / "in.jsonl", rows)
    fresh = batch(folder, environ, _TASKS)
    with output.open("rb+") as file:
        file.seek(-_LONGEST, os.SEEK_END)
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        file.truncate(file.tell() - len(last) - 1)
    resumed = batch(folder, environ, _TASKS)
    assert resumed.summary["skipped"] == rows - 1
    return {"fresh": fresh, "resumed": resumed}


def _in_batches(size: Size) -> str:
    counts = [size.of(500, 2_000), size.of(3_000, 20_000), *([200_000] if size.full else [])]
    with tempfile.TemporaryDirectory(prefix="llmctl-torture-") as name:
        peaks = [provider_batches.measure(Path(name), rows).peak_mib for rows in counts]
    times = peaks[1] / peaks[0]
    assert max(peaks) <= MOST, f"in batches: {max(peaks):.0f} MiB"
    assert times <= TIMES_IN_BATCHES, f"in batches: {times:.2f} times that of {counts[0]:,}"
    return (
        f"{counts[-1]:,} in batches {peaks[-1]:.0f} MiB; {counts[1]:,} {times:.2f} times those of "
        f"{counts[0]:,}"
    )
