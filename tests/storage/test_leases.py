"""Across processes one finds out an answer at a time, and a dead one holds up nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import astuple, replace

from llmctl.storage.cache import SqliteCache
from llmctl.storage.cache_tables import cache_database
from llmctl.storage.leases import SILENCE
from llmctl.storage.process import Process
from tests.conformance.calls import NOW, a_cached_answer
from tests.storage.clocks import StoppedClock
from tests.support import done

ROOT = Path(__file__).parents[2]
KEY = "0f" * 32

CLAIMS = (
    "import asyncio, sys; from pathlib import Path\n"
    "from llmctl.storage.cache import SqliteCache\n"
    "from llmctl.storage.cache_tables import cache_database\n"
    "cache = SqliteCache(cache_database(Path(sys.argv[1])))\n"
    "print(asyncio.run(cache.claim(sys.argv[2])), flush=True); input(); cache.close()"
)


@pytest.fixture
def clock() -> StoppedClock:
    """Moved by the test."""
    return StoppedClock(NOW)


@pytest.fixture
def cache(tmp_path: Path, clock: StoppedClock) -> Iterator[SqliteCache]:
    """An empty cache."""
    opened = SqliteCache(cache_database(tmp_path / "cache.db"), clock)
    yield opened
    opened.close()


def owned_by(cache: SqliteCache, owner: Process) -> None:
    """Give the lease to another process."""
    row = (bytes.fromhex(KEY), *astuple(owner), 0)
    cache._db.write_now(lambda c: c.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", row))


def claim(cache: SqliteCache) -> bool:
    """Whether this process may go."""
    return asyncio.run(cache.claim(KEY))


def leases(cache: SqliteCache) -> int:
    """How many there are."""
    cache._db.write_now(lambda _: None)  # what was posted before is done
    count: int = cache._db.read(lambda c: c.execute("SELECT count(*) FROM leases").fetchone()[0])
    return count


def test_a_living_process_keeps_its_claim_and_a_dead_one_does_not(
    cache: SqliteCache, tmp_path: Path
) -> None:
    """While it runs the answer is awaited; once it was killed, the next one goes."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMS, str(tmp_path / "cache.db"), KEY],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not claim(cache)
        assert not claim(cache)
        other.kill()
        other.wait()
        assert claim(cache)


def test_storing_the_answer_ends_the_claim(cache: SqliteCache) -> None:
    """No row is left of a claim that went well, nor of one that was given up."""
    assert claim(cache)
    assert leases(cache) == 1
    done(cache.put, KEY, a_cached_answer())
    assert leases(cache) == 0
    claim(cache)
    cache.release(KEY)
    assert leases(cache) == 0


def test_a_claim_of_another_process_is_not_released(cache: SqliteCache) -> None:
    """Giving up what one does not have changes nothing."""
    owned_by(cache, replace(Process.current(), pid=1, birth="another"))
    cache.release(KEY)
    assert leases(cache) == 1


def test_a_process_out_of_sight_counts_by_its_signs_of_life(
    cache: SqliteCache, clock: StoppedClock
) -> None:
    """In another container nobody can ask after a number: silence for 30 s is death, by the
    clock of whoever waits; a sign of life begins the time anew."""
    boot = Process.current().world.partition(" ")[0]
    owned_by(cache, Process(1, "1", f"{boot} pid:[elsewhere]"))
    assert not claim(cache)
    clock.now += SILENCE - 1
    assert not claim(cache)
    cache._db.write_now(lambda c: c.execute("UPDATE leases SET beat = beat + 1"))
    clock.now += 2
    assert not claim(cache)
    clock.now += SILENCE
    assert claim(cache)


def test_signs_of_life_are_given(cache: SqliteCache) -> None:
    """`beat` moves the count of all that this process has claimed."""
    claim(cache)
    cache.beat()
    assert leases(cache) == 1
    assert cache._db.read(lambda c: c.execute("SELECT beat FROM leases").fetchone()[0]) == 1
