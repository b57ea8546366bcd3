"""Kept answers and shared flights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmctl.behind import Behind, Write
from llmctl.errors import DiskError, ServerFailed
from llmctl.guards.cache import Cache
from llmctl.protocols import CachedAnswer
from llmctl.storage.memory import MemoryCache
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response


def make(inner: Scripted, clock: FakeClock, ttl: float | None = None) -> Cache:
    """A cache guard with a store of its own."""
    return Cache(inner, MemoryCache(), clock, pytest.fail, Behind(), ttl)


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
        cache = Cache(slow, MemoryCache(), clock, pytest.fail, Behind())
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
        cache = Cache(failing, MemoryCache(), clock, pytest.fail, Behind())
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
        cache = Cache(Slow(), MemoryCache(), clock, pytest.fail, Behind())
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
        def put(self, key: str, answer: CachedAnswer) -> Write[None]:
            refused = Write[None]()
            refused.set_exception(DiskError(f"no room for {key}: {answer.text}"))
            return refused

    async def run() -> list[Answer]:
        behind = Behind()
        cache = Cache(Scripted(response()), Full(), clock, told.append, behind)
        answers = await asyncio.gather(*(cache(request(str(n)), None) for n in range(3)))
        await behind.done()
        return [*answers, await cache(request("2"), None)]

    assert [r.cache for r in clock.run(run())] == ["miss"] * 4
    assert len(told) == 1


class Late(MemoryCache):
    """A store that has an answer only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[str, CachedAnswer, Write[None]]] = []

    def put(self, key: str, answer: CachedAnswer) -> Write[None]:
        """Begin."""
        kept = Write[None]()
        self.begun.append((key, answer, kept))
        return kept

    def keep(self) -> None:
        """All that was begun is there."""
        for key, answer, kept in self.begun:
            super().put(key, answer)
            kept.set_result(None)
        self.begun.clear()


def test_an_answer_on_its_way_into_the_store_is_an_answer() -> None:
    """A call does not wait until its answer is kept; who asks the same before that gets it
    without another call, and who refreshes makes one, which is the one that stays."""
    clock, store, behind = FakeClock(), Late(), Behind()
    inner = Scripted(response("1"), response("2"))

    async def run() -> list[tuple[str, str]]:
        cache = Cache(inner, store, clock, pytest.fail, behind)
        turns = ("use", "use", "refresh", "use")
        before = [await cache(request(cache_mode=mode), None) for mode in turns]
        store.keep()
        await behind.done()
        return [(r.cache, r.text) for r in (*before, await cache(request(), None))]

    answers = clock.run(run())
    assert answers == [("miss", "1"), ("hit", "1"), ("miss", "2"), ("hit", "2"), ("hit", "2")]
    assert len(inner.calls) == 2


def shared_store(*, fails: bool = False) -> tuple[MemoryCache, MemoryCache]:
    """Two processes' views of one store: what the first has claimed the second may not have."""
    answers = MemoryCache()
    owners: dict[str, int] = {}

    class View(MemoryCache):
        def __init__(self, me: int) -> None:
            super().__init__()
            self._me = me

        def get(self, key: str) -> CachedAnswer | None:
            return answers.get(key)

        def put(self, key: str, answer: CachedAnswer) -> Write[None]:
            self.release(key)
            return answers.put(key, answer)

        async def claim(self, key: str) -> bool:
            if fails:
                raise DiskError("the disk is full")
            return owners.setdefault(key, self._me) == self._me

        async def claim_all(self, keys: Sequence[str]) -> set[str]:
            return {key for key in keys if await self.claim(key)}

        def release(self, key: str) -> None:
            if owners.get(key) == self._me:
                del owners[key]

    return View(1), View(2)


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
        stores = shared_store()
        one, other = (
            Cache(inner, store, clock, pytest.fail, Behind(), None, patience)
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
    """In a minute of waiting the store is asked some five times a second, not more."""
    clock, asked = FakeClock(), 0
    _, view = shared_store()

    async def run() -> None:
        nonlocal asked

        async def refused(key: str) -> bool:  # noqa: ARG001 - the seam's own name
            nonlocal asked
            asked += 1
            return False

        view.claim = refused  # type: ignore[method-assign]
        await Cache(Scripted(response()), view, clock, pytest.fail, Behind(), None, 60)(
            request(), None
        )

    clock.run(run())
    assert 250 < asked < 330


def test_claims_that_fail_stop_no_call() -> None:
    """When the store takes no claims the answers still arrive, and the user is told once."""
    clock, told = FakeClock(), list[str]()
    store, _ = shared_store(fails=True)

    async def run() -> list[Answer]:
        cache = Cache(Scripted(response()), store, clock, told.append, Behind())
        return [await cache(request(str(n)), None) for n in range(3)]

    assert [r.cache for r in clock.run(run())] == ["miss"] * 3
    assert len(told) == 1


def test_a_cancelled_call_gives_its_claim_back() -> None:
    """Whether it waited for the claim or had it: the next process may go."""
    clock = FakeClock()
    first, second = shared_store()

    async def run() -> bool:
        cache = Cache(Taking(clock, 5), first, clock, pytest.fail, Behind())
        call = asyncio.ensure_future(cache(request(), None))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not await second.claim(request().fingerprint)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return await second.claim(request().fingerprint)

    assert clock.run(run())


def test_signs_of_life_while_a_call_takes_long() -> None:
    """As long as an answer is awaited the store hears of it every ten seconds, and then not."""
    clock, beats = FakeClock(), list[float]()
    store = MemoryCache()
    store.beat = lambda: beats.append(clock.now - 1000.0)  # type: ignore[method-assign]

    async def run() -> None:
        cache = Cache(Taking(clock, 35), store, clock, pytest.fail, Behind())
        await cache(request(), None)
        await clock.sleep(100)

    clock.run(run())
    assert beats == [10, 20, 30]


def test_many_kept_answers_at_once() -> None:
    """`kept` gives what asking one by one would: hits in their places, nothing for what is
    refreshed, bypassed, too old or unknown."""
    clock = FakeClock()

    async def run() -> list[Answer | None]:
        cache = make(Scripted(response("hi")), clock, ttl=60)
        await cache(request("old"), None)
        await clock.sleep(61)
        await cache(request("new"), None)
        return cache.kept(
            [
                request("new"),
                request("old"),
                request("unknown"),
                request("new", cache_mode="refresh"),
                request("new", cache_mode="bypass"),
                request("new", id="b"),
            ]
        )

    found = clock.run(run())
    assert [r.cache if r else None for r in found] == ["hit", None, None, None, None, "hit"]


def test_what_a_provider_is_asked_is_known_before() -> None:
    """Of what is claimed: each question once, and not what is on its way, or what another
    process has claimed or already has an answer to."""
    clock = FakeClock()
    first, second = shared_store()

    async def run() -> list[str]:
        await second.claim(request("theirs").fingerprint)
        cache = Cache(Taking(clock, 5), first, clock, pytest.fail, Behind())
        call = asyncio.ensure_future(cache(request("on its way"), None))
        await clock.sleep(1)
        asked = [
            request("ours", id="a"),
            request("theirs", id="b"),
            request("on its way", id="c"),
            request("ours", id="d"),
            request("again", cache_mode="refresh", id="e"),
            request("past", cache_mode="bypass", id="f"),
        ]
        await cache.claim(asked)
        found = [one.id for one in cache.to_ask(asked)]
        cache.give_back()
        await call
        return found

    assert clock.run(run()) == ["a", "e", "f"]
