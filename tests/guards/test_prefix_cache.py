"""The guard that warms prompt caches: who goes first, and who waits."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from llmctl.errors import CallError, Cancelled, InvalidRequest
from llmctl.guards.prefix_cache import TRIES, PrefixCache
from llmctl.prompts.prefix import PrefixScan, Warmups, warmups
from llmctl.protocols import Emit, Handler
from llmctl.shutdown import Stop
from llmctl.types import Answer, Request, Target, Usage
from tests.support import FakeClock, request, response

CLAUDE = Target("p", "anthropic", "anthropic", "https://api.anthropic.com/v1", "claude-sonnet-5")
ROWS = [request(f"{'Follow the rules. ' * 30}{n}", target=CLAUDE) for n in range(6)]


def price(_: Request, usage: Usage) -> Decimal:
    """Reading costs a tenth."""
    return usage.input - usage.cached_input * Decimal("0.9")


def found() -> Warmups:
    """The start of the rows, which pays."""
    scan = PrefixScan()
    for row in ROWS:
        scan.add(row)
    return warmups(scan.prefixes(lambda _: 5000), price)


class Provider:
    """Answers after a second; the first `failing` calls are refused. `waves` is how many were under
    way when each was answered."""

    def __init__(self, clock: FakeClock, failing: int = 0) -> None:
        self.clock, self.failing = clock, failing
        self.now = self.calls = 0
        self.waves: list[int] = []

    async def __call__(self, *_: object) -> Answer:
        """One call."""
        self.calls += 1
        self.now += 1
        try:
            await self.clock.sleep(1)
            self.waves.append(self.now)
            if self.calls <= self.failing:
                raise InvalidRequest("no")
            return response()
        finally:
            self.now -= 1


async def all_at_once(guard: PrefixCache, provider: Provider) -> list[object]:
    """The results of all rows, asked at one time."""
    handler = guard.around(provider)
    return await asyncio.gather(*(handler(row, None) for row in ROWS), return_exceptions=True)


async def asked_once(guard: PrefixCache, inner: Handler, asked: Request) -> Answer:
    """One call through the guard."""
    return await guard.around(inner)(asked, None)


def test_one_goes_first_then_all() -> None:
    """The others go together when it has its answer."""
    clock = FakeClock()
    provider = Provider(clock)
    clock.run(all_at_once(PrefixCache(found(), clock, Stop()), provider))
    assert provider.waves == [1, 5, 4, 3, 2, 1]


def test_what_was_forgotten_is_written_again_by_one() -> None:
    """After the time that the provider keeps it without use."""
    clock = FakeClock()
    provider = Provider(clock)
    guard = PrefixCache(found(), clock, Stop())

    async def twice() -> None:
        await all_at_once(guard, provider)
        await clock.sleep(299)
        await all_at_once(guard, provider)
        await clock.sleep(301)
        await all_at_once(guard, provider)

    clock.run(twice())
    assert provider.waves[6] == 6
    assert provider.waves[12:14] == [1, 5]


def test_rows_that_fail_hold_nobody_up_for_long() -> None:
    """Some go one after the other, then all."""
    clock = FakeClock()
    provider = Provider(clock, failing=9)
    results = clock.run(all_at_once(PrefixCache(found(), clock, Stop()), provider))
    assert all(isinstance(each, CallError) for each in results)
    assert provider.waves == [1] * TRIES + [3, 2, 1]


def test_a_stop_ends_those_that_wait() -> None:
    """They were not sent."""
    clock, stop = FakeClock(), Stop()
    provider = Provider(clock)

    async def stopped() -> list[object]:
        work = asyncio.ensure_future(all_at_once(PrefixCache(found(), clock, stop), provider))
        await clock.sleep(0.5)
        stop.ask()
        return await work

    first, *others = clock.run(stopped())
    assert isinstance(first, Answer)
    assert all(isinstance(each, Cancelled) and not each.sent for each in others)
    assert provider.calls == 1


@pytest.mark.parametrize("text", ["Something else", "Follow the rules. " * 20])
def test_other_rows_pass_as_they_are(text: str) -> None:
    """Without a mark, and without waiting."""
    clock = FakeClock()
    seen: list[Request] = []

    async def inner(asked: Request, _: Emit | None) -> Answer:
        seen.append(asked)
        return response()

    other = request(text, target=CLAUDE)
    guard = PrefixCache(found(), clock, Stop())
    clock.run(asked_once(guard, inner, other))
    assert seen == [other]
