"""A run always has a cache: the contract, and what happens when its file cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.storage.cache_tables import MIGRATIONS
from llmctl.storage.database import Database
from llmctl.storage.mending import MendingCache
from llmctl.storage.migrations import Migration
from tests.conformance.cache_store import CacheStoreContract
from tests.conformance.calls import NOW, a_cached_answer
from tests.storage.clocks import StoppedClock
from tests.storage.damage import damaged_versions
from tests.support import done

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cache will be."""
    return tmp_path / "cache" / "answers.sqlite3"


class TestMendingCache(CacheStoreContract):
    """The contract, without a warning."""

    @pytest.fixture
    def store(self, path: Path) -> Iterator[MendingCache]:
        """An empty one."""
        said: list[str] = []
        cache = MendingCache(path, said.append)
        yield cache
        cache.close()
        assert said == []


def key(n: int) -> str:
    """The n-th key."""
    return f"{n:064x}"


def text(n: int) -> str:
    """The n-th answer: some are long, some are empty."""
    return f"answer {n} " * (n % 40)


def fill(path: Path, number: int) -> None:
    """Make a cache with this many answers."""

    async def put_all(cache: MendingCache) -> None:
        await asyncio.gather(*(cache.put(key(n), a_cached_answer(text(n))) for n in range(number)))

    said: list[str] = []
    cache = MendingCache(path, said.append)
    asyncio.run(put_all(cache))
    cache.close()
    assert said == []


def vandalise(path: Path, statement: str) -> None:
    """Change the file behind llmctl's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def asides(path: Path) -> list[Path]:
    """The files that were set aside."""
    return [p for p in path.parent.glob(f"{path.name}.damaged-*") if p.name.endswith("Z")]


def test_a_damaged_cache_is_set_aside_and_the_run_goes_on(path: Path) -> None:
    """Whatever byte is broken: an answer is right or missing, and new ones are kept."""
    fill(path, 60)
    found_out = 0
    for n, (what, broken) in enumerate(damaged_versions(path.read_bytes(), 60)):
        victim = path.with_name(f"{n}.sqlite3")
        victim.write_bytes(broken)
        said: list[str] = []
        cache = MendingCache(victim, said.append)
        for k in range(60):
            assert cache.get(key(k)) in (None, a_cached_answer(text(k))), what
        done(cache.put, key(99), a_cached_answer("new"))
        assert cache.get(key(99)) == a_cached_answer("new"), what
        cache.close()
        assert len(asides(victim)) == len(said) <= 1, what
        found_out += len(said)
    assert found_out > 20


def test_the_warning_names_the_file_and_where_it_went(path: Path) -> None:
    """The damaged bytes are kept, private, under a name that tells when."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"rubbish" * 1000)
    said: list[str] = []
    MendingCache(path, said.append, StoppedClock(NOW)).close()
    aside = path.with_name("answers.sqlite3.damaged-20270115T080000Z")
    assert asides(path) == [aside]
    assert aside.read_bytes() == b"rubbish" * 1000
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    (sentence,) = said
    assert str(path) in sentence
    assert aside.name in sentence


def test_damage_met_in_the_middle_of_a_run_does_not_end_it(path: Path) -> None:
    """A broken answer is a miss; the next ones are stored in a new file."""
    fill(path, 60)
    said: list[str] = []
    cache = MendingCache(path, said.append)
    vandalise(path, "UPDATE texts SET value = x'00' WHERE id = 8")
    assert cache.get(key(6)) is not None
    assert cache.get(key(7)) is None
    done(cache.put, key(7), a_cached_answer("mended"))
    assert cache.get(key(7)) == a_cached_answer("mended")
    cache.close()
    assert len(asides(path)) == len(said) == 1


def test_writes_that_meet_damage_together_are_all_done_again(path: Path) -> None:
    """Storing into a file that has lost its table sets it aside once and loses nothing."""
    said: list[str] = []
    cache = MendingCache(path, said.append)
    vandalise(path, "DROP TABLE answers")

    async def put_all() -> None:
        await asyncio.gather(*(cache.put(key(n), a_cached_answer(text(n))) for n in range(100)))

    asyncio.run(put_all())
    assert all(cache.get(key(n)) == a_cached_answer(text(n)) for n in range(100))
    cache.close()
    assert len(asides(path)) == len(said) == 1


def test_a_file_that_another_process_uses_is_not_taken_from_it(path: Path) -> None:
    """While it lives this run caches in memory; the next run sets the file aside."""
    fill(path, 3)
    program = (
        "import sys; from pathlib import Path; from llmctl.storage.mending import MendingCache\n"
        "cache = MendingCache(Path(sys.argv[1]), print); print('open', flush=True); input()\n"
        "cache.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        vandalise(path, "UPDATE texts SET value = x'00'")
        said: list[str] = []
        cache = MendingCache(path, said.append)
        assert cache.get(key(2)) is None
        done(cache.put, key(2), a_cached_answer())
        assert cache.get(key(2)) == a_cached_answer()
        cache.close()
        assert asides(path) == []
        assert "another llmctl still uses it" in said[0]
        assert other.communicate("\n")[0] == ""
    cache = MendingCache(path, said.append)
    assert cache.get(key(2)) is None
    cache.close()
    assert len(asides(path)) == 1
    assert len(said) == 2


def test_without_a_folder_to_write_to_the_cache_is_in_memory(tmp_path: Path) -> None:
    """A warning, and the run goes on."""
    (tmp_path / "file").touch()
    said: list[str] = []
    cache = MendingCache(tmp_path / "file" / "answers.sqlite3", said.append)
    done(cache.put, key(1), a_cached_answer())
    assert cache.get(key(1)) == a_cached_answer()
    cache.close()
    assert len(said) == 1
    assert "not cached on disk" in said[0]


def test_a_newer_cache_is_left_alone(path: Path) -> None:
    """Its file stays for the newer program; this run's cache is in memory."""
    newer = (*MIGRATIONS, Migration("cache-999-more", ("CREATE TABLE more (x)",)))
    Database(path, newer).close()
    said: list[str] = []
    MendingCache(path, said.append).close()
    assert "pip install --upgrade llmctl" in said[0]
    Database(path, newer).close()
