"""Kept answers and shared flights."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.errors import ServerFailed
from llmctl.guards.cache import Cache, kept_answers
from llmctl.protocols import CachedAnswer
from llmctl.types import Answer, Request
from tests.guards.fakes import FakeCache
from tests.support import FakeClock, Scripted, request, response


def make(inner: Scripted, clock: FakeClock, ttl: float | None = None) -> Cache:
    """A cache guard with a store of its own."""
    return Cache(inner, FakeCache(), clock, pytest.fail, ttl)


def test_the_second_time_is_a_hit_that_replays() -> None:
    """A kept answer is given without a call, and its text goes to `emit`."""
    clock, inner, shown = FakeClock(), Scripted(response("hi")), list[str]()

    async def run() -> tuple[Answer, Answer]:
        cache = make(inner, clock)
        return await cache(request(), None), await cache(request(), shown.append)

    first, second = clock.run(run())
    assert (first.cache, second.cache) == ("miss", "hit")
    assert (second.text, shown) == ("hi", ["hi"])
    assert len(inner.calls) == 1


def test_identical_requests_in_flight_become_one() -> None:
    """Ten identical requests at once make one call; nine answers say `shared`."""
    clock, calls = FakeClock(), 0

    async def slow(_: Request, __: object) -> Answer:
        nonlocal calls
        calls += 1
        await clock.sleep(1)
        return response()

    async def run() -> list[Answer]:
        cache = Cache(slow, FakeCache(), clock, pytest.fail)
        return await asyncio.gather(*(cache(request(), None) for _ in range(10)))

    answers = clock.run(run())
    assert calls == 1
    assert sorted(a.cache for a in answers) == ["miss"] + ["shared"] * 9


def test_a_shared_failure_is_everyones() -> None:
    """When the one call fails, every request that waited for it fails alike, and none hangs."""
    clock, calls = FakeClock(), 0

    async def failing(_: Request, __: object) -> Answer:
        nonlocal calls
        calls += 1
        await clock.sleep(1)
        raise ServerFailed("x")

    async def run() -> list[object]:
        cache = Cache(failing, FakeCache(), clock, pytest.fail)
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
        async def __call__(self, _: Request, __: object) -> Answer:
            nonlocal started
            started += 1
            await clock.sleep(5)
            return response()

    async def run() -> Answer:
        cache = Cache(Slow(), FakeCache(), clock, pytest.fail)
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
    clock, told, store = FakeClock(), list[str](), FakeCache()
    store.broken = True

    async def run() -> list[Answer]:
        cache = Cache(Scripted(response()), store, clock, told.append)
        answers = await asyncio.gather(*(cache(request(str(n)), None) for n in range(3)))
        await cache.close()
        return [*answers, await cache(request("2"), None)]

    assert [r.cache for r in clock.run(run())] == ["miss"] * 4
    assert len(told) == 1


class Late(FakeCache):
    """A store that has an answer only once the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Event()

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Wait, and keep it."""
        await self.room.wait()
        await super().put(key, answer)


def test_an_answer_on_its_way_into_the_store_is_an_answer() -> None:
    """A call does not wait until its answer is kept; an identical one before that gets it
    without another call, and a refreshing one makes one, which is the one that stays."""
    clock, inner = FakeClock(), Scripted(response("1"), response("2"))

    async def run() -> list[tuple[str, str]]:
        store = Late()
        cache = Cache(inner, store, clock, pytest.fail)
        turns = ("use", "use", "refresh", "use")
        before = [await cache(request(cache_mode=mode), None) for mode in turns]
        store.room.set()
        await cache.close()
        return [(r.cache, r.text) for r in (*before, await cache(request(), None))]

    answers = clock.run(run())
    assert answers == [("miss", "1"), ("hit", "1"), ("miss", "2"), ("hit", "2"), ("hit", "2")]
    assert len(inner.calls) == 2


def test_an_answer_that_was_paid_for_waits_for_no_cache() -> None:
    """A call whose run is given up right after its answer came still has the answer."""

    async def run() -> str:
        cache = Cache(Scripted(response("paid")), Late(), FakeClock(), pytest.fail)
        return (await asyncio.wait_for(cache(request(), None), 1)).text

    assert asyncio.run(run()) == "paid"


class Taking:
    """A handler that takes `seconds`, and then gives its result."""

    def __init__(
        self, clock: FakeClock, seconds: float, result: Answer | BaseException | None = None
    ) -> None:
        self._clock, self._seconds, self._result = clock, seconds, result or response()
        self.calls = 0

    async def __call__(self, _: Request, __: object) -> Answer:
        """Take the time."""
        self.calls += 1
        await self._clock.sleep(self._seconds)
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def across(
    clock: FakeClock, first: Taking, second: Taking, patience: float = 600.0
) -> tuple[tuple[Answer | BaseException, Answer | BaseException], list[str]]:
    """What two processes get that ask the same at the same time, and what the second streams."""
    shown: list[str] = []

    async def run() -> tuple[Answer | BaseException, Answer | BaseException]:
        store = FakeCache()
        stores = store, FakeCache(store)
        one, other = (
            Cache(inner, store, clock, pytest.fail, None, patience)
            for inner, store in zip((first, second), stores, strict=True)
        )
        leader = asyncio.ensure_future(one(request(), None))
        await asyncio.sleep(0)
        return await asyncio.gather(leader, other(request(), shown.append), return_exceptions=True)

    return clock.run(run()), shown


def test_two_processes_pay_once() -> None:
    """The second waits for the first's answer, streams it, and calls it shared."""
    clock = FakeClock()
    second = Taking(clock, 1)
    (one, other), shown = across(clock, Taking(clock, 30), second)
    assert isinstance(one, Answer)
    assert isinstance(other, Answer)
    assert (one.cache, other.cache, other.attempts) == ("miss", "shared", 0)
    assert shown == [other.text]
    assert second.calls == 0
    assert clock.monotonic() - 1000.0 < 30.3


def test_the_second_goes_itself_when_the_first_fails() -> None:
    """A failure, or an answer that is not kept, is not waited for twice."""
    for result in (ServerFailed("x"), response(finish="length")):
        clock = FakeClock()
        second = Taking(clock, 1)
        (_, other), _ = across(clock, Taking(clock, 5, result), second)
        assert isinstance(other, Answer)
        assert (other.cache, second.calls) == ("miss", 1)


def test_waiting_for_another_process_ends() -> None:
    """Beyond its patience a process asks itself, however alive the other one is."""
    clock = FakeClock()
    second = Taking(clock, 1)
    (_, other), _ = across(clock, Taking(clock, 900), second, patience=60)
    assert isinstance(other, Answer)
    assert second.calls == 1


def test_waiting_is_no_storm() -> None:
    """In a minute of waiting the store is asked some four times a second, not more."""
    clock, store = FakeClock(), FakeCache()
    store.owners[request().fingerprint] = "another process"
    clock.run(Cache(Scripted(response()), store, clock, pytest.fail, None, 60)(request(), None))
    assert 200 < store.claims < 330


def test_a_cancelled_call_gives_its_claim_back() -> None:
    """The next process may go."""
    clock, first = FakeClock(), FakeCache()
    second = FakeCache(first)

    async def run() -> bool:
        cache = Cache(Taking(clock, 5), first, clock, pytest.fail)
        call = asyncio.ensure_future(cache(request(), None))
        await clock.sleep(1)
        assert not await second.claim(request().fingerprint)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await cache.close()
        return await second.claim(request().fingerprint)

    assert clock.run(run())


def test_signs_of_life_while_a_call_takes_long() -> None:
    """As long as an answer is awaited the store hears of it every ten seconds, and then not."""
    clock, store = FakeClock(), FakeCache()

    async def run() -> None:
        cache = Cache(Taking(clock, 35), store, clock, pytest.fail)
        await cache(request(), None)
        await clock.sleep(100)

    clock.run(run())
    assert store.beats == 3


def test_a_page_of_kept_answers() -> None:
    """What asking one by one would give: hits in their places, nothing for what is refreshed,
    bypassed, too old or unknown."""
    clock, store = FakeClock(), FakeCache()

    async def run() -> list[Answer | None]:
        cache = Cache(Scripted(response("hi")), store, clock, pytest.fail)
        await cache(request("old"), None)
        await clock.sleep(61)
        await cache(request("new"), None)
        await cache.close()
        page = [
            request("new"),
            request("old"),
            request("unknown"),
            request("new", cache_mode="refresh"),
            request("new", cache_mode="bypass"),
            request("new", id="b"),
        ]
        return await kept_answers(store, page, clock.wall(), 60)

    found = clock.run(run())
    assert [r.cache if r else None for r in found] == ["hit", None, None, None, None, "hit"]


def test_a_page_from_a_failing_store_is_asked() -> None:
    """A cache that cannot be read ends no run: the rows go to the provider."""
    store = FakeCache()
    store.broken = True
    assert asyncio.run(kept_answers(store, [request()], 0.0, None)) == [None]
