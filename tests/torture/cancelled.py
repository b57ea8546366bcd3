"""T18: calls cancelled in great numbers: `python -m tests.torture.cancelled [--full]`.

For a while 30% of 200 calls at a time are cancelled at random moments of their lives. Afterwards a
healthy request takes less than a second: no slot, connection, hold or claim has leaked, and the
ledger has every bill, settled or in doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Mapping
from random import Random

from llmctl.errors import CallError
from tests.simulator.errors import rate_limited
from tests.simulator.faults import Disconnect
from tests.simulator.scripts import mixture
from tests.torture.inside import Inside, inside
from tests.torture.judge import Arena, Size, arena, main, reconcile, sound

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
    ended: Counter[str] = Counter()
    asked: dict[str, str] = {}
    before = asyncio.all_tasks()
    async with inside(world) as home:
        world.sim.fault = _FAULTS
        end = time.monotonic() + seconds
        workers = [_work(home, f"{n} ", dice, end, ended, asked) for n in range(at_once)]
        await asyncio.gather(*workers)
        world.sim.fault = None
        started = time.monotonic()
        await asyncio.gather(*(home.handler(home.request(f"after {n}"), None) for n in range(9)))
        took = time.monotonic() - started
        assert took < 1.0, f"{took:.2f} s for a healthy request"
        world.settle_down()
        assert world.sim.record.open_connections <= at_once, world.sim.record.open_connections
    # One task may still be about to say that claims are held, and then find that none are.
    left = [task for task in asyncio.all_tasks() - before if "_beat" not in repr(task)]
    assert not left, left
    assert ended["cancelled"] > 0.08 * ended.total(), ended
    assert ended["answered"] > 0.3 * ended.total(), ended
    await asyncio.to_thread(world.sim.wait_until, lambda: world.sim.record.open_connections == 0)
    ledger, cache = world.state / "ledger.db", world.cache / "cache.db"
    sound(ledger)
    sound(cache)
    with contextlib.closing(sqlite3.connect(cache)) as database:
        (claims,) = database.execute("SELECT count(*) FROM claims").fetchone()
    assert claims == 0, f"{claims} claims leaked"
    billed, settled, doubtful = reconcile(ledger, world.sim.calls)
    unexplained(world, asked)
    return (
        f"T18 cancelled: {ended.total():,} calls, {at_once} at a time, {ended['cancelled']:,} "
        f"cancelled, then nine healthy ones in {took * 1000:.0f} ms; 0 slots, connections, holds "
        f"or claims leaked; billed {billed:,} = settled {settled:,} + {billed - settled:,} of "
        f"{doubtful:,} in doubt"
    )


def unexplained(world: Arena, asked: Mapping[str, str]) -> None:
    """Hold the bills of every question against what the ledger says of the calls that asked it:
    `asked` has the question of every call. AssertionError names one that does not agree."""
    bills = Counter(call.ask.last for call in world.sim.calls if call.billed and call.ask)
    with contextlib.closing(sqlite3.connect(world.state / "ledger.db")) as ledger:
        rows = ledger.execute(
            "SELECT call_id, uncertain + (status = 'ok' AND cache NOT IN ('hit', 'shared'))"
            " + (status IN ('unknown', 'cancelled') AND attempts > 0) FROM calls"
        ).fetchall()
    owned: Counter[str] = Counter()
    for call_id, count in rows:
        owned[asked.get(call_id, "")] += count
    wrong = {text: (count, owned[text]) for text, count in bills.items() if count > owned[text]}
    # The healthy calls at the end are not in `asked`.
    wrong = {text: counts for text, counts in wrong.items() if not text.startswith("after")}
    assert not wrong, f"billed, and settled or in doubt: {dict(list(wrong.items())[:5])}"


async def _work(
    home: Inside,
    name: str,
    dice: Random,
    end: float,
    ended: Counter[str],
    asked: dict[str, str],
) -> None:
    """One seat: call after call, half of them about what others ask, too."""
    number = 0
    while time.monotonic() < end:
        number += 1
        text = name + str(number) if dice.random() < 0.5 else f"shared {dice.randrange(1 << 20)}"
        if dice.random() < 0.3:
            text = f"at once {number}"
        request = home.request(text)
        asked[request.call_id] = text
        task = asyncio.ensure_future(home.handler(request, None))
        if dice.random() < SHARE:
            await asyncio.wait({task}, timeout=dice.random() ** 3 * 0.4)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            ended["cancelled"] += 1
        except CallError:
            ended["failed"] += 1
        else:
            ended["answered"] += 1


if __name__ == "__main__":
    sys.exit(main("cancelled", run))
