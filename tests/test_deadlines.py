"""Deadlines that share a timer: each call has its own all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from llmctl.deadlines import Deadline, Deadlines

_ROUNDING = 1e-6
"""Seconds: what adding to the loop's time and taking away from it may lose."""


def now() -> float:
    """The event loop's time."""
    return asyncio.get_running_loop().time()


async def hang(
    deadlines: Deadlines, seconds: float, begun: Callable[[Deadline], None] = lambda _: None
) -> float:
    """Wait for ever under a deadline; the time it was given up at. Raises `CancelledError` where
    that was somebody else's doing."""
    deadline = deadlines.begin(now() + seconds)
    begun(deadline)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        if not deadline.end(error):
            raise
    return now()


def run(body: Callable[[Deadlines], Coroutine[None, None, None]]) -> None:
    """Run `body`; fails rather than hangs."""

    async def bounded() -> None:
        await asyncio.wait_for(body(Deadlines()), 30)

    asyncio.run(bounded())


def test_each_is_given_up_at_its_own_time() -> None:
    """One that begins later may end before the others, and none is given up early."""

    async def body(deadlines: Deadlines) -> None:
        started, limits = now(), (900.0, 0.3, 0.05, 0.15)
        calls = [asyncio.ensure_future(hang(deadlines, limit)) for limit in limits]
        ended = [await call - started for call in calls[1:]]
        for took, limit in zip(ended, limits[1:], strict=True):
            assert took > limit - _ROUNDING
        assert not calls[0].done()
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]

    run(body)


def test_it_can_be_put_off() -> None:
    """A deadline that was put off before it came holds at the later time."""

    async def body(deadlines: Deadlines) -> None:
        def put_off(deadline: Deadline) -> None:
            deadline.when += 0.2

        started = now()
        assert await hang(deadlines, 0.05, put_off) - started > 0.25 - _ROUNDING

    run(body)


def test_what_has_ended_is_left_alone() -> None:
    """A task whose call ended in time is not cancelled by what became of the deadline, and one
    that begins after all others ended has a deadline again."""

    async def body(deadlines: Deadlines) -> None:
        deadline = deadlines.begin(now() + 0.02)
        assert not deadline.end(None)
        await hang(deadlines, 0.06)
        await hang(deadlines, 0.02)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    run(body)


def test_somebody_elses_cancellation_wins() -> None:
    """A task that was cancelled, and whose time was up before it could end, stays cancelled."""

    async def body(deadlines: Deadlines) -> None:
        begun: list[Deadline] = []
        call = asyncio.ensure_future(hang(deadlines, 20, begun.append))
        await asyncio.sleep(0)
        call.cancel()
        begun[0].expire()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    run(body)


def test_many_at_once() -> None:
    """A thousand calls that all hang are all given up."""

    async def body(deadlines: Deadlines) -> None:
        started = now()
        calls = [hang(deadlines, 0.05 + number / 10_000) for number in range(1000)]
        assert max(await asyncio.gather(*calls)) - started > 0.1499 - _ROUNDING

    run(body)


def test_only_a_task_has_one() -> None:
    """What runs outside of a task cannot be cancelled, so it cannot have a deadline."""

    async def body(deadlines: Deadlines) -> None:
        caught: list[Exception] = []

        def outside() -> None:
            try:
                deadlines.begin(now())
            except RuntimeError as error:
                caught.append(error)

        asyncio.get_running_loop().call_soon(outside)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert caught

    run(body)
