"""How long `llmctl cost report` takes over a million calls: `python -m tests.bench.report`.

An argument is the number of calls. The ledger is made once, in the folder that the second
argument names (a temporary one otherwise); all calls are of the last 30 days.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.ledgers import a_call, a_failure, a_hit, a_ledger

LLMCTL = Path(sysconfig.get_path("scripts")) / "llmctl"
REPORTS = (
    ("report", "--since", "30d", "--by", "model"),
    ("report", "--since", "30d", "--by", "day"),
    ("report", "--since", "30d", "--by", "tag:team,user"),
    ("report", "--since", "7d", "--by", "model", "--format", "json"),
    ("check", "--budget", "1000000", "--period", "month"),
)
_DAYS = 29.9
_AT_ONCE = 50_000
_TIMES = 5


def calls(number: int) -> Iterator[dict[str, Any]]:
    """Calls of eight models, three profiles and two teams, evenly over 30 days."""
    chance = random.Random(20261121)
    now = round(time.time() * 1000)
    models = [f"gpt-5-mini-2026-{month:02}-01" for month in range(1, 9)]
    for n in range(number):
        make = chance.choices((a_call, a_hit, a_failure), (88, 10, 2))[0]
        changes: dict[str, Any] = {
            "started_ms": now - round((number - n) / number * _DAYS * 86_400_000),
            "model": chance.choice(models),
            "profile": chance.choice(("fast", "slow", "night")),
            "user": chance.choice(("ann", "bob")),
            "tags": f'{{"team":"{chance.choice(("search", "ads"))}"}}',
            "input_tokens": chance.randrange(50, 4000),
            "output_tokens": chance.randrange(1, 900),
        }
        if make is a_call:
            changes["latency_ms"] = int(chance.lognormvariate(6.8, 0.7))
            changes["cost_pico"] = chance.randrange(10**6, 10**10)
        yield make(**changes)


def fill(path: Path, number: int) -> None:
    """Write the calls, some at a time."""
    chunk: list[dict[str, Any]] = []
    for call in calls(number):
        chunk.append(call)
        if len(chunk) == _AT_ONCE:
            a_ledger(path, *chunk)
            chunk.clear()
    a_ledger(path, *chunk)


def main() -> None:
    """Make the ledger if it is not there, and time each report as a process, best and worst."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        path = folder / "ledger.db"
        if not path.exists():
            start = time.perf_counter()
            fill(path, number)
            print(f"ledger made in {time.perf_counter() - start:.0f} s")
        with closing(sqlite3.connect(path)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM calls").fetchone()
        print(f"{count:,} calls, {path.stat().st_size >> 20} MiB")
        env = {**os.environ, "LLMCTL_STATE_DIR": str(folder), "HOME": temporary}
        for arguments in REPORTS:
            times = []
            for _ in range(_TIMES):
                start = time.perf_counter()
                subprocess.run(
                    [LLMCTL, "cost", *arguments], env=env, check=True, stdout=subprocess.DEVNULL
                )
                times.append(time.perf_counter() - start)
            print(f"cost {' '.join(arguments)}: {min(times):.2f} s ({max(times):.2f} s at worst)")


if __name__ == "__main__":
    main()
