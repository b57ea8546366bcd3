"""T27: several processes share one input and one output (`--join`), and are killed (`kill -9`).

A member dies at a random request and another one comes. No row is lost or has two records, and of
every kill at most as many answers are billed again as calls were in flight there.
"""

from __future__ import annotations

import time
from random import Random

from tests.torture.judge import Arena, Size, arena, kill


def run(size: Size) -> str:
    """20 kills over 10,000 rows, four members of 25 at a time; one line."""
    rows, kills, members = size.of(400, 10_000), size.of(2, 20), size.of(2, 4)
    concurrency = size.of(8, 25)
    dice = Random(size.seed)
    with arena(rows, concurrency=concurrency, latency=0.02) as world:
        started = time.monotonic()
        _members(world, dice, rows, kills, members)
        verdict = world.judge()
        took = time.monotonic() - started
        assert verdict.answered == rows
        assert verdict.rebilled <= kills * concurrency, verdict.rebilled
        assert verdict.doubtful > 0  # else nothing was killed in the middle of its work
        assert not [path.name for path in world.folder.iterdir() if path.suffix == ".join"]
    return (
        f"T27 --join: {kills} kills among {members} members over {rows:,} rows: 0 lost, 0 double, "
        f"{verdict.rebilled} billed again in all, {verdict}; {took:.0f} s"
    )


def _members(world: Arena, dice: Random, rows: int, kills: int, members: int) -> None:
    """Keep so many members at work until all rows are done, and kill some of them."""
    command = [*world.batch, "--join", "--no-cache"]
    alive = [world.start(command) for _ in range(members)]
    for number in range(kills):
        world.sim.wait_for_calls((number + 1) * rows // (kills + 2), timeout=120)
        time.sleep(dice.random() * 0.05)
        victim = alive.pop(dice.randrange(len(alive)))
        assert victim.poll() is None, "it ended before it could be killed"
        kill(victim)
        alive.append(world.start(command))
    for process in alive:
        _, problem = process.communicate(timeout=600)
        assert process.returncode == 0, problem.decode()
