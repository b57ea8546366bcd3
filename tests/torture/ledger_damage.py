"""T16: damaged ledgers under the real command: `python -m tests.torture.ledger_damage [--full]`.

Every batch meets a ledger with flipped bits or a missing end. Either it answers all rows and leaves
a sound ledger in which every new bill stands, or it says so before the first paid call, with 74 and
a way out that works.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.storage.damage import damaged_versions
from tests.torture.judge import Arena, Size, arena, bills_in, main, sound

ROWS = 40
_AGAIN = 3


def run(size: Size) -> str:
    """200 damaged ledgers; one line."""
    number = size.of(12, 200)
    with arena(ROWS, concurrency=8) as world:
        done = world.run([*world.batch, "--no-cache"])
        assert done.returncode == 0, done.stderr
        world.judge()
        whole = (world.state / "ledger.db").read_bytes()
        refused = 0
        for what, broken in damaged_versions(whole, number):
            shutil.rmtree(world.state)
            world.state.mkdir(mode=0o700)
            (world.state / "ledger.db").write_bytes(broken)
            refused += met(world, what, try_way_out=refused < _AGAIN)
        assert 0 < refused < number, refused
        return (
            f"T16 ledger: {number} damaged files met by a batch: {refused} refused before the "
            f"first paid call (74), the way out tried {min(refused, _AGAIN)} times; "
            f"{number - refused} made no difference: every row answered, every bill settled"
        )


def met(world: Arena, what: str, *, try_way_out: bool) -> bool:
    """One damaged ledger, done to it `what`; whether it was refused."""
    world.output.unlink(missing_ok=True)
    before = world.sim.record.requests
    done = world.run([*world.batch, "--no-cache"], timeout=60)
    ledger = world.state / "ledger.db"
    if done.returncode == 0:
        _right(world, before, what)
        return False
    assert done.returncode == 74, (what, done.returncode, done.stderr)
    assert world.sim.record.requests == before, f"{what}: refused after a paid call"
    told = done.stderr
    assert "Traceback" not in told, what
    assert str(ledger) in told, (what, told)
    assert "move it (and its -wal and -shm) to another folder" in told, (what, told)
    if try_way_out:
        _way_out(world, what)
    return True


def _way_out(world: Arena, what: str) -> None:
    """Do as the message says."""
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    for path in world.state.glob("ledger.db*"):
        subprocess.run(["mv", path, elsewhere], check=True)
    before = world.sim.record.requests
    done = world.run([*world.batch, "--no-cache"], timeout=60)
    assert done.returncode == 0, (what, done.stderr)
    _right(world, before, what)


def _right(world: Arena, before: int, what: str) -> None:
    """Every row answered, and everything since the request `before` settled once."""
    answers = {record["id"]: record["text"] for record in world.answered()}
    assert answers == {name: f"echo: {text}" for name, text in world.prompts.items()}, what
    sound(world.state / "ledger.db")
    new = {f"req_{call.index:08d}" for call in world.sim.calls[before:]}
    settled = [row for row in bills_in(world.state / "ledger.db") if row in new]
    assert sorted(settled) == sorted(new), f"{what}: {len(settled)} of {len(new)} settled"


if __name__ == "__main__":
    sys.exit(main("ledger_damage", run))
