"""The semantic cache: what it gives and what of it is wrong on fow-cache, and a look-up's time.

python -m tests.bench.semantic
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from llmctl.config.semantic import SemanticPolicy
from llmctl.semantic.vectors import SIZE, embedder
from llmctl.storage.answer_cache import row_key
from llmctl.storage.semantic_index import KnownQuestion, SemanticIndex
from tests.semantic.pairs import opened, shares

ENTRIES, LOOKS = 100_000, 300
SEEDS = range(5)


async def pairs(folder: Path) -> None:
    """Hits and wrong answers by mode; of judges that are right in so many cases the mean of some
    runs, and the worst."""
    print(
        f"{'mode':<22}{'hits':>8}{'wrong':>8}{'most':>8}{'judged':>8}   of 600 pairs of fow-cache"
    )
    with opened(folder / "strict.db") as (cache, index):
        found = await shares(cache, index, SemanticPolicy("strict"))
        print(f"{'strict':<22}{found.hits:>8.1%}{found.wrong:>8.1%}{found.wrong:>8.1%}{0:>8}")
    embed = embedder()
    policy = SemanticPolicy("judge", judge="scripted", audit=0)
    for accuracy in (1.0, 0.97, 0.95, 0.9):
        runs = []
        for seed in SEEDS:
            with opened(folder / f"{accuracy}-{seed}.db") as (cache, index):
                runs.append(await shares(cache, index, policy, embed, accuracy, seed))
        hits, wrong = (
            np.mean([getattr(each, name) for each in runs]) for name in ("hits", "wrong")
        )
        most = max(each.wrong for each in runs)
        name = f"judge, {accuracy:.0%} right"
        print(f"{name:<22}{hits:>8.1%}{wrong:>8.1%}{most:>8.1%}{runs[0].judged:>8}")


async def looks(folder: Path) -> None:
    """The time of a look-up among many questions with the same facts, the worst case: all of their
    vectors are compared."""
    chance = np.random.default_rng(7)
    vectors = chance.standard_normal((ENTRIES, SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with opened(folder / "looks.db") as (cache, index):
        assert cache._db is not None
        await index.put(
            b"0", b"facts", KnownQuestion("0" * 64, "call", "text", vectors[0].tobytes())
        )
        facts = cache._db.read(lambda c: c.execute("SELECT facts FROM questions").fetchone()[0])
        rows = [
            (os.urandom(32), facts, row_key(f"{n:064x}", None), msgspec.msgpack.encode(
                KnownQuestion(f"{n:064x}", f"call-{n}", f"question {n} of many", vector.tobytes())
            ))
            for n, vector in enumerate(vectors[1:], 1)
        ]  # fmt: skip
        put = "INSERT INTO questions (form, facts, answer, body) VALUES (?, ?, ?, ?)"
        cache._db.write_now(lambda c: c.executemany(put, rows).rowcount)
        start = time.perf_counter()
        await SemanticIndex(cache).near(b"facts", vectors[0])
        loading = time.perf_counter() - start
        print(f"\nthe first look among {ENTRIES:,}, which loads them: {loading:.2f} s")
        await index.near(b"facts", vectors[0])
        times = {"form": list[float](), "near": list[float]()}
        for number in range(LOOKS):
            start = time.perf_counter()
            await index.same(b"%d" % number)
            times["form"].append(time.perf_counter() - start)
            start = time.perf_counter()
            found = await index.near(b"facts", vectors[number])
            times["near"].append(time.perf_counter() - start)
            assert found[0][0] > 0.99
        for name, each in times.items():
            ms = np.percentile(each, [50, 99]) * 1000
            print(f"{name}: {ms[0]:.2f} ms, p99 {ms[1]:.2f} ms")


async def main() -> None:
    """Both tables."""
    with tempfile.TemporaryDirectory() as folder:
        await pairs(Path(folder))
        await looks(Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
