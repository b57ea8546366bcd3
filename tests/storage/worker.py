"""A process that holds calls: `python -m tests.storage.worker PATH NUMBER`.

It settles one call, holds NUMBER others, says so, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llmctl.storage.ledger import Ledger, open_ledger
from tests.conformance.calls import a_hold, a_request, an_outcome


async def main(ledger: Ledger, number: int) -> None:
    """Hold, say so on stdout, and wait."""
    done = a_request()
    await ledger.hold(a_hold(done))
    await ledger.settle(an_outcome(done))
    await asyncio.gather(*(ledger.hold(a_hold(a_request())) for _ in range(number)))
    print("held", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(open_ledger(Path(sys.argv[1]), "run-hang", "me"), int(sys.argv[2])))
