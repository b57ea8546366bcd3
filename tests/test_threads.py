"""Work in threads that can be abandoned."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from llmctl.threads import awaited


def test_the_result_of_work_that_is_awaited() -> None:
    """It is what the work returns, or raises."""
    assert asyncio.run(awaited(lambda: 5, "five")) == 5
    with pytest.raises(ZeroDivisionError):
        asyncio.run(awaited(lambda: 1 // 0, "zero"))


def test_the_end_does_not_wait_for_work_that_hangs() -> None:
    """Who gives up waiting ends at once, the event loop, too; what the work returns later is
    dropped."""
    release, ended = Event(), Event()

    async def give_up() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def hang() -> None:
            loop.call_soon_threadsafe(begun.set)
            release.wait(20)
            ended.set()

        waiting = asyncio.create_task(awaited(hang, "hang"))
        await begun.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(give_up())
    assert not ended.is_set()
    release.set()
    assert ended.wait(20)
