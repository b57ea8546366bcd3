"""The installed `llmctl batch` as the benches run it: a home folder, an input, one measured run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLMCTL = Path(sysconfig.get_path("scripts")) / "llmctl"
_CONFIG = """
default: bench
profiles:
  bench:
    provider: openai
    base_url: {url}
    model: gpt-5-mini
    key: {{env: BENCH_KEY}}
    params: {{max_tokens: 100}}
    price: {{input: 1, output: 2}}
"""
_BUDGET = """
budgets:
  - {name: all, limit_usd: 1000000, period: month}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its summary; seconds, processor seconds, and MiB of memory at its peak."""

    summary: dict[str, Any]
    seconds: float
    processor: float
    peak_mib: float

    @property
    def rate(self) -> float:
        """Rows a second, without the command's own start and checks."""
        return float(self.summary["rows"] / self.summary["elapsed_s"])


def write_rows(path: Path, number: int) -> None:
    """Short prompts, no two alike."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(number):
            prompt = f"Is this review positive? I bought it {n} times, and would again."
            file.write(json.dumps({"id": f"r{n}", "prompt": prompt}) + "\n")


def new_home(folder: Path, url: str, more: str = "", *, budget: bool = True) -> dict[str, str]:
    """An environment whose empty home has nothing but a profile and a budget, and what `more` says
    in the configuration."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    (home / ".config/llmctl").mkdir(parents=True)
    (home / ".config/llmctl/config.yaml").write_text(
        _CONFIG.format(url=url) + (_BUDGET if budget else "") + more, encoding="utf-8"
    )
    return {**os.environ, "HOME": str(home), "BENCH_KEY": "x"}


def batch(folder: Path, environ: dict[str, str], tasks: int, *more: str) -> Run:
    """`llmctl batch in.jsonl` in `folder`, as a process of its own, with everything on and `more`
    options."""
    start = time.perf_counter()
    with subprocess.Popen(
        [
            LLMCTL, "batch", "in.jsonl", "--json", "-q",
            "--concurrency", str(tasks), "--rpm", "100000000", *more,
        ],
        env=environ, cwd=folder, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, summary
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(
        summary,
        time.perf_counter() - start,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss * unit / (1 << 20),
    )
