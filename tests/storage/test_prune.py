"""Pruning: what goes is gone, what stays is whole, and others work on meanwhile."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.storage import answer_cache, database
from llmctl.storage.answer_cache import Pruned, PruneFilter, SqliteCache, prune
from tests.conformance.calls import NOW, a_cached_answer
from tests.storage.clocks import StoppedClock

ROOT = Path(__file__).parents[2]
NUMBER = 400


def key(n: int) -> str:
    """The n-th key."""
    return random.Random(n).randbytes(32).hex()


def text(n: int) -> str:
    """The n-th answer, short enough to be stored as it is."""
    return f"canary-{n}-" + random.Random(n).randbytes(400).hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cache of 400 answers, by two models in turns, each stored and used a second after the
    one before."""
    path = tmp_path / "cache.db"
    clock = StoppedClock(NOW)
    cache = SqliteCache(path, print, clock)

    async def put_all() -> None:
        for n in range(NUMBER):
            model = "odd-2026-05-01" if n % 2 else "even"
            answer = replace(
                a_cached_answer(text(n), stored=clock.now), model=model, asked=model[:4]
            )
            await cache.put(key(n), answer)
            clock.now += 1

    asyncio.run(put_all())
    cache.close()
    return path


@pytest.fixture
def left(path: Path) -> Iterator[list[int]]:
    """Filled at the end of a test by `remaining`."""
    yield []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)


def remaining(path: Path) -> list[int]:
    """Which answers are there still, each whole."""
    cache = SqliteCache(path, print)
    found = []
    for n in range(NUMBER):
        answer = asyncio.run(cache.get(key(n)))
        if answer is not None:
            assert answer.text == text(n)
            found.append(n)
    cache.close()
    return found


def canaries(path: Path) -> set[int]:
    """The answers of which a byte is left in any file of the folder."""
    whole = b"".join(file.read_bytes() for file in path.parent.iterdir())
    return {n for n in range(NUMBER) if b"canary-%d-" % n in whole}


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize(
    ("what", "stays"),
    [
        (PruneFilter(before=NOW + 100), range(100, NUMBER)),
        (PruneFilter(model="even"), range(1, NUMBER, 2)),
        (PruneFilter(model="odd-"), range(0, NUMBER, 2)),
        (PruneFilter(model="odd-2026-05-01"), range(0, NUMBER, 2)),
        (
            PruneFilter(before=NOW + 100, model="even"),
            [n for n in range(NUMBER) if n > 99 or n % 2],
        ),
        (PruneFilter(model="neither"), range(NUMBER)),
        (PruneFilter(), range(0)),
    ],
)
def test_what_goes_is_gone_from_every_byte(path: Path, what: PruneFilter, stays: range) -> None:
    """By age, by model as asked and as answered, both, all: the file shrinks by what goes, and
    what goes is in no file any more; what stays is whole. A dry run only says so."""
    before = path.stat().st_size
    plan = prune(path, what, dry_run=True)
    assert len(canaries(path)) == NUMBER
    done = prune(path, what)
    assert remaining(path) == list(stays)
    assert canaries(path) == set(stays)
    assert done.entries == plan.entries == NUMBER - len(stays)
    assert done.bytes == before - path.stat().st_size
    assert done.bytes == pytest.approx(plan.bytes, rel=0.25, abs=20_000)
    assert path.stat().st_size <= before * len(stays) / NUMBER * 1.1 + 50_000


@pytest.mark.parametrize("seed", [4, 7, 9])
def test_copies_in_free_space_are_gone(tmp_path: Path, seed: int) -> None:
    """One pruning after another moves answers from page to page, of which SQLite leaves copies in
    free space: they are gone with the answer."""
    path, count, chance = tmp_path / "cache.db", 900, random.Random(seed)
    order = chance.sample(range(count), count)
    sizes = [chance.choice((1, 5, 20, 60, 100, 150)) for _ in range(count)]

    async def put_all() -> None:
        for n in range(count):
            answer = a_cached_answer(f"canary-{n}- " * sizes[n], stored=NOW + order[n])
            await cache.put(f"{n:064x}", answer)

    with closing(SqliteCache(path, print)) as cache:
        asyncio.run(put_all())
    for age in range(100, count, 100):
        prune(path, PruneFilter(before=NOW + age))
        whole = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert not [n for n in range(count) if order[n] < age and b"canary-%d-" % n in whole]


@pytest.mark.usefixtures("left")
def test_by_size_the_least_recently_used_go(path: Path) -> None:
    """What was read lately stays, however old it is; the file is no larger than asked for."""
    later = SqliteCache(path, print, StoppedClock(NOW * 2))
    for n in range(0, NUMBER, 10):
        asyncio.run(later.get(key(n)))
    later.close()
    half = path.stat().st_size // 2
    done = prune(path, PruneFilter(max_bytes=half))
    assert path.stat().st_size <= half
    stays = remaining(path)
    assert NUMBER - len(stays) == done.entries
    assert 0.4 * NUMBER < len(stays) < 0.55 * NUMBER
    assert set(range(0, NUMBER, 10)) <= set(stays)
    others = [n for n in stays if n % 10]
    assert others == [n for n in range(others[0], NUMBER) if n % 10]
    assert canaries(path) == set(stays)
    assert prune(path, PruneFilter(max_bytes=half)) == Pruned()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Has nothing to remove, and is not made."""
    assert prune(tmp_path / "none.db", PruneFilter()) == Pruned()
    assert list(tmp_path.iterdir()) == []


def test_others_store_and_read_meanwhile(path: Path) -> None:
    """A process that stores all the time goes on, keeps what it stored, and never waits long."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.storage.cache_worker", str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        done = prune(path, PruneFilter(before=NOW + NUMBER))
        out = other.communicate("", timeout=60)[0]
    stored, longest = out.split()
    assert done.entries >= NUMBER
    assert not done.lingers
    assert not canaries(path)
    assert int(stored) > 0
    assert float(longest) < 2  # the figure is tests/bench/cache.py's; a busy machine may nap


def test_a_reader_that_does_not_end_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL cannot be emptied while somebody reads from it: the caller hears of that, and the
    next pruning makes it good."""
    monkeypatch.setattr(database, "_CHECKPOINT", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM answers").fetchone()
        assert prune(path, PruneFilter()).lingers
        reader.execute("ROLLBACK")
        assert not prune(path, PruneFilter()).lingers
    assert canaries(path) == set()


def test_pruning_that_was_killed_leaves_a_sound_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step was the last, what is found is right, and the next pruning finishes."""
    monkeypatch.setattr(answer_cache, "_STEP", 20)
    steps = iter(range(3))

    def killed(_: float) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(path, PruneFilter(model="even"))
    stays = remaining(path)
    assert set(range(1, NUMBER, 2)) < set(stays) < set(range(NUMBER))
    prune(path, PruneFilter(model="even"))
    assert remaining(path) == list(range(1, NUMBER, 2))


@pytest.mark.parametrize("grows", [False, True])
def test_a_cache_is_kept_below_its_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, grows: bool
) -> None:
    """As it grows and when it is closed, the least recently used answers make room."""
    monkeypatch.setattr(answer_cache, "_BATCH", 1)
    most = path.stat().st_size // 2
    cache = SqliteCache(path, print, StoppedClock(NOW + NUMBER), size=most)
    if grows:
        asyncio.run(cache.put(key(NUMBER - 1), a_cached_answer(text(NUMBER - 1))))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA page_count").fetchone()[0] * 4096 <= most
    cache.close()
    assert path.stat().st_size <= most
    stays = remaining(path)
    assert stays == list(range(NUMBER - len(stays), NUMBER))
    assert len(stays) > NUMBER / 3
