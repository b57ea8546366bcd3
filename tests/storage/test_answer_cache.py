"""The cache: what it keeps, claims across processes, damage, and files of old."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import astuple, replace

from llmctl.protocols import CachedAnswer
from llmctl.storage.answer_cache import (
    MIGRATIONS,
    SILENCE,
    CachePeek,
    SqliteCache,
    open_database,
    set_aside_files,
)
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.database import APPLICATION_ID, Database, Migration
from llmctl.storage.process import Process, start_time, world
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
def said() -> list[str]:
    """The warnings."""
    return []


@pytest.fixture
def cache(path: Path, clock: StoppedClock, said: list[str]) -> Iterator[SqliteCache]:
    """An empty cache."""
    with closing(SqliteCache(path, said.append, clock)) as opened:
        yield opened


def key(n: int) -> str:
    """The n-th key."""
    return f"{n:064x}"


def text(n: int) -> str:
    """The n-th answer: some are long, some are empty."""
    return f"answer {n} " * (n % 40)


def get(cache: SqliteCache, key: str) -> CachedAnswer | None:
    """The answer."""
    return asyncio.run(cache.get(key))


def put(cache: SqliteCache, key: str, answer: CachedAnswer) -> None:
    """Keep it."""
    asyncio.run(cache.put(key, answer))


def fill(cache: SqliteCache, number: int) -> None:
    """Store as many answers at once."""

    async def put_all() -> None:
        await asyncio.gather(*(cache.put(key(n), a_cached_answer(text(n))) for n in range(number)))

    asyncio.run(put_all())


@pytest.mark.parametrize(
    "answer",
    [
        a_cached_answer(),
        *(replace(a_cached_answer(), body=body, cost=None) for body in (None, b"", b"\x00\xff no")),
        *map(a_cached_answer, ("", "\ud800 half a pair", "a\x00b\u2028✓🎉", "yes " * 99_999)),
    ],
)
def test_an_answer_comes_back_as_it_was(cache: SqliteCache, answer: CachedAnswer) -> None:
    """Every field survives, the provider's bytes and the exact cost included, and takes the place
    of an older one."""
    put(cache, KEY, a_cached_answer("older", stored=NOW - 1))
    put(cache, KEY, answer)
    assert get(cache, KEY) == answer
    assert get(cache, key(1)) is None


def test_many_answers_at_once_are_those_one_by_one(cache: SqliteCache) -> None:
    """However many are asked for, and twice the same: what is kept is given, the rest is not."""
    fill(cache, 600)
    keys = [key(n) for n in (*range(0, 1200, 2), 4, 4)]
    found = asyncio.run(cache.get_many(keys))
    assert found == {key(n): a_cached_answer(text(n)) for n in range(0, 600, 2)}
    assert asyncio.run(cache.get_many([])) == {}


def test_a_hit_notes_its_time_of_use_without_a_write_of_its_own(
    cache: SqliteCache, path: Path
) -> None:
    """The times are written together, at the latest when the cache is closed."""
    used = "SELECT used > 3000000000 FROM answers ORDER BY id"
    fill(cache, 3)
    with closing(SqliteCache(path, print, StoppedClock(NOW * 2))) as later:
        for _ in range(3):
            get(later, key(1))
        assert sql(path, used) == [(0,), (0,), (0,)]
    assert sql(path, used) == [(0,), (1,), (0,)]


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

PROGRAM = (
    "import asyncio, sys; from pathlib import Path\n"
    "from llmctl.storage.answer_cache import SqliteCache\n"
    "cache = SqliteCache(Path(sys.argv[1]), print)\n"
    "print(asyncio.run(cache.claim(sys.argv[2])), flush=True); input(); cache.close()"
)


def another_process(path: Path) -> subprocess.Popen[str]:
    """One that claims the key, and has the cache open until its stdin ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), KEY],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "ours\n"
    return other


def claim(cache: SqliteCache) -> bool:
    """Whether this process may go."""
    return asyncio.run(cache.claim(KEY)) != "theirs"


def owned_by(path: Path, owner: Process, *, at: float = NOW) -> None:
    """Give the claim to another process."""
    values = (bytes.fromhex(KEY), *astuple(owner), at)
    sql(path, "INSERT INTO claims VALUES (?, ?, ?, ?, ?)", *values)


def test_a_living_process_keeps_its_claim_and_a_dead_one_does_not(
    cache: SqliteCache, path: Path, clock: StoppedClock
) -> None:
    """While it runs the answer is awaited; once it was killed, the next one goes."""
    clock.now = time.time()
    with another_process(path) as other:
        assert not claim(cache)
        assert not claim(cache)
        other.kill()
        other.wait()
        assert claim(cache)


def test_storing_or_giving_up_ends_the_claim(cache: SqliteCache, path: Path) -> None:
    """No row is left of a claim that went well, nor of one that was given up; that of another
    process stays. Within a process a claim may be had again."""
    assert claim(cache)
    assert claim(cache)
    put(cache, KEY, a_cached_answer())
    assert sql(path, "SELECT * FROM claims") == []
    claim(cache)
    asyncio.run(cache.release(KEY))
    assert sql(path, "SELECT * FROM claims") == []
    owned_by(path, replace(Process.current(), pid=1, birth="another"))
    asyncio.run(cache.release(KEY))
    assert len(sql(path, "SELECT * FROM claims")) == 1


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
        SqliteCache(path, print, StoppedClock(NOW + later)).close()
        assert len(sql(path, "SELECT * FROM claims")) == left


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_process_counts_by_its_signs_of_life(
    cache: SqliteCache, path: Path, clock: StoppedClock, place: str
) -> None:
    """Case 73: silence for 30 s is death, of a process that is stopped as of one in another
    container, where nobody can ask after a number; a sign of life begins the time anew."""
    here, parent = world(), os.getppid()
    owner = Process(parent, start_time(parent) or "", here)
    if place == "elsewhere":
        owner = Process(1, "1", f"{here.partition(' ')[0]} pid:[elsewhere]")
    owned_by(path, owner)
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


def test_a_damaged_cache_is_set_aside_and_the_run_goes_on(cache: SqliteCache, path: Path) -> None:
    """Whatever byte is broken: an answer is right or missing, and new ones are kept."""
    fill(cache, 60)
    cache.close()
    found_out = 0
    for n, (what, broken) in enumerate(damaged_versions(path.read_bytes(), 60)):
        victim = path.with_name(f"{n}.sqlite3")
        victim.write_bytes(broken)
        said: list[str] = []
        with closing(SqliteCache(victim, said.append)) as opened:
            for k in range(60):
                assert get(opened, key(k)) in (None, a_cached_answer(text(k))), what
            put(opened, key(99), a_cached_answer("new"))
            assert get(opened, key(99)) == a_cached_answer("new"), what
        assert len(set_aside_files(victim)) == len(said) <= 1, what
        found_out += len(said)
    assert found_out > 20


@pytest.mark.parametrize(
    "change", ["body = x'00'", "stored = stored + 1", "body = 'text'", "stored = 'text'"]
)
def test_an_answer_that_was_changed_is_damage(
    cache: SqliteCache, path: Path, said: list[str], change: str
) -> None:
    """A wrong answer is worse than none: what is not as it was stored is not given out, and the
    file is set aside."""
    put(cache, KEY, a_cached_answer())
    sql(path, f"UPDATE answers SET {change}")
    assert get(cache, KEY) is None
    assert claim(cache)
    put(cache, KEY, a_cached_answer("mended"))
    assert get(cache, KEY) == a_cached_answer("mended")
    assert len(set_aside_files(path)) == len(said) == 1


def test_writes_that_meet_damage_together_are_all_done_again(
    cache: SqliteCache, path: Path, said: list[str]
) -> None:
    """Storing into a file that has lost its table sets it aside once and loses nothing."""
    sql(path, "DROP TABLE answers")
    fill(cache, 100)
    assert all(get(cache, key(n)) == a_cached_answer(text(n)) for n in range(100))
    assert len(said) == 1


def rubbish(path: Path) -> None:
    """A file that is no database."""
    path.write_bytes(b"rubbish" * 1000)


def of_version_0_1_0(path: Path) -> None:
    """The tables of the cache of old."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            f"PRAGMA application_id = {APPLICATION_ID};"
            "CREATE TABLE migrations (name TEXT PRIMARY KEY) WITHOUT ROWID;"
            "INSERT INTO migrations VALUES ('cache-001-answers'), ('cache-002-apart');"
            "CREATE TABLE texts (id INTEGER PRIMARY KEY, key BLOB NOT NULL)"
        )


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [(rubbish, "damaged", "is damaged"), (of_version_0_1_0, "old", "is of an older llmctl")],
)
def test_the_warning_names_the_file_and_where_it_went(
    path: Path, said: list[str], make: Callable[[Path], None], name: str, words: str
) -> None:
    """The old bytes are kept, private, under a name that tells when; the run goes on with an
    empty cache."""
    path.parent.mkdir(mode=0o700)
    make(path)
    before = path.read_bytes()[100:]  # the header says WAL after a look
    with closing(SqliteCache(path, said.append, StoppedClock(NOW))) as cache:
        put(cache, KEY, a_cached_answer())
    aside = path.with_name(f"answers.sqlite3.{name}-20270115T080000Z")
    assert set_aside_files(path) == [aside]
    assert aside.read_bytes()[100:] == before
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    with closing(SqliteCache(path, said.append)) as cache:
        assert get(cache, KEY) == a_cached_answer()
    (sentence,) = said
    assert f"{path} {words}" in sentence
    assert aside.name in sentence


def test_a_file_that_somebody_uses_is_not_taken_from_them(
    cache: SqliteCache, path: Path, said: list[str]
) -> None:
    """While another process, or another thread of this one, has the damaged file open this run
    keeps no answer; the next run sets the file aside."""
    fill(cache, 3)
    with another_process(path) as other:
        sql(path, "UPDATE answers SET body = x'00'")
        assert get(cache, key(2)) is None
        put(cache, key(2), a_cached_answer())
        assert get(cache, key(2)) is None
        assert claim(cache)
        assert other.communicate("\n")[0] == ""
    with open_database(path), closing(SqliteCache(path, said.append)) as again:
        assert get(again, key(2)) is None
    assert set_aside_files(path) == []
    assert ["another llmctl still uses" in sentence for sentence in said] == [True, True]
    with closing(SqliteCache(path, said.append)) as again:
        assert get(again, key(2)) is None
    assert len(set_aside_files(path)) == 1
    assert len(said) == 3


def test_where_there_can_be_no_file_no_answer_is_kept(
    path: Path, tmp_path: Path, said: list[str]
) -> None:
    """A warning, and the run goes on. The file of a newer program stays as it is."""
    newer = (*MIGRATIONS, Migration("cache-999-more", ("CREATE TABLE more (x)",)))
    Database(path, newer).close()
    (tmp_path / "file").touch()
    for where, words in ((path, "use a newer"), (tmp_path / "file" / "x", "not cached on disk")):
        with closing(SqliteCache(where, said.append)) as cache:
            put(cache, KEY, a_cached_answer())
            assert get(cache, KEY) is None
            assert claim(cache)
        assert words in said.pop()
    assert not said
    Database(path, newer).close()


# --- Encrypted

SECRET, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def store(secret: str = SECRET, *, on: bool = True) -> StoreCipher:
    """The cipher of a store key; there is none for an empty one."""
    null = {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    return StoreCipher({"LLMCTL_STORE_KEY": secret, **null}, on=on)


def question(n: int) -> str:
    """The n-th key, as scattered as fingerprints."""
    return hashlib.sha256(str(n).encode()).hexdigest()


def every_byte(path: Path) -> bytes:
    """Of all files of the cache."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def answers(cache: SqliteCache, count: int) -> list[str | None]:
    """The texts of the first keys, looked up together."""
    found = asyncio.run(cache.get_many([question(n) for n in range(count)]))
    return [found[question(n)].text if question(n) in found else None for n in range(count)]


@pytest.fixture
def encrypted(path: Path, said: list[str]) -> Path:
    """A cache of 600 encrypted answers; no file of it, while it is open and then, has a word of
    one, nor the fingerprint of a question."""
    with closing(SqliteCache(path, said.append, store=store())) as cache:
        for n in range(600):
            put(cache, question(n), a_cached_answer(f"canary {n}"))
            if n == 0:
                assert b"canary" not in every_byte(path)
        assert answers(cache, 600) == [f"canary {n}" for n in range(600)]
    raw = every_byte(path)
    assert b"canary" not in raw
    asked = [question(n) for n in range(600)]
    assert not [one for one in asked if bytes.fromhex(one) in raw or one.encode() in raw]
    assert said == []
    return path


def test_encrypted_answers_come_back(encrypted: Path, said: list[str]) -> None:
    """In another process, and while encryption is off by now; a plan finds them, too."""
    for on in (True, False):
        with closing(SqliteCache(encrypted, said.append, store=store(on=on))) as cache:
            assert answers(cache, 600) == [f"canary {n}" for n in range(600)]
            assert get(cache, question(7)) == a_cached_answer("canary 7")
            assert get(cache, question(601)) is None
    for cipher, found in ((store().cipher, True), (None, False), (store(OTHER).cipher, False)):
        with CachePeek(encrypted, None, NOW, cipher) as peek:
            assert peek.has(question(7)) is found
            assert not peek.has(question(601))
    assert said == []


def test_while_it_is_off_both_kinds_answer(encrypted: Path, said: list[str]) -> None:
    """What is kept then is in clear, and found beside what was encrypted; turned on again, all of
    it is encrypted, and the newer answer counts."""
    with closing(SqliteCache(encrypted, said.append, store=store(on=False))) as cache:
        for n in (5, 700):
            put(cache, question(n), a_cached_answer(f"clear {n}"))
        assert answers(cache, 7)[4:] == ["canary 4", "clear 5", "canary 6"]
        assert b"clear 5" in every_byte(encrypted)
    with closing(SqliteCache(encrypted, said.append, store=store())) as cache:
        assert answers(cache, 7)[4:] == ["canary 4", "clear 5", "canary 6"]
        assert get(cache, question(700)) == a_cached_answer("clear 700")
        assert b"clear" not in every_byte(encrypted)


def test_what_is_in_clear_is_encrypted_when_it_is_turned_on(path: Path, said: list[str]) -> None:
    """No word of an answer is left in a file, though another process has it open; all answer."""
    with closing(SqliteCache(path, said.append)) as other:
        for n in range(1200):
            put(other, key(n), a_cached_answer(f"canary {n} " * (n % 40 + 1)))
        with closing(SqliteCache(path, said.append, store=store())) as cache:
            assert b"canary" not in every_byte(path)
            for n in range(1200):
                assert get(cache, key(n)) == a_cached_answer(f"canary {n} " * (n % 40 + 1))
    with open_database(path) as db:
        counted = "SELECT count(*), sum(bytes = length(body)) FROM answers"
        assert db.read(lambda c: c.execute(counted).fetchone()) == (1200, 1200)
    assert said == []


@pytest.mark.parametrize("on", [True, False])
def test_another_key_finds_nothing_and_says_so_once(
    encrypted: Path, said: list[str], *, on: bool
) -> None:
    """Answers of another store key are misses, with one warning that says what to do; new ones are
    kept beside them. Without a key, while it is off, they are only misses."""
    with closing(SqliteCache(encrypted, said.append, store=store(OTHER, on=on))) as cache:
        assert answers(cache, 600) == [None] * 600
        put(cache, question(1), a_cached_answer("mine"))
        assert get(cache, question(1)) == a_cached_answer("mine")
    (sentence,) = said
    assert "another store key" in sentence
    assert "llmctl cache prune --all" in sentence
    with closing(SqliteCache(encrypted, said.append, store=store("", on=False))) as cache:
        assert answers(cache, 3) == [None, None if on else "mine", None]
    assert len(said) == 1
    with closing(SqliteCache(encrypted, said.append, store=store())) as cache:
        assert get(cache, question(1)) == a_cached_answer("canary 1" if on else "mine")


def test_an_encrypted_answer_is_good_in_its_row_only(encrypted: Path, said: list[str]) -> None:
    """A body that somebody has put under another key is damage, and never an answer to it."""
    named = store().cipher.name(bytes.fromhex(question(1)))
    other = store().cipher.name(bytes.fromhex(question(2)))
    sql(
        encrypted,
        f"UPDATE answers SET body = (SELECT body FROM answers WHERE key = '{other}') "
        f"WHERE key = '{named}'",
    )
    with closing(SqliteCache(encrypted, said.append, store=store())) as cache:
        assert get(cache, question(1)) is None
    assert "is damaged" in said[0]


def test_encrypted_claims_are_one_across_processes(path: Path) -> None:
    """Of two that encrypt one gets the answer; the claim does not tell the question."""
    with (
        closing(SqliteCache(path, print, store=store())) as cache,
        closing(SqliteCache(path, print, store=store())) as other,
    ):
        other._me = (1, "another", other._me[2])
        assert asyncio.run(cache.claim(KEY)) == "ours"
        assert asyncio.run(other.claim(KEY)) == "theirs"
        assert bytes.fromhex(KEY) not in every_byte(path)
        asyncio.run(cache.release(KEY))
        assert asyncio.run(other.claim(KEY)) == "ours"
