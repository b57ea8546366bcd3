"""T16: damaged caches and ledgers under the real command.

Every batch meets a file with flipped bits or a missing end. A cache is set aside: every row is
answered rightly, if need be asked again. A ledger either makes no difference, and every new bill
stands in it, or is refused before the first paid call, with 74 and a way out that works.
"""

from __future__ import annotations

import shutil
import subprocess

from tests.storage.damage import damaged_versions, sql
from tests.torture.judge import Arena, Size, arena, sound

ROWS = 50
_SETTLED = "SELECT provider_request_id FROM calls WHERE status = 'ok'"


def run(size: Size) -> str:
    """200 damaged caches, and as many ledgers; one line."""
    return f"T16 {_caches(size.of(4, 200))}; {_ledgers(size.of(6, 200), size.of(2, 3))}"


def _caches(number: int) -> str:
    with arena(ROWS) as world:
        assert _batch(world).returncode == 0
        cache = world.cache / "cache.db"
        whole = cache.read_bytes()
        asides = 0
        for what, broken in damaged_versions(whole, number):
            shutil.rmtree(world.cache)
            world.cache.mkdir(mode=0o700)
            cache.write_bytes(broken)
            done = _batch(world)
            _all_answered(world, done, what)
            found = list(world.cache.glob("cache.db.damaged-*Z"))
            assert len(found) == done.stderr.count("set aside") <= 1, what
            assert "not cached" not in done.stderr, (what, done.stderr)
            asides += len(found)
            if found:
                sound(cache)
        again = world.sim.record.requests - ROWS
        # A cut file has lost something; a set-aside one everything.
        assert 0 < asides < number, asides
        assert 0 < again < number * ROWS, again
        return (
            f"{number} damaged caches met by a batch: every row answered rightly, {asides} set "
            f"aside, {again:,} of {number * ROWS:,} rows asked again"
        )


def _ledgers(number: int, ways_out: int) -> str:
    with arena(ROWS, concurrency=8) as world:
        assert _batch(world, "--no-cache").returncode == 0
        world.judge()
        whole = (world.state / "ledger.db").read_bytes()
        refused = 0
        for what, broken in damaged_versions(whole, number):
            shutil.rmtree(world.state)
            world.state.mkdir(mode=0o700)
            (world.state / "ledger.db").write_bytes(broken)
            before = world.sim.record.requests
            done = _batch(world, "--no-cache")
            if done.returncode == 74:
                _refused(world, done, before, what)
                refused += 1
                if refused > ways_out:
                    continue
                done = _batch(world, "--no-cache")
            _all_answered(world, done, what)
            sound(world.state / "ledger.db")
            new = {f"req_{call.index:08d}" for call in world.sim.calls[before:]}
            bills = sql(world.state / "ledger.db", _SETTLED)
            settled = [name for (name,) in bills if name in new]
            assert sorted(settled) == sorted(new), f"{what}: {len(settled)} of {len(new)} settled"
        assert 0 < refused < number, refused
        return (
            f"{number} damaged ledgers: {refused} refused before the first paid call (74), the way "
            f"out tried {min(refused, ways_out)} times, {number - refused} made no difference"
        )


def _batch(world: Arena, *flags: str) -> subprocess.CompletedProcess[str]:
    world.output.unlink(missing_ok=True)
    return world.run([*world.batch, *flags], timeout=60)


def _all_answered(world: Arena, done: subprocess.CompletedProcess[str], what: str) -> None:
    assert done.returncode == 0, (what, done.stderr)
    answers = {record["id"]: record["text"] for record in world.answered()}
    assert answers == {name: f"echo: {text}" for name, text in world.prompts.items()}, what


def _refused(world: Arena, done: subprocess.CompletedProcess[str], before: int, what: str) -> None:
    """Nothing was sent, and the message says what to do; do it."""
    assert world.sim.record.requests == before, f"{what}: refused after a paid call"
    assert "Traceback" not in done.stderr, what
    assert str(world.state / "ledger.db") in done.stderr, (what, done.stderr)
    wanted = "move it (and its -wal and -shm) to another folder"
    assert wanted in done.stderr, (what, done.stderr)
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    for path in world.state.glob("ledger.db*"):
        path.replace(elsewhere / path.name)
