"""Memory, skipped rows and cached rows of `llmctl batch`: `python -m tests.bench.resume`.

Peak memory for 10,000 rows and for many, of a fresh run and of one that goes on with an output that
holds all answers but one; rows a second that a run skips which finds them all there; and rows a
second out of the cache. Options: `--rows N` (100,000), `--full` (1,000,000).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.command import Run, batch, new_home, write_rows
from tests.bench.loopback import served

_FEW, _MANY, _FULL, _TASKS = 10_000, 100_000, 1_000_000, 50


def _drop_last_line(path: Path) -> None:
    """The output as it was before its last row."""
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        while end > 1:
            end -= 1
            file.seek(end - 1)
            if file.read(1) == b"\n":
                break
        file.truncate(end)


def measure(folder: Path, url: str, rows: int) -> dict[str, Run]:
    """One fresh run, one that has a row to go, one that has none, one out of the cache."""
    environ = new_home(folder, url)
    output = folder / "in.out.jsonl"
    output.unlink(missing_ok=True)
    write_rows(folder / "in.jsonl", rows)
    runs = {"fresh": batch(folder, environ, _TASKS)}
    _drop_last_line(output)
    runs["resumed"] = batch(folder, environ, _TASKS)
    assert runs["resumed"].summary["skipped"] == rows - 1
    runs["skipped"] = batch(folder, environ, _TASKS)
    assert runs["skipped"].summary["skipped"] == rows
    output.unlink()
    runs["cached"] = batch(folder, environ, _TASKS)
    assert runs["cached"].summary["cached"] == rows
    return runs


def main() -> None:
    """Measure few and many rows, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.resume", description=__doc__)
    parser.add_argument("--rows", type=int, default=_MANY)
    parser.add_argument("--full", dest="rows", action="store_const", const=_FULL)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name,
        served("tests.bench.loopback") as url,
    ):
        few = measure(Path(name), url, _FEW)
        many = measure(Path(name), url, options.rows)
    for kind in ("fresh", "resumed"):
        print(
            f"resume: {kind}: {many[kind].peak_mib:.0f} MiB at {options.rows:,} rows, "
            f"{few[kind].peak_mib:.0f} MiB at {_FEW:,}: "
            f"{many[kind].peak_mib / few[kind].peak_mib:.2f}x"
        )
    more = options.rows - _FEW
    skipping = many["skipped"].seconds - few["skipped"].seconds
    print(f"resume: {more:,} answered rows more are skipped at {more / skipping:,.0f} rows/s")
    print(f"resume: {options.rows:,} rows out of the cache, {many['cached'].rate:,.0f} rows/s")


if __name__ == "__main__":
    main()
