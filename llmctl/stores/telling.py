"""What a thread tells many tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

FEW = 20
"""Calls in one turn of the event loop: each wakes a task, which goes on for a tenth of a
millisecond or more, and what has come from the network meanwhile is only looked at after them."""


def tell(calls: deque[Callable[[], None]]) -> None:
    """Make the calls in the running event loop, `FEW` now and the others in its next turns, in
    their order. What one of them raises does not keep the others from being made."""
    try:
        for _ in range(min(FEW, len(calls))):
            calls.popleft()()
    finally:
        if calls:
            asyncio.get_running_loop().call_soon(tell, calls)
