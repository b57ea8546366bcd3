"""Writes that nobody waits for one by one."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.behind import Behind, Write
from llmctl.errors import DiskError


def must(error: BaseException | None) -> None:
    """Nobody can deal with an error."""
    if error is not None:
        raise error


def test_a_run_waits_for_all_writes() -> None:
    """`done` returns when the last write has ended, those that were begun meanwhile too."""

    async def run() -> list[str]:
        behind, ended = Behind(), list[str]()
        writes = [Write[None]() for _ in range(3)]
        for n, write in enumerate(writes[:2]):
            behind.add(write, lambda _, n=n: ended.append(str(n)))  # type: ignore[misc]
        waiting = asyncio.ensure_future(behind.done())
        writes[0].set_result(None)
        await asyncio.sleep(0)
        behind.add(writes[2], lambda _: ended.append("2"))
        writes[1].set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        writes[2].set_result(None)
        await waiting
        return ended

    assert asyncio.run(run()) == ["0", "1", "2"]


def test_without_writes_there_is_nothing_to_wait_for() -> None:
    """A run that left nothing to be written ends at once."""
    asyncio.run(asyncio.wait_for(Behind().done(), 5))


def test_who_waits_for_all_is_in_a_hurry() -> None:
    """All those where writes may lie are told when somebody waits for what is under way."""

    async def run() -> list[str]:
        told, write = list[str](), Write[None]()
        behind = Behind(lambda: told.append("ledger"), lambda: write.set_result(None))
        await behind.done()
        assert not told, "nothing is under way"
        behind.add(write, must)
        assert not told, "nobody waits"
        await asyncio.wait_for(behind.done(), 5)
        return told

    assert asyncio.run(run()) == ["ledger"]


def test_a_failure_is_heard_by_whoever_looks_next() -> None:
    """An error that nobody dealt with comes out of `check` and of `done`; the first one counts,
    and one that was dealt with is nobody's."""

    async def run() -> None:
        behind, dealt = Behind(), list[BaseException | None]()
        writes = [Write[None]() for _ in range(3)]
        behind.add(writes[0], dealt.append)
        behind.add(writes[1], must)
        behind.add(writes[2], must)
        behind.check()
        for n, write in enumerate(writes):
            write.set_exception(DiskError(f"disk {n}"))
        with pytest.raises(DiskError, match="disk 1"):
            await behind.done()
        with pytest.raises(DiskError, match="disk 1"):
            behind.check()
        assert [str(error) for error in dealt] == ["disk 0"]

    asyncio.run(run())


def test_a_write_can_be_waited_for() -> None:
    """By many, before it has ended and after; what it came to, or what kept it from that."""

    async def run() -> list[object]:
        made, failed = Write[int](), Write[int]()
        waiting = [asyncio.ensure_future(wait(write)) for write in (made, made, failed)]
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert not made.done()
        made.set_result(7)
        failed.set_exception(DiskError("full"))
        waiting.append(asyncio.ensure_future(wait(made)))
        return [
            str(found) if isinstance(found, DiskError) else found
            for found in await asyncio.gather(*waiting[1:], return_exceptions=True)
        ]

    assert asyncio.run(run()) == [7, "full", 7]


async def wait(write: Write[int]) -> int:
    """Wait for it."""
    return await write


def test_all_hear_how_a_write_ended_in_their_order() -> None:
    """At once, and whatever one of them makes of it."""
    heard: list[str] = []

    def fail(_: BaseException | None) -> None:
        heard.append("b")
        raise RuntimeError

    write: Write[None] = Write()
    write.then(lambda _: heard.append("a"))
    write.then(fail)
    write.then(lambda error: heard.append(f"c {error}"))
    with pytest.raises(RuntimeError):
        write.end(DiskError("full"))
    write.then(lambda error: heard.append(f"d {error}"))
    assert heard == ["a", "b", "c full", "d full"]
