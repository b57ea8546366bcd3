"""A process of its own that uses a ledger: `python -m tests.storage.worker WHAT PATH NUMBER`.

`call`: hold and settle NUMBER calls in 25 tasks, then print the longest wait in seconds.
`hang`: hold NUMBER calls, say so, and wait to be killed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

from llmctl.clock import SystemClock, ulid
from llmctl.storage.ledger import Ledger, open_ledger
from tests.conformance.calls import a_hold, a_request, an_outcome


async def call(ledger: Ledger, number: int) -> float:
    """Hold and settle; the longest wait for either, in seconds."""
    clock = SystemClock()
    numbers = iter(range(number))
    longest = 0.0

    async def task() -> None:
        nonlocal longest
        for _ in numbers:
            request = a_request(ulid(clock))
            for step in (
                partial(ledger.hold, a_hold(request)),
                partial(ledger.settle, an_outcome(request)),
            ):
                start = time.perf_counter()
                await step()
                longest = max(longest, time.perf_counter() - start)

    await asyncio.gather(*(task() for _ in range(25)))
    return longest


async def hang(ledger: Ledger, number: int) -> None:
    """Hold, say so on stdout, and wait to be killed; one further call is settled before."""
    done = a_request()
    await ledger.hold(a_hold(done))
    await ledger.settle(an_outcome(done))
    await asyncio.gather(*(ledger.hold(a_hold(a_request())) for _ in range(number)))
    print("held", flush=True)
    await asyncio.sleep(600)


def main() -> None:
    """Run what the command line says."""
    what, path, number = sys.argv[1:]
    ledger = open_ledger(Path(path), f"run-{what}", "me")
    if what == "call":
        print(asyncio.run(call(ledger, int(number))))
    else:
        asyncio.run(hang(ledger, int(number)))
    ledger.close()


if __name__ == "__main__":
    main()
