"""The cache on disk: the contract, and what its file is like."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.stores.cache import SqliteCache, cache_database
from llmctl.stores.sqlite import DamagedError
from tests.conformance.cache_store import CacheStoreContract
from tests.conformance.calls import NOW, a_cached_answer
from tests.stores.clocks import StoppedClock

KEY = "0f" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cache will be."""
    return tmp_path / "cache" / "answers.sqlite3"


@pytest.fixture
def cache(path: Path) -> Iterator[SqliteCache]:
    """An empty cache."""
    opened = SqliteCache(cache_database(path))
    yield opened
    opened.close()


class TestSqliteCache(CacheStoreContract):
    """The contract, on disk."""

    @pytest.fixture
    def store(self, cache: SqliteCache) -> SqliteCache:
        """An empty one."""
        return cache


def put(cache: SqliteCache, *bodies: bytes) -> None:
    """Store answers with these bodies under the keys 0, 1, 2 and so on."""
    for n, body in enumerate(bodies):
        asyncio.run(cache.put(f"{n:064x}", replace(a_cached_answer(""), body=body)))


def noise(length: int) -> bytes:
    """Bytes that no compression makes fewer."""
    return random.Random(length).randbytes(length)


def column(path: Path, name: str) -> list[object]:
    """One column of the file, without llmctl."""
    with closing(sqlite3.connect(path)) as connection:
        return [v for (v,) in connection.execute(f"SELECT {name} FROM answers ORDER BY id")]


def test_answers_outlive_the_process(cache: SqliteCache, path: Path) -> None:
    """A second opening finds what the first one stored."""
    asyncio.run(cache.put(KEY, a_cached_answer()))
    cache.close()
    again = SqliteCache(cache_database(path))
    assert again.get(KEY) == a_cached_answer()
    again.close()


def test_what_pays_is_compressed(cache: SqliteCache, path: Path) -> None:
    """Repetitive text shrinks; noise and little things stay as they are."""
    put(cache, b"again " * 1000, noise(2000), b"")
    assert column(path, "compressed") == [1, 0, 0]
    assert column(path, "bytes") == column(path, "length(value)")
    assert column(path, "bytes < 500") == [1, 0, 1]


def test_a_hit_notes_its_time_of_use_without_a_write_of_its_own(
    cache: SqliteCache, path: Path
) -> None:
    """The times are written together, at the latest when the cache is closed."""
    put(cache, b"a", b"b", b"c")
    later = SqliteCache(cache_database(path), StoppedClock(NOW * 2))
    for _ in range(3):
        later.get(f"{1:064x}")
    assert column(path, "used > 3000000000") == [0, 0, 0]
    later.close()
    assert column(path, "used > 3000000000") == [0, 1, 0]


def test_pruned_text_can_vanish_and_the_file_can_shrink(cache: SqliteCache, path: Path) -> None:
    """Deleting needs no rewriting of the whole file: its pages go back, its bytes are gone."""

    def pages(name: str) -> int:
        count: int = cache._db.read(lambda c: c.execute(f"PRAGMA {name}").fetchone()[0])
        return count

    put(cache, *(b"canary" + noise(3000 + n) for n in range(50)))
    full = pages("page_count")
    cache._db.write_now(lambda c: c.execute("DELETE FROM answers").rowcount)
    for _ in range(pages("freelist_count")):
        cache._db.post(lambda c: c.execute("PRAGMA incremental_vacuum(1)").fetchall())
    cache._db.write_now(lambda _: None)
    assert pages("page_count") < full / 5
    cache._db._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"canary" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize(
    "change", ["value = x'00'", "stored = stored + 1", "compressed = 1 - compressed"]
)
def test_an_answer_that_was_changed_is_damage(cache: SqliteCache, path: Path, change: str) -> None:
    """A wrong answer is worse than none: what is not as it was stored is not given out."""
    asyncio.run(cache.put(KEY, a_cached_answer()))
    with closing(sqlite3.connect(path)) as vandal, vandal:
        vandal.execute(f"UPDATE answers SET {change}")
    with pytest.raises(DamagedError, match=r"answers\.sqlite3 is damaged"):
        cache.get(KEY)
