"""A process that spends quotas: `python -m tests.storage.quota_worker PATH TASKS MOST`.

Each of TASKS tasks asks for a request and 7 of MOST tokens; how many got them goes to stdout.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path

from llmctl.clock import SystemClock
from llmctl.protocols import Quota
from llmctl.storage.rate_limits import RateLimitStore


async def main(store: RateLimitStore, tasks: int, most: int) -> None:
    """Ask all at once, and say how many got through."""
    wanted = [Quota("requests", 1, 1, tasks), Quota("tokens", 1, 7, most)]
    refused = await asyncio.gather(*(store.spend(wanted) for _ in range(tasks)))
    print(refused.count(None))


if __name__ == "__main__":
    with closing(RateLimitStore(Path(sys.argv[1]), SystemClock())) as limits:
        asyncio.run(main(limits, int(sys.argv[2]), int(sys.argv[3])))
