"""Rows a second of `llmctl batch`, a line a figure: `python -m tests.bench.rows`.

The installed command with everything on (cache, ledger, token count, limiter, budget, price,
synced output) against a bare aiohttp loop and LiteLLM at the same concurrency, in turns within
one run, each client and each server a process of its own, 50, 200 and 500 at a time. Two servers:
`tests.simulator`, and `tests.bench.loopback`, which does so little that it is nobody's limit. Then
200 ms of latency, 500 at a time.

100,000 rows a turn, and five times as many with latency, because these take minutes anyway: half a
second of start is 2% of the one, 0.2% of the other, and 10% of 20,000 rows.

Options: `--rows N`, `--rounds N`, `--tasks N` (once for each), `--only simulator|loopback|latency`,
and `--litellm PYTHON`, an interpreter that has litellm (this one by default).
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
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.loopback import served

LLMCTL = Path(sysconfig.get_path("scripts")) / "llmctl"
_BARE = Path(__file__).with_name("bare.py")
_TASKS = (50, 200, 500)
_LATENCY_MS, _MANY, _LONGER = 200, 500, 5
_LITELLM_ROWS = 1_000
CONFIG = """
default: bench
profiles:
  bench:
    provider: openai
    base_url: {url}
    model: gpt-5-mini
    key: {{env: BENCH_KEY}}
    params: {{max_tokens: 100}}
    price: {{input: 1, output: 2}}
budgets:
  - {{name: all, limit_usd: 1000000, period: month}}
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows a second and seconds of processor a row; `whole` counts a command's start as well."""

    rate: float
    processor: float
    whole: float = 0.0


def write_rows(path: Path, number: int) -> None:
    """Short prompts, no two alike."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(number):
            prompt = f"Is this review positive? I bought it {n} times, and would again."
            file.write(json.dumps({"id": f"r{n}", "prompt": prompt}) + "\n")


def batch(folder: Path, url: str, tasks: int) -> tuple[Rate, dict[str, Any]]:
    """A batch of `in.jsonl` in `folder` from nothing, with its summary."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    (folder / "in.out.jsonl").unlink(missing_ok=True)
    (home / ".config/llmctl").mkdir(parents=True)
    (home / ".config/llmctl/config.yaml").write_text(CONFIG.format(url=url), encoding="utf-8")
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [
            LLMCTL, "batch", "in.jsonl", "--json", "-q",
            "--concurrency", str(tasks), "--rpm", "100000000",
        ],
        env={**os.environ, "HOME": str(home), "BENCH_KEY": "x"},
        cwd=folder, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    took, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    said = json.loads(done.stdout)
    assert said["ok"] == said["requests"] == said["rows"]
    return Rate(said["rows"] / said["elapsed_s"], spent / said["rows"], said["rows"] / took), said


def bare(python: str, how: str, url: str, file: Path, tasks: int) -> Rate | None:
    """The loop of `bare.py`; None where the interpreter lacks the library."""
    if shutil.which(python) is None:
        print(f"rows: {how} left out: there is no {python}")
        return None
    done = subprocess.run(
        [python, str(_BARE), how, url, str(file), str(tasks)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"rows: {how} left out: {done.stderr.strip().splitlines()[-1]}")
        return None
    return Rate(**json.loads(done.stdout.splitlines()[-1]))


def compare(folder: Path, options: argparse.Namespace, server: str, url: str, tasks: int) -> None:
    """Goal 1, against one server."""
    ours: list[Rate] = []
    others: dict[str, list[Rate]] = {}
    for _ in range(options.rounds):
        write_rows(folder / "few.jsonl", _LITELLM_ROWS)
        write_rows(folder / "in.jsonl", options.rows)
        for python, how, file in (
            (sys.executable, "aiohttp", "in.jsonl"),
            (sys.executable, "aiohttp-uvloop", "in.jsonl"),
            (options.litellm, "litellm", "few.jsonl"),
        ):
            found = bare(python, how, url, folder / file, tasks)
            if found is not None:
                others.setdefault(how, []).append(found)
        ours.append(batch(folder, url, tasks)[0])
    rate = median(one.rate for one in ours)
    print(
        f"rows: {server}, {tasks} at a time: llmctl batch {rate:,.0f} rows/s "
        f"({median(one.whole for one in ours):,.0f} with its start and checks; "
        f"{median(one.processor for one in ours) * 1e6:.0f} µs of processor a row)",
        *(
            f"{how} {median(one.rate for one in found):,.0f} "
            f"({median(one.processor for one in found) * 1e6:.0f} µs): "
            f"llmctl {rate / median(one.rate for one in found):.2f}x"
            for how, found in others.items()
        ),
        sep="; ",
    )


def main() -> None:
    """All of it, or what `--only` names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, action="append")
    parser.add_argument("--litellm", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--only", choices=("simulator", "loopback", "latency"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        for server, command in (
            ("simulator", ("tests.simulator",)),
            ("loopback", ("tests.bench.loopback",)),
        ):
            if options.only in (None, server):
                with served(*command) as url:
                    for tasks in options.tasks or _TASKS:
                        compare(folder, options, server, url, tasks)
        if options.only in (None, "latency"):
            write_rows(folder / "in.jsonl", _LONGER * options.rows)
            with served("tests.bench.loopback", str(_LATENCY_MS)) as url:
                loop = bare(sys.executable, "aiohttp", url, folder / "in.jsonl", _MANY)
                rate, said = batch(folder, url, _MANY)
            ideal = _MANY / _LATENCY_MS * 1000
            print(
                f"rows: {_LATENCY_MS} ms of latency, {_MANY} at a time: {rate.rate:,.0f} rows/s "
                f"({rate.whole:,.0f} with start and checks), {rate.rate / ideal:.1%} of the ideal "
                f"{ideal:,.0f}; {said['rows']:,} rows, {rate.processor * 1e6:.0f} µs of processor "
                "a row",
                *(() if loop is None else (f"aiohttp {loop.rate / ideal:.1%} of the ideal",)),
                sep="; ",
            )


if __name__ == "__main__":
    main()
