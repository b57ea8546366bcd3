"""The cache on disk: the contract, and what its file is like."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.storage.answers import checksum, pack
from llmctl.storage.cache import SqliteCache
from llmctl.storage.cache_tables import MIGRATIONS, cache_database
from llmctl.storage.database import Database
from llmctl.storage.sqlite import DamagedError
from tests.conformance.cache_store import CacheStoreContract
from tests.conformance.calls import NOW, a_cached_answer
from tests.storage.clocks import StoppedClock
from tests.support import done

KEY = "0f" * 32
OTHER = "f0" * 32


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
        done(cache.put, f"{n:064x}", replace(a_cached_answer(""), body=body))


def noise(length: int) -> bytes:
    """Bytes that no compression makes fewer."""
    return random.Random(length).randbytes(length)


def column(path: Path, name: str) -> list[object]:
    """One column of the file, without llmctl."""
    with closing(sqlite3.connect(path)) as connection:
        statement = f"SELECT {name} FROM answers AS a JOIN texts AS t USING (id) ORDER BY id"
        return [v for (v,) in connection.execute(statement)]


def test_answers_outlive_the_process(cache: SqliteCache, path: Path) -> None:
    """A second opening finds what the first one stored."""
    done(cache.put, KEY, a_cached_answer())
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


@pytest.mark.parametrize(
    "change", ["value = x'00'", "stored = stored + 1", "compressed = 1 - compressed"]
)
def test_an_answer_that_was_changed_is_damage(cache: SqliteCache, path: Path, change: str) -> None:
    """A wrong answer is worse than none: what is not as it was stored is not given out."""
    done(cache.put, KEY, a_cached_answer())
    with closing(sqlite3.connect(path)) as vandal, vandal:
        vandal.execute(f"UPDATE texts SET {change}")
    with pytest.raises(DamagedError, match=r"answers\.sqlite3 is damaged"):
        cache.get(KEY)


def test_many_answers_at_once_are_those_one_by_one(cache: SqliteCache) -> None:
    """However many are asked for, and twice the same: what is kept is given, the rest is not."""
    put(cache, *(f"body {n}".encode() for n in range(600)))
    keys = [f"{n:064x}" for n in (*range(0, 1200, 2), 4, 4)]
    assert cache.get_all(keys) == {key: cache.get(key) for key in keys if cache.get(key)}
    assert len(cache.get_all(keys)) == 300
    assert cache.get_all([]) == {}


def test_keys_that_end_alike_do_not_meet(cache: SqliteCache) -> None:
    """Where the last 64 bits are the same the last one stored is kept, and never taken for the
    other."""
    one, other = "00" * 24 + "ab" * 8, "11" * 24 + "ab" * 8
    done(cache.put, one, a_cached_answer("one"))
    assert cache.get(other) is None
    assert cache.get_all([other]) == {}
    done(cache.put, other, a_cached_answer("other"))
    assert (cache.get(one), cache.get(other)) == (None, a_cached_answer("other"))
    assert cache._db.read(lambda c: c.execute("SELECT count(*) FROM texts").fetchone()) == (1,)


@pytest.mark.parametrize("name", ["0f" * 32, "f0" * 32, "00" * 24 + "80" + "00" * 7, "7f" * 32])
def test_an_older_file_keeps_its_answers(tmp_path: Path, name: str) -> None:
    """A file of before the tables lay apart is brought up to date, answers and all."""
    path = tmp_path / "answers.sqlite3"
    answer = a_cached_answer("from before")
    value, compressed = pack(answer)
    key = bytes.fromhex(name)
    row = (7, key, "m", NOW, 5, len(value), compressed, checksum(key, value, NOW), value)
    with Database(path, MIGRATIONS[:1], auto_vacuum="INCREMENTAL") as old:
        old.write_now(
            lambda c: c.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        )
    again = SqliteCache(cache_database(path))
    a_key = "12" * 32
    assert again.get(name) == answer
    done(again.put, a_key, answer)
    assert again.get(a_key) == answer
    again.close()
