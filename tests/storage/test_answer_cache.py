"""The cache: its contract in every form, claims across processes, damage, and files of old."""

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
from msgspec.structs import astuple, replace

from llmctl.storage.answer_cache import (
    MIGRATIONS,
    SILENCE,
    CachePeek,
    MemoryCache,
    SelfHealingCache,
    SqliteCache,
    open_database,
    set_aside_files,
)
from llmctl.storage.database import APPLICATION_ID, DamagedError, Database, Migration
from llmctl.storage.process import Process
from tests.conformance.cache_store import CacheContract, get, put
from tests.conformance.calls import NOW, a_cached_answer
from tests.storage.clocks import StoppedClock
from tests.storage.damage import damaged_versions, sql

ROOT = Path(__file__).parents[2]
KEY = "0f" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cache will be."""
    return tmp_path / "cache" / "answers.sqlite3"


@pytest.fixture
def clock() -> StoppedClock:
    """Moved by the test."""
    return StoppedClock(NOW)


@pytest.fixture
def cache(path: Path, clock: StoppedClock) -> Iterator[SqliteCache]:
    """An empty cache."""
    with closing(SqliteCache(path, clock)) as opened:
        yield opened


class TestSqliteCache(CacheContract):
    """The contract, on disk."""

    @pytest.fixture
    def store(self, cache: SqliteCache) -> SqliteCache:
        """An empty one."""
        return cache


class TestSelfHealingCache(CacheContract):
    """The contract, without a warning."""

    @pytest.fixture
    def store(self, path: Path) -> Iterator[SelfHealingCache]:
        """An empty one."""
        said: list[str] = []
        with closing(SelfHealingCache(path, said.append)) as cache:
            yield cache
        assert said == []


class TestMemoryCache(CacheContract):
    """The contract, in memory."""

    @pytest.fixture
    def store(self) -> MemoryCache:
        """An empty one."""
        return MemoryCache()


def test_the_memory_cache_forgets_what_was_used_longest_ago() -> None:
    """Its size is bounded however many answers there are, and a hit counts as use."""
    cache = MemoryCache(max_bytes=30_000)
    answer = replace(a_cached_answer("x" * 9_000), body=None)
    for key in ("a", "b", "c"):
        put(cache, key, answer)
        get(cache, "a")
    put(cache, "a", answer)
    assert [get(cache, key) is not None for key in "abc"] == [True, False, True]


def key(n: int) -> str:
    """The n-th key."""
    return f"{n:064x}"


def text(n: int) -> str:
    """The n-th answer: some are long, some are empty."""
    return f"answer {n} " * (n % 40)


def used(path: Path) -> list[int]:
    """Which answers were used after the year 2065."""
    return [late for (late,) in sql(path, "SELECT used > 3000000000 FROM answers ORDER BY id")]


def test_a_hit_notes_its_time_of_use_without_a_write_of_its_own(
    cache: SqliteCache, path: Path
) -> None:
    """The times are written together, at the latest when the cache is closed."""
    for n in range(3):
        put(cache, key(n), a_cached_answer())
    with closing(SqliteCache(path, StoppedClock(NOW * 2))) as later:
        for _ in range(3):
            get(later, key(1))
        assert used(path) == [0, 0, 0]
    assert used(path) == [0, 1, 0]


@pytest.mark.parametrize(
    "said", ["body = x'00'", "stored = stored + 1", "body = 'text'", "stored = 'text'"]
)
def test_an_answer_that_was_changed_is_damage(cache: SqliteCache, path: Path, said: str) -> None:
    """A wrong answer is worse than none: what is not as it was stored is not given out."""
    put(cache, KEY, a_cached_answer())
    sql(path, f"UPDATE answers SET {said}")
    with pytest.raises(DamagedError, match=r"answers\.sqlite3 is damaged"):
        get(cache, KEY)


def test_many_answers_at_once_are_those_one_by_one(cache: SqliteCache) -> None:
    """However many are asked for, and twice the same: what is kept is given, the rest is not."""

    async def fill() -> None:
        answers = ((key(n), a_cached_answer(text(n))) for n in range(600))
        await asyncio.gather(*(cache.put(name, answer) for name, answer in answers))

    asyncio.run(fill())
    keys = [key(n) for n in (*range(0, 1200, 2), 4, 4)]
    found = asyncio.run(cache.get_many(keys))
    assert found == {key(n): a_cached_answer(text(n)) for n in range(0, 600, 2)}


def test_a_peek_knows_the_ttl_and_makes_no_file(cache: SqliteCache, path: Path) -> None:
    """An answer counts until it is older than allowed; what cannot be read has none."""
    put(cache, KEY, a_cached_answer(stored=NOW))
    for ttl, later, kept in ((None, 1e9, True), (60, 60, True), (60, 60.5, False)):
        with CachePeek(path, ttl, NOW + later) as peek:
            assert peek.has(KEY) is kept
            assert not peek.has(key(1))
    missing, broken = path.with_name("none"), path.with_name("broken")
    broken.write_bytes(b"no database" * 100)
    for file in (missing, broken):
        with CachePeek(file, None, NOW) as peek:
            assert not peek.has(KEY)
    assert not missing.exists()


# --- Claims

CLAIMS = (
    "import asyncio, sys; from pathlib import Path\n"
    "from llmctl.storage.answer_cache import SqliteCache\n"
    "cache = SqliteCache(Path(sys.argv[1]))\n"
    "print(asyncio.run(cache.claim(sys.argv[2])), flush=True); input(); cache.close()"
)


def claim(cache: SqliteCache) -> bool:
    """Whether this process may go."""
    return asyncio.run(cache.claim(KEY))


def claims(path: Path) -> int:
    """How many there are."""
    return len(sql(path, "SELECT * FROM claims"))


def owned_by(path: Path, owner: Process, *, at: float = NOW) -> None:
    """Give the claim to another process."""
    values = (bytes.fromhex(KEY), *astuple(owner), at)
    sql(path, "INSERT INTO claims VALUES (?, ?, ?, ?, ?)", *values)


def test_a_living_process_keeps_its_claim_and_a_dead_one_does_not(
    cache: SqliteCache, path: Path
) -> None:
    """While it runs the answer is awaited; once it was killed, the next one goes."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMS, str(path), KEY],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not claim(cache)
        assert not claim(cache)
        other.kill()
        other.wait()
        assert claim(cache)


def test_storing_or_giving_up_ends_the_claim(cache: SqliteCache, path: Path) -> None:
    """No row is left of a claim that went well, nor of one that was given up; that of another
    process stays."""
    assert claim(cache)
    put(cache, KEY, a_cached_answer())
    assert claims(path) == 0
    claim(cache)
    asyncio.run(cache.release(KEY))
    assert claims(path) == 0
    owned_by(path, replace(Process.current(), pid=1, birth="another"))
    asyncio.run(cache.release(KEY))
    assert claims(path) == 1


def test_claims_of_the_dead_are_dropped_when_the_cache_is_opened(path: Path) -> None:
    """Whether or not anybody asks the same question again; of those out of sight after 30 s."""
    open_database(path).close()
    me = Process.current()
    elsewhere = replace(me, world=me.world.partition(" ")[0] + " pid:[elsewhere]")
    for owner, later, left in (
        (replace(me, birth="long ago"), 0.0, 0),
        (elsewhere, SILENCE - 1, 1),
        (elsewhere, SILENCE, 0),
    ):
        sql(path, "DELETE FROM claims")
        owned_by(path, owner)
        SqliteCache(path, StoppedClock(NOW + later)).close()
        assert claims(path) == left


def test_a_process_out_of_sight_counts_by_its_signs_of_life(
    cache: SqliteCache, path: Path, clock: StoppedClock
) -> None:
    """In another container nobody can ask after a number: silence for 30 s is death; a sign of
    life begins the time anew."""
    boot = Process.current().world.partition(" ")[0]
    owned_by(path, Process(1, "1", f"{boot} pid:[elsewhere]"))
    assert not claim(cache)
    clock.now += SILENCE - 1
    assert not claim(cache)
    sql(path, f"UPDATE claims SET at = {clock.now}")
    clock.now += 2
    assert not claim(cache)
    clock.now += SILENCE
    assert claim(cache)
    clock.now += 5
    asyncio.run(cache.beat())
    assert sql(path, "SELECT at FROM claims") == [(clock.now,)]


# --- Damage


def fill(path: Path, number: int) -> None:
    """Make a cache with this many answers."""

    async def put_all(cache: SqliteCache) -> None:
        await asyncio.gather(*(cache.put(key(n), a_cached_answer(text(n))) for n in range(number)))

    with closing(SqliteCache(path)) as cache:
        asyncio.run(put_all(cache))


def test_a_damaged_cache_is_set_aside_and_the_run_goes_on(path: Path) -> None:
    """Whatever byte is broken: an answer is right or missing, and new ones are kept."""
    fill(path, 60)
    found_out = 0
    for n, (what, broken) in enumerate(damaged_versions(path.read_bytes(), 60)):
        victim = path.with_name(f"{n}.sqlite3")
        victim.write_bytes(broken)
        said: list[str] = []
        with closing(SelfHealingCache(victim, said.append)) as cache:
            for k in range(60):
                assert get(cache, key(k)) in (None, a_cached_answer(text(k))), what
            put(cache, key(99), a_cached_answer("new"))
            assert get(cache, key(99)) == a_cached_answer("new"), what
        assert len(set_aside_files(victim)) == len(said) <= 1, what
        found_out += len(said)
    assert found_out > 20


def test_the_warning_names_the_file_and_where_it_went(path: Path) -> None:
    """The damaged bytes are kept, private, under a name that tells when."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"rubbish" * 1000)
    said: list[str] = []
    SelfHealingCache(path, said.append, StoppedClock(NOW)).close()
    aside = path.with_name("answers.sqlite3.damaged-20270115T080000Z")
    assert set_aside_files(path) == [aside]
    assert aside.read_bytes() == b"rubbish" * 1000
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    (sentence,) = said
    assert str(path) in sentence
    assert aside.name in sentence


def test_writes_that_meet_damage_together_are_all_done_again(path: Path) -> None:
    """Storing into a file that has lost its table sets it aside once and loses nothing; an answer
    that is broken is a miss."""
    said: list[str] = []
    with closing(SelfHealingCache(path, said.append)) as cache:
        sql(path, "DROP TABLE answers")

        async def put_all() -> None:
            await asyncio.gather(*(cache.put(key(n), a_cached_answer(text(n))) for n in range(100)))

        asyncio.run(put_all())
        assert all(get(cache, key(n)) == a_cached_answer(text(n)) for n in range(100))
        assert len(said) == 1
        sql(path, "UPDATE answers SET body = x'00' WHERE id = 8")
        assert get(cache, key(7)) is None
        assert asyncio.run(cache.claim(key(7)))
        put(cache, key(7), a_cached_answer("mended"))
        assert get(cache, key(7)) == a_cached_answer("mended")
    assert len(set_aside_files(path)) == len(said) == 2


def test_a_file_that_somebody_uses_is_not_taken_from_them(path: Path) -> None:
    """While another process, or another thread of this one, has the damaged file open this run
    caches in memory; the next run sets the file aside."""
    fill(path, 3)
    program = (
        "import sys; from pathlib import Path\n"
        "from llmctl.storage.answer_cache import SelfHealingCache\n"
        "cache = SelfHealingCache(Path(sys.argv[1]), print); print('open', flush=True); input()\n"
        "cache.close()"
    )
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        sql(path, "UPDATE answers SET body = x'00'")
        with closing(SelfHealingCache(path, said.append)) as cache:
            assert get(cache, key(2)) is None
            put(cache, key(2), a_cached_answer())
            assert get(cache, key(2)) == a_cached_answer()
        assert other.communicate("\n")[0] == ""
    with open_database(path), closing(SelfHealingCache(path, said.append)) as cache:
        assert get(cache, key(2)) is None
    assert set_aside_files(path) == []
    assert ["another llmctl still uses" in sentence for sentence in said] == [True, True]
    with closing(SelfHealingCache(path, said.append)) as cache:
        assert get(cache, key(2)) is None
    assert len(set_aside_files(path)) == 1
    assert len(said) == 3


def test_without_a_folder_to_write_to_the_cache_is_in_memory(tmp_path: Path) -> None:
    """A warning, and the run goes on."""
    (tmp_path / "file").touch()
    said: list[str] = []
    with closing(SelfHealingCache(tmp_path / "file" / "answers.sqlite3", said.append)) as cache:
        put(cache, key(1), a_cached_answer())
        assert get(cache, key(1)) == a_cached_answer()
    assert len(said) == 1
    assert "not cached on disk" in said[0]


def test_a_newer_cache_is_left_alone(path: Path) -> None:
    """Its file stays for the newer program; this run's cache is in memory."""
    newer = (*MIGRATIONS, Migration("cache-999-more", ("CREATE TABLE more (x)",)))
    Database(path, newer).close()
    said: list[str] = []
    SelfHealingCache(path, said.append).close()
    assert "use a newer llmctl" in said[0]
    Database(path, newer).close()


def test_a_cache_of_version_0_1_0_is_set_aside(path: Path) -> None:
    """With a warning; the run goes on with an empty one."""
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            f"PRAGMA application_id = {APPLICATION_ID};"
            "CREATE TABLE migrations (name TEXT PRIMARY KEY) WITHOUT ROWID;"
            "INSERT INTO migrations VALUES ('cache-001-answers'), ('cache-002-apart');"
            "CREATE TABLE texts (id INTEGER PRIMARY KEY, key BLOB NOT NULL)"
        )
    said: list[str] = []
    with closing(SelfHealingCache(path, said.append, StoppedClock(NOW))) as cache:
        put(cache, KEY, a_cached_answer())
    aside = path.with_name("answers.sqlite3.old-20270115T080000Z")
    assert set_aside_files(path) == [aside]
    assert "is of an older llmctl: it was set aside" in said[0]
    with closing(SelfHealingCache(path, said.append)) as cache:
        assert get(cache, KEY) == a_cached_answer()
    assert len(said) == 1
