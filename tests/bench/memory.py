"""Memory of `llmctl batch`, and the rows it skips, on lines: `python -m tests.bench.memory`.

Peak memory of the installed command for 10,000 rows and for many: fresh, and going on with an
output that holds all answers but one; then the rows a second of a run that finds them all there.
Options: `--rows N` (100,000), `--full` (1,000,000), `--only fresh|resumed`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmctl.config.load import load
from llmctl.request import Question, fingerprint
from llmctl.types import Message
from tests.bench.loopback import served
from tests.bench.rows import CONFIG, write_rows

LLMCTL = Path(sysconfig.get_path("scripts")) / "llmctl"
FEW, MANY, FULL = 10_000, 100_000, 1_000_000
_SKIPS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took: seconds, MiB of memory at its peak; and its summary."""

    seconds: float
    peak: float
    said: dict[str, Any]


def _question(prompt: str) -> Question:
    return Question((Message("user", prompt),))


def run(folder: Path) -> Run:
    """A batch of `in.jsonl` in `folder`, as a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen(
        [LLMCTL, "batch", "in.jsonl", "--json", "-q", "--concurrency", "50"],
        env={**os.environ, "HOME": str(folder / "home"), "BENCH_KEY": "x"},
        cwd=folder, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(time.perf_counter() - start, used.ru_maxrss * unit / (1 << 20), said)


def prepare(folder: Path, url: str, rows: int, *, budget: bool = True) -> None:
    """A home folder with nothing but a profile (and a budget), and an input without an output."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    (folder / "in.out.jsonl").unlink(missing_ok=True)
    (folder / "home/.config/llmctl").mkdir(parents=True)
    config = CONFIG.format(url=url)
    (folder / "home/.config/llmctl/config.yaml").write_text(
        config if budget else config.partition("budgets:")[0], encoding="utf-8"
    )
    write_rows(folder / "in.jsonl", rows)


def answer_all(folder: Path, rows: int) -> None:
    """Write the output of an earlier run that had answered the first `rows` rows. They are read
    one by one: what this process holds counts towards the peak of those that it starts."""
    settings = load(environ={"HOME": str(folder / "home")}, cwd=folder)
    profile = settings.profiles["bench"]
    usage = {"input_tokens": 31, "output_tokens": 14, "estimated": False}
    with (
        (folder / "in.jsonl").open(encoding="utf-8") as source,
        (folder / "in.out.jsonl").open("w", encoding="utf-8") as file,
    ):
        for index, row in enumerate(map(json.loads, islice(source, rows))):
            answer = {
                "id": row["id"], "index": index, "parsed": None, "profile": "bench",
                "text": "The review is positive: the buyer would buy it again.",
                "provider": "openai", "model": "gpt-5-mini-2026-05-01", "finish_reason": "stop",
                "usage": usage, "cost_usd": 0.000059, "cache": "miss", "attempts": 1,
                "latency_ms": 912, "call_id": "01KAJ5Z7Q0000000000000000",
                "request_hash": fingerprint(_question(row["prompt"]), profile), "tags": {},
            }  # fmt: skip
            file.write(json.dumps(answer, separators=(",", ":"), ensure_ascii=False) + "\n")


def fresh(folder: Path, url: str, rows: int) -> Run:
    """All rows are sent."""
    prepare(folder, url, rows)
    done = run(folder)
    assert done.said["ok"] == rows
    return done


def resumed(folder: Path, url: str, rows: int, *, but: int = 1) -> Run:
    """All rows but some have their answers."""
    prepare(folder, url, rows)
    answer_all(folder, rows - but)
    done = run(folder)
    assert done.said["skipped"] == rows - but
    return done


def main() -> None:
    """All figures, or those that `--only` names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=MANY)
    parser.add_argument("--full", dest="rows", action="store_const", const=FULL)
    parser.add_argument("--only", choices=("fresh", "resumed"))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name,
        served("tests.bench.loopback") as url,
    ):
        folder = Path(name)
        for kind, work in (("fresh", fresh), ("resumed", resumed)):
            if options.only in (None, kind):
                few, many = work(folder, url, FEW), work(folder, url, options.rows)
                print(
                    f"memory: {kind}: {many.peak:.0f} MiB at {options.rows:,} rows, "
                    f"{few.peak:.0f} MiB at {FEW:,}: {many.peak / few.peak:.2f}x"
                )
        if options.only != "fresh":
            none, all_ = (
                min(resumed(folder, url, rows, but=0).seconds for _ in range(_SKIPS))
                for rows in (10, options.rows)
            )
            print(
                f"resume: {options.rows:,} answered rows skipped in {all_:.2f} s, "
                f"{options.rows / all_:,.0f} rows/s; without the command's own start "
                f"({none:.2f} s) {options.rows / (all_ - none):,.0f} rows/s"
            )


if __name__ == "__main__":
    main()
