"""A process of its own that uses a cache: `python -m tests.storage.cache_worker PATH`.

Puts and gets in 20 tasks until stdin ends; says `ready` first, and at the end how many answers
it stored and the longest wait for one, in seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path

from llmctl.storage.answer_cache import SqliteCache
from tests.conformance.calls import a_cached_answer


def key(n: int) -> str:
    """The n-th key, as scattered as fingerprints."""
    return hashlib.sha256(f"{os.getpid()}-{n}".encode()).hexdigest()


async def work(cache: SqliteCache, ended: asyncio.Event) -> tuple[int, float]:
    """Answers stored, and the longest wait."""
    count, longest, answer = 0, 0.0, a_cached_answer("some words of an answer " * 20)

    async def task() -> None:
        nonlocal count, longest
        while not ended.is_set():
            count += 1
            mine, start = count, time.perf_counter()
            assert await cache.claim(key(mine)) == "ours"
            await cache.put(key(mine), answer)
            assert await cache.get(key(mine)) == answer
            longest = max(longest, time.perf_counter() - start)
            await asyncio.sleep(0.002)  # a provider's answer takes longer

    await asyncio.gather(*(task() for _ in range(20)))
    return count, longest


async def main(path: Path) -> None:
    """Work until stdin ends."""
    cache = SqliteCache(path, print)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    print("ready", flush=True)
    count, longest = await work(cache, ended)
    cache.close()
    print(count, longest, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
