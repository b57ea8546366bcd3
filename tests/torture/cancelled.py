"""T18: calls cancelled in great numbers.

For a while 30% of 200 calls at a time are cancelled at random moments of their lives. Afterwards a
healthy request takes less than a second: no slot, connection, hold or claim has leaked, and the
ledger has every bill, settled or in doubt.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from random import Random

from llmctl.errors import CallError
from llmctl.types import Answer
from tests.simulator.errors import rate_limited
from tests.simulator.faults import Disconnect
from tests.simulator.scripts import mixture
from tests.storage.damage import sql
from tests.torture.inside import inside
from tests.torture.judge import Arena, Size, arena, reconcile, sound

SHARE = 0.3
"""Of the calls are cancelled, most of them early; some have been answered by then."""

_KNOBS = """
retry: {max_wait: 0.1}
breaker: {failures: 1000}
"""
"""Pauses long enough for many calls to be cancelled in one, after an attempt that was billed; a few
broken connections in a row are no outage here."""

_FAULTS = mixture((0.05, rate_limited(0.01, form="ms")), (0.1, Disconnect(billed=True)))


def run(size: Size) -> str:
    """200 at a time for 30 s; one line."""
    seconds, at_once = size.of(3, 30), size.of(50, 200)
    with arena(0, concurrency=at_once, latency=0.01, knobs=_KNOBS) as world:
        return asyncio.run(_run(world, seconds, at_once, Random(size.seed)))


async def _run(world: Arena, seconds: int, at_once: int, dice: Random) -> str:
    ended: Counter[type] = Counter()
    before = asyncio.all_tasks()
    async with inside(world) as ask:
        world.sim.fault = _FAULTS
        end = time.monotonic() + seconds

        async def work(name: int) -> None:
            for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
                # Half of the questions are what others ask at about the same time, too.
                task = asyncio.ensure_future(ask(f"{dice.choice((name, 'all'))} {number}"))
                if dice.random() < SHARE:
                    await asyncio.wait({task}, timeout=dice.random() ** 3 * 0.4)
                    task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(result, Answer | CallError | asyncio.CancelledError), result
                ended[type(result)] += 1

        await asyncio.gather(*map(work, range(at_once)))
        world.sim.fault = None
        started = time.monotonic()
        await asyncio.gather(*(ask(f"after {n}") for n in range(9)))
        took = time.monotonic() - started
        assert took < 1.0, f"{took:.2f} s for a healthy request"
        world.settle_down()
        assert world.sim.record.open_connections <= at_once, world.sim.record.open_connections
    # One task may still be about to say that claims are held, and then find that none are.
    left = [task for task in asyncio.all_tasks() - before if "_beat" not in repr(task)]
    assert not left, left
    cancelled = ended[asyncio.CancelledError]
    assert cancelled > 0.08 * ended.total(), ended
    assert ended[Answer] > 0.3 * ended.total(), ended
    await asyncio.to_thread(world.sim.wait_until, lambda: world.sim.record.open_connections == 0)
    ledger, cache = world.state / "ledger.db", world.cache / "cache.db"
    sound(ledger)
    sound(cache)
    assert not sql(cache, "SELECT * FROM claims"), "claims leaked"
    billed, settled, doubtful = reconcile(ledger, world.sim.calls)
    return (
        f"T18 cancelled: {ended.total():,} calls, {at_once} at a time, {cancelled:,} "
        f"cancelled, then nine healthy ones in {took * 1000:.0f} ms; 0 slots, connections, holds "
        f"or claims leaked; billed {billed:,} = settled {settled:,} + {billed - settled:,} of "
        f"{doubtful:,} in doubt"
    )
