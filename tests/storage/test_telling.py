"""What a thread tells many tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

import pytest

from llmctl.storage.telling import FEW, tell


async def turns(number: int) -> None:
    """Let so many turns of the event loop pass."""
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_few_are_told_in_one_turn() -> None:
    """No turn of the event loop has more than `FEW` of them, all are told, and in order."""

    async def run() -> list[int]:
        told: list[int] = []
        sizes: list[int] = []
        tell(deque([partial(told.append, n) for n in range(3 * FEW + 1)]))
        while len(told) < 3 * FEW + 1:
            sizes.append(len(told))
            await asyncio.sleep(0)
        assert told == list(range(3 * FEW + 1))
        return sizes

    assert asyncio.run(run()) == [FEW, 2 * FEW, 3 * FEW]


def test_what_comes_later_does_not_wait_for_all() -> None:
    """A group that comes while a larger one is being told has its first ones told meanwhile."""

    async def run() -> None:
        many: list[int] = []
        few: list[int] = []
        tell(deque([partial(many.append, n) for n in range(10 * FEW)]))
        tell(deque([partial(few.append, n) for n in range(2)]))
        assert few == [0, 1]
        assert len(many) == FEW
        await turns(10)
        assert len(many) == 10 * FEW

    asyncio.run(run())


def test_one_that_raises_keeps_nobody_from_hearing() -> None:
    """The others are told, and the event loop hears of the error."""

    def broken() -> None:
        raise ValueError("no")

    async def run() -> list[str]:
        heard: list[str] = []
        told: list[int] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: heard.append(str(context["exception"])))
        with pytest.raises(ValueError, match="no"):
            tell(deque([broken, partial(told.append, 1), broken, partial(told.append, 2)]))
        await turns(5)
        assert told == [1, 2]
        return heard

    assert asyncio.run(run()) == ["no"]


def test_nothing_to_tell() -> None:
    """Then nothing is left for a later turn."""
    tell(deque())
