"""Kept answers and shared flights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest
from msgspec.structs import replace

from llmctl.errors import DataRefused, ServerFailed
from llmctl.guards.cache import Cache, answer_of, kept_answers
from llmctl.protocols import CachedAnswer, Handler
from llmctl.types import Answer, RawRequest, Request, Usage
from tests.guards.fakes import FakeCache
from tests.support import FakeClock, Scripted, request, response

T = TypeVar("T")


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


def cached(
    inner: Handler,
    do: Callable[[Cache], Awaitable[T]],
    clock: FakeClock | None = None,
    store: FakeCache | None = None,
    ttl: float | None = None,
) -> T:
    """What comes of doing this with a cache guard."""
    clock = clock or FakeClock()

    async def run() -> T:
        return await do(Cache(inner, store or FakeCache(), clock, pytest.fail, ttl))

    return clock.run(run())


@pytest.mark.parametrize("looked_up", [False, True])
def test_the_second_time_is_a_hit_that_replays(*, looked_up: bool) -> None:
    """A kept answer is given without a call, and its text goes to `emit`; after a page was looked
    up, too."""
    inner, shown, store = Scripted(response("hi")), list[str](), FakeCache()

    async def twice(cache: Cache) -> tuple[Answer, Answer]:
        cache._looked_up = looked_up
        first = await cache(request(), None)
        await cache.close()
        second = await cache(request(), lambda piece: shown.append(piece.text))
        await cache.close()
        return first, second

    first, second = cached(inner, twice, store=store)
    assert not store.owners
    assert (first.cache, second.cache, second.text, shown) == ("miss", "hit", "hi", ["hi"])
    assert len(inner.calls) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_identical_requests_in_flight_become_one(*, fails: bool) -> None:
    """Ten identical requests at once make one call; nine answers say `shared`. When that call
    fails, all fail alike, and none hangs."""
    clock = FakeClock()
    slow = Taking(clock, 1, ServerFailed("x") if fails else None)

    async def ten(cache: Cache) -> list[Answer | BaseException]:
        calls = (cache(request(), None) for _ in range(10))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = cached(slow, ten, clock)
    states = sorted(r.cache if isinstance(r, Answer) else type(r).__name__ for r in found)
    assert states == (["ServerFailed"] * 10 if fails else ["miss"] + ["shared"] * 9)
    assert slow.calls == 1


def test_where_one_may_not_be_sent_the_other_may() -> None:
    """An identical request whose data may go there does not share the refusal of one whose may
    not: it goes itself."""
    clock = FakeClock()

    async def place(asked: Request, _: object) -> Answer:
        await clock.sleep(1)
        if "data.class" in asked.tags:
            raise DataRefused("not sent: no")
        return response()

    async def both(cache: Cache) -> Sequence[Answer | BaseException]:
        refused, free = request(tags={"data.class": "phi"}), request()
        return await asyncio.gather(cache(refused, None), cache(free, None), return_exceptions=True)

    first, second = cached(place, both, clock)
    assert isinstance(first, DataRefused)
    assert isinstance(second, Answer)


def test_a_cancelled_leader_does_not_take_the_others_along() -> None:
    """When the request that went first is cancelled, one that waited goes in its place."""
    clock = FakeClock()
    slow = Taking(clock, 5)

    async def run(cache: Cache) -> Answer:
        leader = asyncio.ensure_future(cache(request(), None))
        await asyncio.sleep(0)
        follower = asyncio.ensure_future(cache(request(), None))
        await asyncio.sleep(0)
        leader.cancel()
        return await follower

    assert cached(slow, run, clock).cache == "miss"
    assert slow.calls == 2


@pytest.mark.parametrize(
    "first",
    [*(response(finish=how) for how in ("length", "content_filter", "other")), ServerFailed("x")],
)
def test_only_complete_answers_are_kept(first: Answer | ServerFailed) -> None:
    """Truncated and filtered answers, and failures, never reach the store: they are asked for
    anew."""
    inner, store = Scripted(first, response()), FakeCache()

    async def twice(cache: Cache) -> str:
        await asyncio.gather(cache(request(), None), return_exceptions=True)
        await cache.close()
        assert not store.answers
        return (await cache(request(), None)).cache

    assert cached(inner, twice, store=store) == "miss"
    assert len(inner.calls) == 2


def test_what_was_kept_and_is_no_answer_is_asked_for_again() -> None:
    """Cases 2 and 7: an empty answer, and a tool call without its call, may have been kept by an
    earlier version; an embedding has no text and is an answer."""
    kept = CachedAnswer(" ", "stop", "m", Usage(), None, b"{}", 0.0)
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert answer_of(request(), kept, 1.0, None) is None
    assert answer_of(request(), replace(kept, finish="tool_calls"), 1.0, None) is None
    for whole in (replace(kept, tool_calls=(call,)), replace(kept, beyond_text=True)):
        assert answer_of(request(), whole, 1.0, None) is not None
    raw = request(raw=RawRequest("/embeddings", {"input": "x"}))
    assert answer_of(raw, kept, 1.0, None) is not None


def test_a_failing_store_loses_no_answer() -> None:
    """When the cache cannot be written the answers still arrive, and the user is told once. A page
    of rows is asked, too."""
    clock, told, store = FakeClock(), list[str](), FakeCache()
    store.broken = True

    async def run() -> list[Answer]:
        cache = Cache(Scripted(response()), store, clock, told.append)
        answers = await asyncio.gather(*(cache(request(str(n)), None) for n in range(3)))
        await cache.close()
        assert await kept_answers(store, [request()], 0.0, None) == [None]
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
    inner, store = Scripted(response("1"), response("2")), Late()

    async def run(cache: Cache) -> list[tuple[str, str]]:
        turns = ("use", "use", "refresh", "use")
        before = [await cache(request(cache_mode=mode), None) for mode in turns]
        store.room.set()
        await cache.close()
        return [(r.cache, r.text) for r in (*before, await cache(request(), None))]

    answers = cached(inner, run, store=store)
    assert answers == [("miss", "1"), ("hit", "1"), ("miss", "2"), ("hit", "2"), ("hit", "2")]
    assert len(inner.calls) == 2


def across(
    first: float, result: Answer | BaseException | None = None
) -> tuple[Answer, int, list[str], float]:
    """Two processes ask the same at the same time: the answer of the second, the calls it made,
    what it streams, and the seconds that took. `first` and `result` are those of the first."""
    clock, shown, store = FakeClock(), list[str](), FakeCache()
    second = Taking(clock, 1)

    async def run() -> Answer:
        one, other = (
            Cache(inner, at, clock, pytest.fail)
            for inner, at in ((Taking(clock, first, result), store), (second, FakeCache(store)))
        )
        leader = asyncio.ensure_future(one(request(), None))
        await asyncio.sleep(0)
        found = await other(request(), lambda piece: shown.append(piece.text))
        await asyncio.gather(leader, return_exceptions=True)
        return found

    return clock.run(run()), second.calls, shown, clock.now - 1000


@pytest.mark.parametrize("takes", [30, 10_000])
def test_two_processes_pay_once(takes: float) -> None:
    """Case 73: the second waits for the first's answer, as long as that one lives, streams it, and
    calls it shared."""
    other, calls, shown, seconds = across(takes)
    assert (other.cache, other.attempts, calls, shown) == ("shared", 0, 0, [other.text])
    assert seconds < takes + 0.3


@pytest.mark.parametrize(
    "result",
    # a failure, or an answer that is not kept, is not waited for
    [ServerFailed("x"), response(finish="length")],
)
def test_the_second_goes_itself(result: Answer | ServerFailed) -> None:
    """When the other process has nothing for it, a process asks."""
    other, calls, _, _ = across(5, result)
    assert (other.cache, calls) == ("miss", 1)


def test_a_cancelled_call_gives_its_claim_back() -> None:
    """The next process may go."""
    clock, first = FakeClock(), FakeCache()
    second = FakeCache(first)

    async def run(cache: Cache) -> bool:
        call = asyncio.ensure_future(cache(request(), None))
        await clock.sleep(1)
        assert await second.claim(request().fingerprint) == "theirs"
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await cache.close()
        return await second.claim(request().fingerprint) == "ours"

    assert cached(Taking(clock, 5), run, clock, first)


def test_signs_of_life_while_a_call_takes_long() -> None:
    """As long as an answer is awaited the store hears of it every ten seconds, and then not."""
    clock, store = FakeClock(), FakeCache()

    async def run(cache: Cache) -> None:
        await cache(request(), None)
        await clock.sleep(100)

    cached(Taking(clock, 35), run, clock, store)
    assert store.beats == 3


def test_a_page_of_kept_answers() -> None:
    """What asking one by one would give: hits in their places, nothing for what is refreshed,
    bypassed, too old or unknown."""
    clock, store = FakeClock(), FakeCache()

    async def run(cache: Cache) -> list[Answer | None]:
        await cache(request("old"), None)
        await clock.sleep(61)
        await cache(request("new"), None)
        await cache.close()
        page = [request("new"), request("old"), request("unknown"), request("new", id="b")]
        page += [request("new", cache_mode="refresh"), request("new", cache_mode="bypass")]
        return await kept_answers(store, page, clock.wall(), 60)

    found = cached(Scripted(response("hi")), run, clock, store)
    assert [r.cache if r else None for r in found] == ["hit", None, None, "hit", None, None]


def test_an_answer_of_a_clock_that_was_ahead_does_not_outlive_its_ttl() -> None:
    """Case 74: what was kept ten years from now is asked again."""
    now, ttl = 1_000_000_000.0, 60.0
    for ahead, found in ((10 * 365 * 86400, False), (ttl + 1, False), (1, True), (-59, True)):
        kept = CachedAnswer("x", "stop", "m", Usage(), None, None, now + ahead, "m")
        assert (answer_of(request(), kept, now, ttl) is not None) == found
