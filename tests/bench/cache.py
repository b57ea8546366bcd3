"""What the cache manages on this machine, a line a figure: `python -m tests.bench.cache [WHAT]`.

WHAT is one of `size`, `batch`, `prune`; without it all three. Comparisons are made within one
run, in turns, because the machine may be busy with other things.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from llmctl.config.load import load
from llmctl.request import Question, fingerprint
from llmctl.storage.answers import checksum, pack, short
from llmctl.storage.cache import SqliteCache
from llmctl.storage.cache_tables import cache_database
from llmctl.storage.choose import What
from llmctl.storage.database import Database
from llmctl.storage.prune import prune
from llmctl.types import Message
from tests.conformance.calls import NOW, a_cached_answer

TASKS = 50
ROUNDS = 15
EACH = 4000
SMALL, LARGE = 10_000, 1_000_000
TEXT = "The reviewer would buy it again and says so twice, so this one is positive. " * 4
ANSWER = replace(a_cached_answer(TEXT), body=b'{"choices":[{"text":"%s"}]}' % TEXT.encode())


ROWS = 100_000
WORDS = "The review is positive: the buyer would buy it again."
ROW = replace(
    a_cached_answer(WORDS),
    cost=None,
    body=json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "gpt-5-mini-2026-05-01",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": WORDS},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 31, "completion_tokens": 14, "total_tokens": 45},
        }
    ).encode(),
)
CONFIG = """
default: bench
profiles:
  bench:
    provider: openai
    base_url: http://127.0.0.1:9/v1
    model: gpt-5-mini
    key: {env: BENCH_KEY}
    price: {input: 1, output: 2}
"""


def _question(prompt: str) -> Question:
    return Question((Message("user", prompt),))


def key(n: int) -> bytes:
    """The n-th of many keys as scattered as fingerprints."""
    return hashlib.sha256(str(n).encode()).digest()


def fill(db: Database, number: int) -> None:
    """Put `number` answers into an empty cache as `put` would, but many at a time."""
    value, compressed = pack(ANSWER)
    db.write_now(lambda c: c.execute("INSERT INTO models (asked, answered) VALUES ('m', 'm')"))
    for start in range(0, number, 2000):
        ids = range(start + 1, min(start + 2000, number) + 1)
        rows = [(n, key(n), NOW, compressed, checksum(key(n), value, NOW), value) for n in ids]

        def work(c: sqlite3.Connection, rows: list[tuple[Any, ...]] = rows) -> None:
            c.executemany(
                "INSERT INTO answers VALUES (?, 1, ?, ?, ?)",
                [(row[0], NOW, row[0], len(value)) for row in rows],
            )
            c.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?)", rows)
            c.executemany(
                "INSERT INTO keys VALUES (?, ?)", [(short(row[1]), row[0]) for row in rows]
            )

        db.write_now(work)


class Cache:
    """A cache of `size` answers, and what asking and adding take in it."""

    def __init__(self, folder: Path, size: int) -> None:
        db = cache_database(folder / f"{size}.db")
        fill(db, size)
        self.store = SqliteCache(db)
        self.size = size
        self._next = size

    def put(self) -> float:
        """Seconds a new answer, in 50 tasks."""
        keys = [key(self._next + n + 1).hex() for n in range(EACH)]
        self._next += EACH
        left = iter(keys)

        async def worker() -> None:
            for k in left:
                await self.store.put(k, ANSWER)

        async def all_of_them() -> None:
            await asyncio.gather(*(worker() for _ in range(TASKS)))

        start = time.perf_counter()
        asyncio.run(all_of_them())
        return (time.perf_counter() - start) / EACH

    def get(self) -> float:
        """Seconds a look-up of an answer that is there."""
        keys = [key(n * 7919 % self.size + 1).hex() for n in range(self._next, self._next + EACH)]
        start = time.perf_counter()
        for k in keys:
            self.store.get(k)
        return (time.perf_counter() - start) / EACH


def bench_size(folder: Path) -> None:
    """Looking up and storing at a million entries against ten thousand."""
    caches = [Cache(folder, SMALL), Cache(folder, LARGE)]
    for name, what in (("look-up", Cache.get), ("store", Cache.put)):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for cache, taken in zip(caches, times, strict=True):
                taken.append(what(cache))
        # The mean: now and then a round pays for a checkpoint.
        few, many = (statistics.mean(taken) * 1e6 for taken in times)
        print(
            f"cache: {name} {few:.1f} µs at {SMALL:,} entries, {many:.1f} µs at {LARGE:,}: "
            f"{many / few:.2f}x"
        )
    for cache in caches:
        cache.store.close()


def bench_batch(folder: Path) -> None:
    """A fully cached batch of 100,000 rows through the command itself: `llmctl batch` with its
    own start, and what a trivial loop takes meanwhile, as a measure of how busy the machine is."""
    (folder / ".config/llmctl").mkdir(parents=True)
    (folder / ".config/llmctl/config.yaml").write_text(CONFIG, encoding="utf-8")
    environ = {**os.environ, "HOME": str(folder), "BENCH_KEY": "x"}
    settings = load(environ={"HOME": str(folder)}, cwd=folder)
    profile = settings.profiles["bench"]
    cache = SqliteCache(cache_database(settings.folders.cache / "cache.db"))
    rows = [
        f"Is this review positive? I bought it {n} times, and would again." for n in range(ROWS)
    ]
    with (folder / "in.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"id": f"r{n}", "prompt": row}) + "\n" for n, row in enumerate(rows)
        )

    async def put_all() -> None:
        left = iter(rows)

        async def worker() -> None:
            for row in left:
                await cache.put(fingerprint(_question(row), profile), ROW)

        await asyncio.gather(*(worker() for _ in range(500)))

    asyncio.run(put_all())
    cache.close()
    llmctl = Path(sysconfig.get_path("scripts")) / "llmctl"
    for _ in range(3):
        for old in (folder / "in.out.jsonl", folder / ".local/state/llmctl/ledger.db"):
            old.unlink(missing_ok=True)
        spins = _spins()
        before = os.times()
        start = time.perf_counter()
        done = subprocess.run(
            [llmctl, "batch", "in.jsonl", "--json", "-q"],
            env=environ, cwd=folder, capture_output=True, check=True,
        )  # fmt: skip
        took = time.perf_counter() - start
        after = os.times()
        spent = after.children_user + after.children_system
        spent -= before.children_user + before.children_system
        assert json.loads(done.stdout)["cached"] == ROWS
        print(
            f"cache: {ROWS:,} rows out of the cache by `llmctl batch` in {took:.2f} s, "
            f"{ROWS / took:,.0f} rows/s; {spent:.2f} s of processor; "
            f"a million turns of a loop {min(spins, _spins()) * 1000:.0f} ms"
        )


def _spins() -> float:
    start = time.perf_counter()
    for _ in range(1_000_000):
        pass
    return time.perf_counter() - start


def bench_prune(folder: Path) -> None:
    """Half of a million entries pruned, while another process stores and reads all the time."""
    path = folder / "cache.db"
    with cache_database(path) as db:
        fill(db, LARGE)
    size = path.stat().st_size
    for name, what in (
        ("the oldest half, by use", What(max_bytes=size // 2)),
        ("all that is left", What()),
    ):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.storage.cache_worker", str(path)],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as other:  # fmt: skip
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            start = time.perf_counter()
            done = prune(path, what)
            took = time.perf_counter() - start
            stored, longest = other.communicate("")[0].split()
        print(
            f"cache: {name}, {done.entries:,} entries, pruned in {took:.1f} s, file "
            f"{size >> 20} → {path.stat().st_size >> 20} MiB; meanwhile another process stored "
            f"{int(stored):,} and waited {float(longest) * 1000:.0f} ms at the longest"
        )
        size = path.stat().st_size


def main(arguments: list[str]) -> None:
    """Those that are named, or all."""
    known: dict[str, Callable[[Path], None]] = {
        "size": bench_size,
        "batch": bench_batch,
        "prune": bench_prune,
    }
    for name in arguments or known:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
            known[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
