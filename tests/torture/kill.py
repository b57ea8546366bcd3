"""T1: `kill -9` at random moments of a batch.

The process group dies at a random request, or a random while after its start. Of every kill at
most as many answers are lost, and so billed again, as calls were in flight.
"""

from __future__ import annotations

import time
from random import Random

from tests.torture.judge import Arena, Size, arena, kill


def run(size: Size) -> str:
    """20 kills over 10,000 rows at 50 at a time; one line."""
    rows, kills = size.of(1_000, 10_000), size.of(4, 20)
    concurrency = size.of(16, 50)
    dice = Random(size.seed)
    worst = again = 0
    with arena(rows, concurrency=concurrency, latency=0.002) as world:
        started = time.monotonic()
        for number in range(kills):
            lost = _killed(world, dice, rows // (kills + 3), cached=number % 2 == 0)
            assert lost <= concurrency, f"{lost} answers lost by kill {number + 1}"
            worst = max(worst, lost)
        done = world.run([*world.batch, "--no-cache"])
        assert done.returncode == 0, done.stderr
        verdict = world.judge()
        assert verdict.answered == rows
        again = verdict.rebilled
        assert again <= kills * concurrency, again
        # Every kill left something: else nothing was killed in the middle of its work.
        assert verdict.doubtful > 0
        took = time.monotonic() - started
    return (
        f"T1 kill -9: {kills} kills over {rows:,} rows at {concurrency} at a time: 0 lost, 0 "
        f"double, {again} billed again in all (at most {worst} a kill), {verdict}; {took:.0f} s"
    )


def _killed(world: Arena, dice: Random, most: int, *, cached: bool) -> int:
    """Start the batch and kill it; how many bills there are whose answer is not in the output."""
    before = world.sim.record.requests
    process = world.start(world.batch if cached else [*world.batch, "--no-cache"])
    if dice.random() < 0.8:
        world.sim.wait_for_calls(before + dice.randint(1, most), timeout=60)
    time.sleep(dice.random() * 0.03)
    assert process.poll() is None, "it ended before it could be killed"
    kill(process)
    world.settle_down()
    return len(world.missing())
