"""The page of `llmctl report` over many calls, in one line: `python -m tests.bench.page`.

A ledger of 30 days with six models, 40 users and five teams is made, then the installed command
writes its page. Seconds are of the whole command, by the clock and of the processor; `read` is the
ledger's part of the clock's, `html` the page's.

Options: `--calls N` (1,000,000), `--users N` (40), `--keep FILE` (the ledger stays there).
"""

from __future__ import annotations

import argparse
import random
import resource
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from llmctl.reports import page
from llmctl.reports.periods import since
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_queries import HOUR, KIND, SUMS
from llmctl.storage.ledger_rows import CallRow
from llmctl.storage.ledger_schema import count_times
from tests.bench.command import LLMCTL, new_home

_DAY = 24 * HOUR
_DAYS = 30
# Profile, provider, model, share of the calls, dollars for a million tokens in and out, and
# milliseconds of a median answer.
_MODELS = (
    ("fast", "openai", "gpt-5-mini", 38, 0.25, 2.0, 900),
    ("smart", "anthropic", "claude-sonnet-5-5", 22, 3.0, 15.0, 2400),
    ("google", "gemini", "gemini-3.8-flash", 18, 0.3, 2.5, 700),
    ("deep", "openai", "gpt-5", 9, 1.25, 10.0, 4200),
    ("eu", "mistral", "mistral-large-3", 8, 2.0, 6.0, 1500),
    ("groq", "groq", "llama-5-70b", 5, 0.6, 0.8, 350),
)
_TEAMS = ("search", "support", "data", "growth", "platform")
_ERRORS = ("timeout", "server", "rate_limit", "connection")


def calls(number: int, users: int, now: int, random: random.Random) -> Iterator[CallRow]:
    """Calls of the last 30 days, the oldest first: more by day than by night, fewer on weekends."""
    weights = [model[3] for model in _MODELS]
    starts = (now - random.random() ** 1.25 * _DAYS * _DAY for _ in range(number))
    for at, start in enumerate(sorted(starts)):
        profile, provider, model, _, price_in, price_out, median = random.choices(_MODELS, weights)[
            0
        ]
        started = int(start)
        user = min(int(random.expovariate(5 / users)), users - 1)
        tokens_in, tokens_out = random.randint(200, 6000), int(random.lognormvariate(5.5, 0.8))
        cost = int(1e6 * (tokens_in * price_in + tokens_out * price_out))
        row: dict[str, Any] = {
            "call_id": f"{started:013d}{at:013d}",
            "run_id": f"run-{started // _DAY}",
            "started_ms": started,
            "profile": profile,
            "provider": provider,
            "model": model,
            "asked_model": model,
            "tags": f'{{"team":"{_TEAMS[user % len(_TEAMS)]}"}}',
            "user": f"user-{user:02d}",
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "cost_pico": cost,
            "attempts": 1,
            "cache": "miss",
            "http_status": 200,
        }
        fate = random.random()
        slow = 1.6 if (started // _DAY) % 11 == 0 else 1.0
        latency = int(median * slow * random.lognormvariate(0, 0.45))
        if fate < 0.3:
            row |= {"cache": "hit", "cost_pico": 0, "saved_pico": cost, "latency_ms": 0}
            row |= {"attempts": 0}
        elif fate < 0.304 + 0.01 * ((started // _DAY) % 11 == 0):
            row |= {"status": "error", "error_type": random.choices(_ERRORS, (5, 3, 2, 1))[0]}
            row |= {"cost_pico": 0, "cache": None, "elapsed_ms": latency}
        elif fate < 0.3042:
            row |= {"status": "unknown", "cache": None, "estimated": True}
        elif fate < 0.36:
            row |= {"job": "batch", "cost_pico": cost // 2, "saved_pico": cost // 2}
        else:
            row |= {"latency_ms": latency, "elapsed_ms": latency + 3}
            if fate < 0.7:
                row |= {"first_token_ms": max(1, latency // 5)}
        yield CallRow(**row)


def fill(path: Path, rows: Iterator[CallRow]) -> None:
    """A ledger of these calls at `path`, its sums as if they had come one by one."""
    open_ledger(path, "", "").close()
    names = CallRow.__struct_fields__
    marks = ", ".join("?" * len(names))
    kind, sums = ", ".join(KIND), ", ".join(f"sum({sql})" for sql in SUMS.values())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            f"INSERT INTO calls ({', '.join(names)}) VALUES ({marks})", map(astuple, rows)
        )
        connection.execute(
            f"INSERT INTO hours (hour, {kind}, {', '.join(SUMS)}) "
            f"SELECT started_ms / {HOUR}, {kind}, {sums} FROM calls GROUP BY 1, {kind}"
        )
        count_times(connection)


def main() -> None:
    """The figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        environ = new_home(Path(name), "http://127.0.0.1:1/v1", budget=True)
        ledger = Path(environ["HOME"]) / ".local/state/llmctl/ledger.db"
        ledger.parent.mkdir(parents=True, exist_ok=True)
        now = round(time.time() * 1000)
        fill(ledger, calls(options.calls, options.users, now, random.Random(7)))
        start = time.perf_counter()
        subprocess.run(
            [LLMCTL, "report", "-o", f"{name}/page.html"], env=environ, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        whole = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with closing(open_ledger(ledger, "", "")) as opened:
            start = time.perf_counter()
            found = opened.report(lambda r: page.read(r, since("30d", now, UTC), UTC, now, ()))
            read = time.perf_counter() - start
        start = time.perf_counter()
        text = page.html(found)
        drawn = time.perf_counter() - start
        if options.keep:
            ledger.replace(options.keep)
    print(
        f"page: {options.calls:,} calls, {options.users} users: {whole:.2f} s, "
        f"{used.ru_utime + used.ru_stime:.2f} s of the processor (read {read:.2f} s, "
        f"html {drawn:.2f} s), {len(text.encode()) / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
