"""Nodes of a Ray cluster that die at random moments of a batch, and then its governor.

Of every node at most as many answers are lost, and so billed again, as calls were in flight there.
The small form of this is in `tests/cluster/`.
"""

from __future__ import annotations

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random

from tests.cluster.two_nodes import two_nodes
from tests.torture.judge import Size, UnableError, arena, kill

_CONCURRENCY = 20  # calls in flight on each node
_BETWEEN = 600  # rows between two kills, so that the new node has some
_LATENCY = 0.5  # seconds of an answer


def run(size: Size) -> str:
    """20 nodes killed; one line."""
    if find_spec("ray") is None:
        raise UnableError("ray is not installed")
    kills = size.of(2, 20)
    rows = _BETWEEN * (kills + 1)
    dice = Random(size.seed)
    environ = {"PATH": os.environ["PATH"], "SIM_KEY": "sk-torture"}
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        two_nodes({**environ, "HOME": folder}, Path(folder)) as nodes,
        arena(rows, concurrency=_CONCURRENCY, latency=_LATENCY) as world,
    ):
        process = world.start([*world.batch, "--engine", "ray", "--address", nodes.address])
        try:
            world.sim.wait_for_calls(1, timeout=120)
            for number in range(kills):
                at = number * _BETWEEN + dice.randint(2 * _CONCURRENCY, _BETWEEN)
                world.sim.wait_for_calls(at, timeout=300)
                time.sleep(dice.random() * _LATENCY)
                nodes.ask("kill")
                nodes.ask("add")
            nodes.ask("governor")
            _, said = process.communicate(timeout=600)
        except BaseException:
            kill(process)
            raise
        assert process.returncode == 0, said
        verdict = world.judge()
        assert verdict.answered == rows
        assert verdict.rebilled <= kills * _CONCURRENCY, verdict
        assert verdict.doubtful > 0
    return (
        f"nodes: {kills} killed over {rows:,} rows at {_CONCURRENCY} at a time on each of two, and "
        f"the governor: 0 lost, 0 double, {verdict.rebilled} billed again, {verdict}; "
        f"{time.monotonic() - started:.0f} s"
    )
