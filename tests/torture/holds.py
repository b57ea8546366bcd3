"""T10: four processes hold and settle on one ledger.

Each makes its calls under one budget that has room for five eighths of all. Exactly so many are
granted, and nobody waits long for the ledger.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from llmctl.clock import SystemClock
from llmctl.protocols import BudgetWindow
from llmctl.request import ulid
from llmctl.storage.ledger import Ledger, open_ledger
from tests.conformance.calls import a_cap, a_hold, a_request, an_outcome
from tests.torture.judge import Size, sound

_Found = TypeVar("_Found")

PROCESSES = 4
TASKS = 25
COST = Decimal("0.0123")
PATIENCE = 0.5
"""Seconds: the longest that a hold or its settling may take."""


def run(size: Size) -> str:
    """4 x 1,000 calls; one line."""
    each = size.of(250, 1_000)
    room = PROCESSES * each * 5 // 8
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmctl-torture-") as folder:
        path = Path(folder) / "ledger.db"
        open_ledger(path, "", "").close()
        command = [sys.executable, "-m", "tests.torture.holds", str(path), str(each), str(room)]
        children = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
        ]
        found = [json.loads(child.communicate(timeout=300)[0]) for child in children]
        took = time.monotonic() - started
        sound(path)
        with closing(open_ledger(path, "", "")) as ledger:
            rows, usage = list(ledger.calls()), asyncio.run(ledger.usage(_cap(room)))
            assert not ledger.open_holds()
    granted = sum(one["granted"] for one in found)
    assert granted == room == len(rows), (granted, room, len(rows))
    assert len({row.call_id for row in rows}) == room

    assert (usage.spent, usage.held) == (room * COST, Decimal(0))
    longest = max(one["longest"] for one in found)
    assert longest < PATIENCE, f"a wait of {longest:.3f} s"
    return (
        f"T10 holds: {PROCESSES} processes x {each:,} hold/settle in {took:.1f} s, {granted:,} of "
        f"{room:,} granted under one budget, longest wait {longest:.3f} s"
    )


def _cap(room: int) -> BudgetWindow:
    return a_cap(str(room * COST))


async def _work(ledger: Ledger, each: int, room: int) -> dict[str, float]:
    """So many calls in 25 tasks: how many were granted, and the longest wait for the ledger."""
    clock, cap, numbers = SystemClock(), _cap(room), iter(range(each))
    granted, waits = 0, [0.0]

    async def timed(answer: Awaitable[_Found]) -> _Found:
        start = time.perf_counter()
        found = await answer
        waits.append(time.perf_counter() - start)
        return found

    async def task() -> None:
        nonlocal granted
        for _ in numbers:
            request = a_request(ulid(clock))
            while refused := await timed(ledger.hold(a_hold(request, COST), [cap])):
                if refused.never:
                    break
                await asyncio.sleep(0.01)
            else:
                await timed(ledger.settle(an_outcome(request, cost=COST)))
                granted += 1

    await asyncio.gather(*(task() for _ in range(TASKS)))
    return {"granted": granted, "longest": max(waits)}


if __name__ == "__main__":
    _path, _each, _room = sys.argv[1:]
    with closing(open_ledger(Path(_path), "run", "me")) as _ledger:
        print(json.dumps(asyncio.run(_work(_ledger, int(_each), int(_room)))))
