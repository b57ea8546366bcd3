"""What a thread tells many tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from llmctl.behind import Write

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


def end(
    waited: Future[Any] | asyncio.Future[Any] | Write[Any],
    value: Any = None,
    error: BaseException | None = None,
) -> None:
    """Let who waits for it have the value or the error, unless it has gone away."""
    if waited.done():  # cancelled meanwhile
        return
    if error is None:
        waited.set_result(value)
    else:
        waited.set_exception(error)
