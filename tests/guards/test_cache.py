"""Kept answers and shared flights."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.errors import DiskError, ServerFailed
from llmctl.guards.cache import Cache
from llmctl.protocols import CachedAnswer
from llmctl.stores.memory import MemoryCache
from llmctl.types import Request, Response
from tests.support import FakeClock, Scripted, request, response


def make(inner: Scripted, clock: FakeClock, ttl: float | None = None) -> Cache:
    """A cache guard with a store of its own."""
    return Cache(inner, MemoryCache(), clock, pytest.fail, ttl)


def test_the_second_time_is_a_hit_that_replays() -> None:
    """A kept answer is given without a call, and its text goes to `emit`."""
    clock, inner, shown = FakeClock(), Scripted(response("hi")), list[str]()

    async def run() -> tuple[Response, Response]:
        cache = make(inner, clock)
        return await cache(request(), None), await cache(request(), shown.append)

    first, second = clock.run(run())
    assert (first.cache, second.cache) == ("miss", "hit")
    assert (second.text, shown) == ("hi", ["hi"])
    assert len(inner.calls) == 1


def test_identical_requests_in_flight_become_one() -> None:
    """Ten identical requests at once make one call; nine answers say `shared`."""
    clock, calls = FakeClock(), 0

    async def slow(_: Request, __: object) -> Response:
        nonlocal calls
        calls += 1
        await clock.sleep(1)
        return response()

    async def run() -> list[Response]:
        cache = Cache(slow, MemoryCache(), clock, pytest.fail)
        return await asyncio.gather(*(cache(request(), None) for _ in range(10)))

    answers = clock.run(run())
    assert calls == 1
    assert sorted(a.cache for a in answers) == ["miss"] + ["shared"] * 9


def test_a_shared_failure_is_everyones() -> None:
    """When the one call fails, every request that waited for it fails alike, and none hangs."""
    clock, calls = FakeClock(), 0

    async def failing(_: Request, __: object) -> Response:
        nonlocal calls
        calls += 1
        await clock.sleep(1)
        raise ServerFailed("x")

    async def run() -> list[object]:
        cache = Cache(failing, MemoryCache(), clock, pytest.fail)
        return await asyncio.gather(
            *(cache(request(), None) for _ in range(3)), return_exceptions=True
        )

    assert all(isinstance(r, ServerFailed) for r in clock.run(run()))
    assert calls == 1


def test_a_cancelled_leader_does_not_take_the_others_along() -> None:
    """When the request that went first is cancelled, one that waited goes in its place."""
    clock = FakeClock()
    started = 0

    class Slow:
        async def __call__(self, _: Request, __: object) -> Response:
            nonlocal started
            started += 1
            await clock.sleep(5)
            return response()

    async def run() -> Response:
        cache = Cache(Slow(), MemoryCache(), clock, pytest.fail)
        leader = asyncio.ensure_future(cache(request(), None))
        await asyncio.sleep(0)
        follower = asyncio.ensure_future(cache(request(), None))
        await asyncio.sleep(0)
        leader.cancel()
        return await follower

    assert clock.run(run()).cache == "miss"
    assert started == 2


@pytest.mark.parametrize("finish", ["length", "content_filter", "other"])
def test_incomplete_answers_are_not_kept(finish: str) -> None:
    """Truncated and filtered answers are asked for anew."""
    clock, inner = FakeClock(), Scripted(response(finish=finish))

    async def run() -> None:
        cache = make(inner, clock)
        await cache(request(), None)
        await cache(request(), None)

    clock.run(run())
    assert len(inner.calls) == 2


def test_bypass_and_refresh() -> None:
    """`bypass` neither reads nor writes; `refresh` calls and overwrites."""
    clock = FakeClock()
    inner = Scripted(response("1"), response("2"), response("3"))

    async def run() -> list[str]:
        cache = make(inner, clock)
        turns = ("bypass", "use", "refresh", "use")
        return [(await cache(request(cache_mode=mode), None)).text for mode in turns]

    assert clock.run(run()) == ["1", "2", "3", "3"]


def test_an_old_answer_is_asked_for_again() -> None:
    """Beyond its time to live an answer counts no more."""
    clock, inner = FakeClock(), Scripted(response())

    async def run() -> None:
        cache = make(inner, clock, ttl=60)
        await cache(request(), None)
        await clock.sleep(61)
        await cache(request(), None)

    clock.run(run())
    assert len(inner.calls) == 2


def test_a_failing_store_loses_no_answer() -> None:
    """When the cache cannot be written the answers still arrive, and the user is told once."""
    clock, told = FakeClock(), list[str]()

    class Full(MemoryCache):
        async def put(self, key: str, answer: CachedAnswer) -> None:
            raise DiskError(f"no room for {key}: {answer.text}")

    async def run() -> list[Response]:
        cache = Cache(Scripted(response()), Full(), clock, told.append)
        return [await cache(request(str(n)), None) for n in range(3)]

    assert [r.cache for r in clock.run(run())] == ["miss"] * 3
    assert len(told) == 1
