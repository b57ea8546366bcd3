"""What the stores manage on this machine, one line each: `python -m tests.bench.stores`."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from llmctl.storage.answer_cache import SqliteCache, open_database
from llmctl.storage.ledger import Ledger, open_ledger
from tests.conformance.calls import a_cached_answer, a_hold, a_request, an_outcome

TASKS = 50
_LOT = 512


async def _in_tasks(number: int, one: Callable[[int], Coroutine[None, None, None]]) -> float:
    """Run `one(n)` for all n below `number` in 50 tasks; calls per second."""
    numbers = iter(range(number))

    async def worker() -> None:
        for n in numbers:
            await one(n)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(TASKS)))
    return number / (time.perf_counter() - start)


async def hold_and_settle(ledger: Ledger, number: int) -> tuple[float, float]:
    """Calls per second, each held and then settled, and the longest single wait in seconds."""
    longest = 0.0

    async def one(_: int) -> None:
        nonlocal longest
        request = a_request()
        for step in (
            partial(ledger.hold, a_hold(request)),
            partial(ledger.settle, an_outcome(request)),
        ):
            start = time.perf_counter()
            await step()
            longest = max(longest, time.perf_counter() - start)

    return await _in_tasks(number, one), longest


def key(n: int) -> str:
    """The n-th of many keys as scattered as fingerprints."""
    return hashlib.sha256(str(n).encode()).hexdigest()


def bench_ledger(folder: Path) -> None:
    """Hold and settle, settle alone, open again."""
    path = folder / "ledger.sqlite3"
    ledger = open_ledger(path, "run", "me")
    rate, longest = asyncio.run(hold_and_settle(ledger, 20_000))
    print(
        f"ledger: {rate:,.0f} hold+settle/s, {TASKS} tasks, synchronous=FULL; "
        f"longest wait {longest * 1000:.1f} ms"
    )

    async def settle(_: int) -> None:
        await ledger.settle(an_outcome(a_request()))

    rate = asyncio.run(_in_tasks(20_000, settle))
    print(f"ledger: {rate:,.0f} settle/s (cached rows), {TASKS} tasks, synchronous=FULL")
    ledger.close()
    start = time.perf_counter()
    open_ledger(path, "run", "me").close()
    print(
        f"ledger: opened and closed in {(time.perf_counter() - start) * 1000:.1f} ms "
        f"({path.stat().st_size >> 20} MiB)"
    )
    path = folder / "small.sqlite3"
    start = time.perf_counter()
    open_ledger(path, "run", "me").close()
    print(f"ledger: created in {(time.perf_counter() - start) * 1000:.1f} ms")


def bench_cache(folder: Path, number: int) -> None:
    """Put, then get in another order, hits and misses."""
    cache = SqliteCache(open_database(folder / f"cache-{number}.sqlite3"))
    answer = a_cached_answer("The quick brown fox jumps over the lazy dog. " * 20)

    async def put_all() -> float:
        start = time.perf_counter()
        for first in range(0, number, _LOT):
            lot = [cache.put(key(n), answer) for n in range(first, min(first + _LOT, number))]
            await asyncio.gather(*lot)
        return number / (time.perf_counter() - start)

    async def get_all(asked: list[str]) -> float:
        start = time.perf_counter()
        for k in asked:
            await cache.get(k)
        return len(asked) / (time.perf_counter() - start)

    rate = asyncio.run(put_all())
    print(
        f"cache: {rate:,.0f} put/s up to {number:,} entries, {_LOT} at a time, synchronous=NORMAL"
    )
    keys = [key(n * 7919 % number) for n in range(20_000)]
    for name, asked in (("hit", keys), ("miss", [k[::-1] for k in keys])):
        rate = asyncio.run(get_all(asked))
        print(f"cache: {1e6 / rate:.1f} µs a {name} at {number:,} entries")
    cache.close()


def main() -> None:
    """All of them; an argument is the number of cache entries (10,000)."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        bench_ledger(Path(name))
        bench_cache(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)


if __name__ == "__main__":
    main()
