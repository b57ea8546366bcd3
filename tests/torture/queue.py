"""T25: `kill -9` at random moments of `queue run`.

Rows were queued in an outage. However often the process that sends them is killed, each row has one
answer in the end, and of every kill at most as many are billed again as were in flight.
"""

from __future__ import annotations

import time
from random import Random

from tests.conftest import LLMCTL
from tests.simulator import errors
from tests.torture.judge import Size, arena, kill

CONCURRENCY = 10


def run(size: Size) -> str:
    """20 kills over 2,000 rows at 10 at a time; one line."""
    rows, kills = size.of(120, 2_000), size.of(3, 20)
    dice = Random(size.seed)
    command = [str(LLMCTL), "queue", "run", "-q"]
    with arena(rows, concurrency=CONCURRENCY, knobs="degrade: [queue]", latency=0.002) as world:
        started = time.monotonic()
        world.sim.fault = errors.server_error()
        queued = world.run()
        assert queued.returncode == 6, queued.stderr
        world.sim.fault = None
        for number in range(kills):
            before = world.sim.record.requests
            process = world.start(command)
            world.sim.wait_for_calls(before + dice.randint(1, rows // (kills + 3)), timeout=60)
            time.sleep(dice.random() * 0.03)
            assert process.poll() is None, f"it ended before kill {number + 1}"
            kill(process)
            world.settle_down()
        done = world.run(command)
        assert done.returncode == 0, done.stderr
        verdict = world.judge()
        assert verdict.answered == rows
        assert verdict.rebilled <= kills * CONCURRENCY, verdict.rebilled
        nothing = world.run()
        assert (nothing.returncode, world.sim.record.requests) == (0, verdict.requests)
        took = time.monotonic() - started
    return (
        f"T25 queue: {kills} kills over {rows:,} queued rows at {CONCURRENCY} at a time: 0 lost, "
        f"0 double, {verdict.rebilled} billed again in all, {verdict}; {took:.0f} s"
    )
