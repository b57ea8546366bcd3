"""Rate limits: a minute's requests and tokens, calls at a time, pauses, and providers' headers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.config.settings import Limits, ModelLimits
from llmctl.errors import ConnectionFailed, DiskError, QuotaExhausted, RateLimited
from llmctl.guards.rate_limit import (
    AdaptiveConcurrency,
    LocalLimits,
    Permit,
    ProviderLimits,
    ProviderQuota,
    rate_limit,
)
from llmctl.protocols import Handler, RateHeaders
from llmctl.token_bucket import Draw, request_bucket, token_bucket
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

# The bucket


@given(
    per_minute=st.integers(1, 30_000),
    idle=st.floats(0, 600),
    jitter=st.lists(st.floats(0, 0.05), min_size=1, max_size=20),
)
def test_never_more_than_the_limit_in_any_minute(
    per_minute: int, idle: float, jitter: list[float]
) -> None:
    """However late its callers wake up, no half-open 60 seconds see more than the limit."""
    bucket = request_bucket(per_minute)
    now = 1000.0 + idle
    grants: list[float] = []
    for turn in range(min(per_minute * 2 + 2, 1500)):
        while wait := bucket.wait(1, now):
            now += wait + jitter[turn % len(jitter)]
        bucket.take(1, now)
        grants.append(now)
    for first, later in zip(grants, grants[per_minute:], strict=False):
        assert later - first >= 60 - 1e-6


def test_a_request_larger_than_the_bucket_is_served() -> None:
    """A request above the bucket's size waits for a full bucket, not for ever, and is paid off."""
    bucket = token_bucket(600)
    assert bucket.wait(1000, 0.0) == 0
    bucket.take(1000, 0.0)
    assert bucket.wait(1, 0.0) > 90


# Calls at a time


def test_an_overload_halves_the_concurrency_once_for_all_in_flight() -> None:
    """Fifty calls that were in flight together say one thing together."""
    allowed = AdaptiveConcurrency(64)
    generation = allowed.generation
    for _ in range(50):
        allowed.on_throttled(generation, told_when=False)
    assert allowed.size == 32


def test_concurrency_grows_by_one_a_round() -> None:
    """As many answers as are in flight make room for one more, up to the ceiling."""
    allowed = AdaptiveConcurrency(64)
    allowed.on_throttled(allowed.generation, told_when=False)
    for _ in range(33):
        allowed.on_success()
    assert 32.9 < allowed.size < 33.1
    for _ in range(10_000):
        allowed.on_success()
    assert allowed.size == 64


@pytest.mark.parametrize(("refused_of_ten", "least", "most"), [(3, 50, 50), (6, 1, 25)])
def test_only_a_flood_of_timed_refusals_means_too_many(
    refused_of_ten: int, least: int, most: int
) -> None:
    """Three in ten refused with a retry-after is a matter of when; six are one of how many."""
    allowed = AdaptiveConcurrency(50)
    for turn in range(1000):
        if turn % 10 < refused_of_ten:
            allowed.on_throttled(allowed.generation, told_when=True)
        else:
            allowed.on_success()
    assert least <= allowed.size <= most


# Headers


def test_the_quota_fills_by_what_the_headers_imply() -> None:
    """10 left of 70, full in 60 s: one comes back every second."""
    quota = ProviderQuota()
    quota.update(10, 70, 60.0, 0, 100.0)
    for _ in range(10):
        assert quota.wait(1, 100.0) == 0
        quota.take(1)
    assert quota.wait(1, 100.0) == pytest.approx(1.0)
    assert quota.wait(1, 101.0) == 0


def test_calls_in_flight_may_not_have_been_counted() -> None:
    """10 left, but 9 on their way: one may go."""
    quota = ProviderQuota()
    quota.update(10, None, 30.0, 9, 0.0)
    assert quota.wait(1, 0.0) == 0
    quota.take(1)
    assert quota.wait(1, 0.0) == 30.0


@pytest.mark.parametrize(("reset", "longest"), [(5.0, 5.0), (86_400.0, 120.0), (None, 5.0)])
def test_nothing_left_waits_for_the_reset(reset: float | None, longest: float) -> None:
    """At most two minutes; of a provider that names no reset (Mistral) a few seconds, so that a
    first answer which lies holds nobody for long, and a minute once it has refused a request.
    After that the provider is asked itself."""
    quota = ProviderQuota()
    quota.update(0, None, reset, 0, 0.0)
    assert quota.wait(1, 0.0) == longest
    assert quota.wait(50, longest) == 0
    quota.on_refused()
    quota.update(0, None, reset, 0, 0.0)
    assert quota.wait(1, 0.0) == (longest if reset else 60)


@pytest.mark.parametrize(("limit", "doubted"), [(None, True), (6000, False), (1, True)])
def test_answers_that_leave_nothing_are_doubted(limit: int | None, *, doubted: bool) -> None:
    """Case 74: two good answers in a row with nothing left for long are not believed; after a
    refusal it takes four. Nothing left that comes back at once is a provider at its limit."""
    quota = ProviderQuota()
    for needed in (2, 4):
        for turn in range(needed):
            quota.take(1)
            quota.update(0, limit, 60.0, 0, 0.0)
            assert (quota.left is None) is (doubted and turn == needed - 1)
        quota.on_refused()


def test_who_waits_hears_that_the_header_is_not_believed() -> None:
    """Case 74: a request that waits for what the first answer said goes once the second proves it
    wrong, not a minute later."""
    clock = FakeClock()
    limits = ProviderLimits(Limits(), clock)

    async def work() -> None:
        for _ in range(2):
            await limits.acquire(0)
        limits.update_from_headers(RateHeaders(remaining_requests=0, reset_requests=60))
        waiting = asyncio.ensure_future(limits.acquire(0))
        await clock.sleep(0.5)
        assert limits.waits() > 50
        limits.update_from_headers(RateHeaders(remaining_requests=0, reset_requests=60))
        await waiting

    clock.run(work())
    assert clock.now - 1000 == pytest.approx(1)
    assert limits.waits() == 0


def test_each_model_has_its_own_limits() -> None:
    """What a model's replies say of what is left holds for it alone, where it has limits of its
    own; what those leave out is as the profile says."""
    limits = Limits(rpm=60, tpm=600, models={"small": ModelLimits(rpm=30, rpd=9)})
    assert limits.of("small") == Limits(rpm=30, tpm=600, rpd=9)
    assert limits.of("large") is limits
    clock = FakeClock()
    made = ProviderLimits(limits, clock)
    made.update_from_headers(RateHeaders(remaining_requests=0, reset_requests=30, model="small"))

    async def first(model: str) -> float:
        await made.of(model).acquire(0)
        return clock.now - 1000

    assert clock.run(first("large")) == 0
    assert clock.run(first("small")) == 30
    assert made.of("small").today == (1, 9)


def test_what_was_not_sent_is_not_counted() -> None:
    """A request of the day that never left is there for the next one."""
    inner = Scripted(
        ConnectionFailed("x", sent=False), ConnectionFailed("x", sent=False), response()
    )
    run = Run(inner, rpd=1)

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(ConnectionFailed):
                await run.guard(request(), None)
        await run.guard(request(), None)
        with pytest.raises(QuotaExhausted, match="the 1 requests of this day") as why:
            await run.guard(request(), None)
        assert (why.value.sent, why.value.exit_code, why.value.retryable) == (False, 5, False)

    run.clock.run(work())


def test_a_reset_alone_is_the_pause_after_a_429() -> None:
    """Cohere says when, not how much: nothing waits for that, until a 429 names no time."""
    run = Run()
    run.limits.update_from_headers(RateHeaders(reset_requests=20.0))

    async def work() -> None:
        permit = await run.limits.acquire(0)
        assert run.clock.now == 1000
        run.limits.on_refused(permit, RateLimited("x"))
        run.limits.release(permit, 0)
        await run.limits.acquire(0)

    assert run.seconds(work()) == 20


# One process


class Run:
    """The guard of one provider, whose requests are taken to use 100 tokens."""

    def __init__(self, inner: Handler | None = None, **limits: Any) -> None:
        self.clock = FakeClock()
        self.limits = ProviderLimits(Limits(**limits), self.clock)
        self.guard = rate_limit(inner or Scripted(response()), self.limits, lambda _: 100)

    async def calls(self, number: int) -> list[Answer]:
        """So many at once."""
        return await asyncio.gather(*(self.guard(request(), None) for _ in range(number)))

    def seconds(self, work: Coroutine[Any, Any, object]) -> float:
        """How long that takes."""
        self.clock.run(work)
        return self.clock.now - 1000


def test_tokens_are_corrected_to_the_real_usage() -> None:
    """Estimates of 100 tokens that turn out as 5 slow the run down by 5, not by 100."""
    run = Run(tpm=1200)

    async def one_by_one() -> None:
        for _ in range(60):
            await run.calls(1)

    assert run.seconds(one_by_one()) < 20  # 300 without the correction, 15 in theory


def test_a_429_pauses_all() -> None:
    """After one row was told to wait, no row is sent until the wait is over."""
    sent: list[float] = []

    async def endpoint(_: Request, __: object) -> Answer:
        sent.append(run.clock.now - 1000)
        if len(sent) == 1:
            raise RateLimited("slow down", retry_after=30)
        return response()

    async def work() -> None:
        with pytest.raises(RateLimited):
            await run.calls(1)
        await run.calls(5)

    run = Run(endpoint)
    run.clock.run(work())
    assert sent[0] == 0
    assert all(at >= 30 for at in sent[1:])


def test_cancelled_waiters_leave_nothing_taken() -> None:
    """Requests cancelled while they wait do not delay the ones that stay."""
    run = Run(rpm=60)

    async def work() -> None:
        await run.calls(1)
        waiting = asyncio.ensure_future(run.calls(50))
        for _ in range(5):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await run.calls(1)

    assert run.seconds(work()) == pytest.approx(1.0, abs=0.01)


# Many users


def test_a_flood_of_one_user_does_not_hold_up_another() -> None:
    """Of a thousand that wait no more than one goes before the first of somebody else; who waits,
    and for how long about, can be asked."""
    run = Run(rpm=60, concurrency=2000)
    order: list[str] = []

    async def call(user: str, weight: int = 1) -> None:
        await run.guard(request(user=user, weight=weight), None)
        order.append(user)

    async def work() -> None:
        assert run.limits.queued("ann") == (0, 0.0)
        flood = [asyncio.ensure_future(call("ann")) for _ in range(1000)]
        await run.clock.sleep(10.5)
        assert run.limits.waiting() == {"ann": 989}
        ahead, seconds = run.limits.queued("bob")
        assert ahead <= 2
        assert 0.4 <= seconds <= 3
        ahead, seconds = run.limits.queued("ann")
        assert ahead == 989
        assert seconds == pytest.approx(989, rel=0.1)
        sent = len(order)
        await asyncio.gather(call("bob"), call("eve"))
        assert len(order) - sent <= 4
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        await call("ann")

    run.clock.run(work())
    assert (run.limits.waiting(), order[-1]) == ({}, "ann")


@pytest.mark.parametrize("given_up", ["waits", "is given its turn", "has it"])
def test_the_turn_of_one_that_is_cancelled_goes_to_the_next(given_up: str) -> None:
    """Whether it still waits, is given the turn in this moment, or has it: nobody waits for it."""
    run = Run(concurrency=1)

    async def work() -> None:
        first = await run.limits.acquire(0)

        async def acquire() -> Permit:
            permit = await run.limits.acquire(0, "a")
            if given_up == "is given its turn":
                second.cancel()
            return permit

        served = asyncio.ensure_future(acquire())
        second, last = [asyncio.ensure_future(run.limits.acquire(0, user)) for user in ("b", "c")]
        await run.clock.sleep(1)
        if given_up == "waits":
            second.cancel()
        run.limits.release(first, 0)
        permit = await served
        await run.clock.sleep(1)
        if given_up == "has it":
            second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        run.limits.release(permit, 0)
        run.limits.release(await last, 0)
        assert (run.limits.waiting(), run.limits.queued("a")[0]) == ({}, 0)

    run.clock.run(asyncio.wait_for(work(), 30))


# Several processes


async def demand(limits: ProviderLimits, clock: FakeClock, until: float) -> list[float]:
    """Send as fast as the limits let, and say when."""
    sent: list[float] = []
    while clock.now < until:
        permit = await limits.acquire(0)
        sent.append(clock.now)
        limits.on_success()
        limits.release(permit, 0)
    return sent


@pytest.mark.parametrize("rpm", [60, 2400])
def test_two_processes_share_one_minute(rpm: int) -> None:
    """Together they send what one alone may, no 60 seconds see more, and neither starves."""
    clock = FakeClock()
    shared = LocalLimits(clock)
    both = [ProviderLimits(Limits(rpm=rpm, concurrency=1), clock, shared, "p") for _ in range(2)]

    async def run() -> list[list[float]]:
        return list(await asyncio.gather(*(demand(limits, clock, 1150.0) for limits in both)))

    sent = clock.run(run())
    together = sorted(sent[0] + sent[1])
    for first, later in zip(together, together[rpm:], strict=False):
        assert later - first >= 60 - 1e-6
    in_a_minute = [at for at in together if 1060 <= at < 1120]
    assert 0.985 * rpm <= len(in_a_minute) <= rpm
    assert min(map(len, sent)) > 0.2 * len(together)


def test_corrections_that_come_during_a_change_are_kept() -> None:
    """A call ends while another one asks the shared file: its unused tokens are not lost."""
    clock = FakeClock()

    class Slow(LocalLimits):
        async def draw(self, draw: Draw) -> float:
            wait = await super().draw(draw)
            await clock.sleep(1)
            return wait

    limits = ProviderLimits(Limits(tpm=60_000), clock, Slow(clock), "p")

    async def run() -> tuple[float, float]:
        first = await limits.acquire(1000)
        second = asyncio.ensure_future(limits.acquire(0))
        await clock.sleep(0.5)
        limits.release(first, 100)
        await second
        return limits._unused

    assert clock.run(run()) == (0.0, 900.0)


def test_a_pause_holds_for_the_other_process_too() -> None:
    """One is told to come back in 30 s: the other one does not send meanwhile either."""
    clock = FakeClock()
    shared = LocalLimits(clock)
    one, other = (ProviderLimits(Limits(rpm=600), clock, shared, "p") for _ in range(2))

    async def run() -> float:
        permit = await one.acquire(0)
        one.on_refused(permit, RateLimited("x", retry_after=30.0))
        one.release(permit, 0)
        waiting = asyncio.ensure_future(one.acquire(0))
        await clock.sleep(30.05)  # the first has asked the shared limits by then
        await other.acquire(0)
        await waiting
        return clock.now - 1000

    assert clock.run(run()) >= 30


def test_when_it_cannot_be_shared_the_limit_still_holds() -> None:
    """A disk that refuses is a warning, once; this process keeps to the limits by itself."""
    clock, warned = FakeClock(), list[str]()

    class Full(LocalLimits):
        async def draw(self, draw: Draw) -> float:
            raise DiskError(f"no room for {draw.lane}")

    limits = ProviderLimits(Limits(rpm=60), clock, Full(clock), "p", warned.append)

    async def run() -> float:
        for _ in range(5):
            permit = await limits.acquire(0)
            limits.release(permit, 0)
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(4, abs=0.1)
    assert len(warned) == 1


def test_models_of_a_pattern_share_their_limits() -> None:
    """A model's own entry counts, else the first pattern that it fits, else the profile's."""
    said = {"gpt-5": ModelLimits(rpm=1), "gpt-5*": ModelLimits(rpm=2)}
    limits = ProviderLimits(Limits(models=said), FakeClock())
    assert limits.of("gpt-5-mini") is limits.of("gpt-5-nano")
    assert limits.of("gpt-5") is not limits.of("gpt-5-mini")
    assert limits.of("other") is limits


@pytest.mark.parametrize(
    ("zone", "now", "hours"),
    [
        ("UTC", datetime(2026, 11, 30, 7, tzinfo=UTC), 17),
        ("America/Los_Angeles", datetime(2026, 11, 30, 7, tzinfo=UTC), 1),
        ("America/Los_Angeles", datetime(2026, 3, 8, 8, tzinfo=UTC), 23),  # clocks go forward
    ],
)
def test_the_day_ends_at_the_providers_midnight(zone: str, now: datetime, hours: int) -> None:
    """The error says when the next day begins, there; then requests go again."""
    clock = FakeClock(now.timestamp())
    limits = ProviderLimits(Limits(rpd=1), clock, zone=zone)

    async def work() -> None:
        await limits.acquire(0)
        with pytest.raises(QuotaExhausted, match=rf"begins in {hours}\.0 h, at 00:00 {zone}"):
            await limits.acquire(0)
        await clock.sleep(hours * 3600)
        await limits.acquire(0)

    clock.run(work())


# Many machines


class Distributed(LocalLimits):
    """Limits that two machines share."""

    distributed = True

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.draws: list[Draw] = []

    async def draw(self, draw: Draw) -> float:
        """Note it."""
        self.draws.append(draw)
        return await super().draw(draw)


@pytest.mark.parametrize("limits", [Limits(), Limits(rpm=6000)])
def test_a_pause_is_told_to_other_machines_and_found_within_a_second(limits: Limits) -> None:
    """Without any limit a minute, too: who shares them sends nothing until the pause is over, and
    nobody asks more than once a second for it."""
    clock = FakeClock()
    shared = Distributed(clock)
    one, two = (ProviderLimits(limits, clock, shared, "lane") for _ in range(2))

    async def send(limits: ProviderLimits) -> float:
        limits.release(await limits.acquire(1), 1)
        return clock.monotonic()

    async def scenario() -> list[float]:
        began = await send(two)
        permit = await one.acquire(1)
        one.on_refused(permit, RateLimited("slow down", retry_after=30.0))
        one.release(permit, 0)
        sent = []
        for _ in range(40):
            sent.append(await send(two) - began)
            await clock.sleep(0.25)
        return sent

    sent = clock.run(scenario())
    assert not [at for at in sent if 1.0 < at < 29.9], sent
    assert [at for at in sent if at >= 29.9]
    looks = [draw for draw in shared.draws if not (draw.requests or draw.pause)]
    assert len(looks) <= 12 + 2
    assert len([draw for draw in shared.draws if draw.pause]) == 1
