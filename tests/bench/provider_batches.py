"""Rows in the provider's batches: `python -m tests.bench.provider_batches`.

`llmctl batch --engine provider` of few and of many rows against the simulator, which has half a
second between looks: peak memory, and rows a second with all that the provider does. Option:
`--rows N` (200,000).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.command import Run, batch, new_home, write_rows
from tests.simulator.server import Simulator

_FEW, _MANY = 2_000, 200_000
_KNOBS = "price: {as: openai/gpt-5-mini}\n    batch: {poll: 0.5}"


def measure(folder: Path, rows: int) -> Run:
    """One run of so many rows, each billed once; in a home of its own."""
    write_rows(folder / "in.jsonl", rows)
    (folder / "in.out.jsonl").unlink(missing_ok=True)
    with Simulator(record_bodies=False) as sim:
        environ = new_home(folder, sim.base_url)
        config = folder / "home/.config/llmctl/config.yaml"
        text = config.read_text(encoding="utf-8")
        text = text.replace("price: {input: 1, output: 2}", _KNOBS)  # that is no price of batches
        config.write_text(text, encoding="utf-8")
        done = batch(folder, environ, 1, "--engine", "provider")
        billed = sim.batches.billed
        assert (billed.requests, billed.repeated) == (rows, 0)
    return done


def main() -> None:
    """Measure few and many rows, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.provider_batches", description=__doc__
    )
    parser.add_argument("--rows", type=int, default=_MANY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        few, many = (measure(Path(name), rows) for rows in (_FEW, options.rows))
    print(
        f"provider batches: {many.peak_mib:.0f} MiB at {options.rows:,} rows, "
        f"{few.peak_mib:.0f} MiB at {_FEW:,}: {many.peak_mib / few.peak_mib:.2f}x; "
        f"{many.rate:,.0f} rows/s ({many.processor / options.rows * 1e6:.0f} µs of processor a row)"
    )


if __name__ == "__main__":
    main()
