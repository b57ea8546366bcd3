"""The suite of coordinators, run by every one, and what Redis alone promises."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
)
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.asyncio import Redis

from llmctl.clock import SystemClock
from llmctl.cluster.governor import Governor, GovernorClient
from llmctl.cluster.messages import Files, encode
from llmctl.config.settings import RedisSettings
from llmctl.coordination.redis import ROOT, RedisCoordinator, connect, open_coordinator
from llmctl.coordination.shared import CoordinatedBudget
from llmctl.coordination.sqlite import SqliteCoordinator
from llmctl.errors import CoordinatorError, SetupError
from llmctl.protocols import (
    IDLE,
    Budget,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    Coordinator,
    Hold,
    Lease,
    ProcessStatus,
    Quota,
)
from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.ledger import Ledger, open_ledger
from llmctl.storage.process import Process, start_time, world
from llmctl.storage.rate_limits import RateLimitStore
from llmctl.token_bucket import INITIAL_LIMITS, Draw
from llmctl.types import CallRecord
from tests.conformance.calls import a_cached_answer, a_cap, a_hold, a_request, an_outcome
from tests.conformance.coordinators import (
    CENT,
    SIGN,
    CoordinatorContract,
    Machines,
    a_lease,
    becomes,
)
from tests.conformance.ledger_budgets import BudgetContract, held, settle, stands
from tests.keys.openbao import closed_port
from tests.redis_server import RedisServer, needs_redis


class SqliteMachines:
    """Machines in one place: each is a process, with the files in the folder open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @asynccontextmanager
    async def machine(self, run_id: str) -> AsyncIterator[Coordinator]:
        """As `Machines.machine`."""
        process = a_process()
        self._processes[run_id] = process
        me = process.pid, start_time(process.pid) or "", world()
        clock = SystemClock()
        ledger = open_ledger(self._folder / "ledger.db", run_id, "ann")
        answers = SqliteCache(self._folder / "cache.db", pytest.fail, clock)
        limits = RateLimitStore(self._folder / "limits.db", clock)
        ledger._me = answers._me = me
        assert not Process(*me).is_dead(out_of_sight=False)
        with closing(ledger), closing(answers), closing(limits):
            yield SqliteCoordinator(ledger, limits, answers)

    async def kill(self, run_id: str) -> None:
        """As `Machines.kill`."""
        process = self._processes.pop(run_id)
        process.kill()
        await asyncio.to_thread(process.wait)
        assert process.stdin is not None
        process.stdin.close()

    async def kill_all(self) -> None:
        """End the processes."""
        for run_id in [*self._processes]:
            await self.kill(run_id)


def a_process() -> subprocess.Popen[bytes]:
    """One that lives until it is killed."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


class RedisMachines:
    """Machines with one Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @asynccontextmanager
    async def machine(self, run_id: str) -> AsyncIterator[RedisCoordinator]:
        """As `Machines.machine`."""
        async with connected(self._server) as redis:
            yield RedisCoordinator(redis, run_id, "ann", silence=SIGN, claim_silence=SIGN)

    async def kill(self, run_id: str) -> None:
        """As `Machines.kill`: it says no more."""


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the server."""
    async with AsyncExitStack() as stack:
        redis, _ = await connect(urlsplit(server.url), None, stack)
        assert isinstance(redis, Redis)
        yield redis


@pytest.fixture
def server(redis: RedisServer) -> RedisServer:
    """A Redis, empty."""
    return redis


@contextmanager
def _sqlite(request: pytest.FixtureRequest) -> Iterator[Machines]:
    made = SqliteMachines(request.getfixturevalue("tmp_path"))
    yield made
    asyncio.run(made.kill_all())


@contextmanager
def _redis(request: pytest.FixtureRequest) -> Iterator[Machines]:
    yield RedisMachines(request.getfixturevalue("server"))


class Node(GovernorClient):
    """A node of a run: it asks the governor; the driver settles what it has held."""

    def __init__(
        self, governor: Governor, name: str, ledger: Ledger, driver: SqliteCoordinator
    ) -> None:
        super().__init__(partial(governor.answer, name))
        self._ledger, self._driver = ledger, driver

    async def lease(self, lease: Lease) -> float | Quota | BudgetDenied:
        """As `Coordinator.lease`; the driver watches the windows of what it will settle."""
        if lease.hold is not None:
            self._ledger.watch(lease.windows, round(lease.hold.at * 1000))
        return await super().lease(lease)

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """As `Coordinator.settle`, by the driver."""
        return await self._driver.settle(record)


class RayMachines:
    """Nodes of one run, with the governor and the driver in this process: how Ray carries their
    words is tested in `tests/cluster`."""

    def __init__(self, folder: Path) -> None:
        clock, files = (
            SystemClock(),
            [folder / f"{name}.db" for name in ("ledger", "limits", "cache")],
        )
        made = Files(
            run_id="run", user="ann", driver=Process.current(), ledger=files[0], limits=files[1],
            cache=files[2], size=None, encrypt=False,
        )  # fmt: skip
        self._governor = Governor(encode(made))
        self._ledger = open_ledger(files[0], "run", "ann")
        self._limits = RateLimitStore(files[1], clock)
        self._answers = SqliteCache(files[2], pytest.fail, clock)

    @asynccontextmanager
    async def machine(self, run_id: str) -> AsyncIterator[Coordinator]:
        """As `Machines.machine`."""
        driver = SqliteCoordinator(self._ledger, self._limits, self._answers)
        yield Node(self._governor, run_id, self._ledger, driver)

    async def kill(self, run_id: str) -> None:
        """As `Machines.kill`; the driver finds it out."""
        await self._governor.end_of(run_id)

    def close(self) -> None:
        """Give the files back."""
        for opened in (self._ledger, self._limits, self._answers, *self._governor._opened):
            opened.close()


@contextmanager
def _ray(request: pytest.FixtureRequest) -> Iterator[Machines]:
    made = RayMachines(request.getfixturevalue("tmp_path"))
    yield made
    made.close()


COORDINATORS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Machines]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
    "ray": _ray,
}
"""Every coordinator, by name: what makes its machines, or skips the test."""


class TestCoordinator(CoordinatorContract):
    """All of them."""

    @pytest.fixture(params=COORDINATORS)
    def machines(self, request: pytest.FixtureRequest) -> Iterator[Machines]:
        """Those of one coordinator."""
        with COORDINATORS[request.param](request) as machines:
            yield machines


class BudgetInRedis:
    """The budget that Redis keeps, connected while there is a verb under way: each may be of
    another event loop."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._coordinator: RedisCoordinator | None = None
        self._verbs, self._stack, self._opening = 0, AsyncExitStack(), asyncio.Lock()

    @asynccontextmanager
    async def _budget(self) -> AsyncIterator[CoordinatedBudget]:
        async with self._opening:
            if not self._verbs:
                redis = await self._stack.enter_async_context(connected(self._server))
                self._coordinator = self._coordinator or RedisCoordinator(redis, "run-1", "ann")
                self._coordinator.use(redis)
            self._verbs += 1
        assert self._coordinator is not None
        yield CoordinatedBudget(self._coordinator)
        async with self._opening:
            self._verbs -= 1
            if not self._verbs:
                await self._stack.aclose()

    async def hold(self, hold: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """See `Budget`."""
        async with self._budget() as budget:
            return await budget.hold(hold, windows)

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """See `Budget`."""
        async with self._budget() as budget:
            return await budget.settle(record)

    async def beat(self, status: ProcessStatus = IDLE) -> None:
        """See `Budget`."""
        async with self._budget() as budget:
            await budget.beat(status)

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """See `Budget`."""
        async with self._budget() as budget:
            return await budget.usage(window)


class TestBudgetInRedis(BudgetContract):
    """What every budget promises; but windows begin at 0 here."""

    @pytest.fixture
    def store(self, server: RedisServer) -> Budget:
        """An empty budget."""
        return BudgetInRedis(server)

    @pytest.mark.parametrize(
        ("match", "counts"),
        [({"run": "run-1"}, True), ({"tag:team": "search"}, True), ({"user": "bob"}, False)],
    )
    def test_only_calls_that_match_count(
        self, store: Budget, match: dict[str, str], *, counts: bool
    ) -> None:
        """From the moment on when the budget was first used: what was spent or held before by
        whoever did not know it does not."""
        cap = a_cap("9", match=match)
        held(store, [])
        for _ in range(2):
            probe = a_request()
            held(store, [cap], Decimal(0), probe)
            settle(store, an_outcome(probe, cost=Decimal(0)))
            held(store, [])
            request = a_request()
            held(store, [], CENT, request)
            settle(store, an_outcome(request, cost=CENT))
        assert stands(store, cap) == ((2 * CENT, 2 * CENT) if counts else (0, 0))

    def test_users_of_one_run_are_counted_apart(self, store: Budget) -> None:
        """Each has a budget of its own; a request that names nobody is the run's."""
        caps = {name: a_cap("0.02", name, match={"user": name}) for name in ("ann", "bob")}
        for user, name in (("bob", "bob"), ("", "ann")):
            for _ in range(2):
                assert held(store, [caps[name]], CENT, replace(a_request(), user=user)) is None
            assert held(store, [caps[name]], CENT, replace(a_request(), user=user)) is not None
        assert stands(store, caps["bob"]) == stands(store, caps["ann"]) == (0, 2 * CENT)


MOMENT = 1_800_000_000.0
MOMENTS = st.none() | st.floats(-120, 120).map(lambda s: MOMENT + s)
UNITS = st.integers(0, 5000).map(float) | st.floats(0, 5000)
DRAWS = st.builds(
    Draw,
    lane=st.just("lane"),
    rpm=st.none() | st.integers(1, 100_000),
    tpm=st.none() | st.integers(1, 10_000_000),
    requests=UNITS,
    tokens=UNITS,
    back=st.tuples(st.floats(-50, 50), st.floats(-5000, 5000)),
    pause=st.just(0.0) | st.floats(0, 90),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=DRAWS, state=st.tuples(MOMENTS, MOMENTS, MOMENTS), micro=st.integers(0, 999_999))
def test_redis_draws_by_the_same_arithmetic(
    server: RedisServer, draw: Draw, state: tuple[float | None, ...], micro: int
) -> None:
    """Whatever is drawn of whatever is left: the same wait and the same state, to the last bit."""
    fields = ("requests", "tokens", "quiet")
    lane, now = f"{ROOT}:lane:lane", MOMENT + micro / 1e6
    before = {name: moment for name, moment in zip(fields, state, strict=True) if moment}

    async def drawn() -> tuple[float, dict[str, float]]:
        async with connected(server) as redis:
            coordinator = RedisCoordinator(redis, "run-1", "ann")
            asked_for_time, moment = "redis.call('TIME')", f"{{'{MOMENT:.0f}', '{micro}'}}"
            assert coordinator._source.count(asked_for_time) == 1
            coordinator._source = coordinator._source.replace(asked_for_time, moment)
            coordinator.use(redis)
            await redis.flushall()
            if before:
                await redis.hset(lane, mapping={name: repr(at) for name, at in before.items()})
            wait = await coordinator.lease(Lease("lease", draw))
            assert isinstance(wait, float)
            after: Any = await redis.hgetall(lane)
            return wait, {name.decode(): float(at) for name, at in after.items()}

    was = [INITIAL_LIMITS[n] if moment is None else moment for n, moment in enumerate(state)]
    after, expected = draw.apply((was[0], was[1], was[2]), now)
    wait, kept = asyncio.run(drawn())
    assert wait == expected
    for name, at in zip(fields, after, strict=True):  # what is past is past
        assert max(kept.get(name, now), now) == max(at, now)


def test_budgets_are_exact_to_the_picodollar(server: RedisServer) -> None:
    """Beyond the whole numbers that Lua counts by, too."""
    cap, pico = a_cap("9000000"), Decimal("1e-12")

    async def scenario() -> list[bool]:
        async with connected(server) as redis:
            one = RedisCoordinator(redis, "run-1", "ann")
            amounts = (cap.limit - pico, pico, pico)
            granted = [await one.lease(a_lease([cap], amount)) for amount in amounts]
            assert await one.usage(cap) == BudgetUsage(Decimal(0), cap.limit)
            return [each == 0 for each in granted]

    assert asyncio.run(scenario()) == [True, True, False]


def test_an_outage_is_waited_for_and_changes_no_sum(tmp_path: Path) -> None:
    """Redis is killed with leases in it: what is asked meanwhile waits, says so, and has its
    answer when Redis is back, which knows what was held and spent."""
    needs_redis()
    cap, request = a_cap("0.03"), a_request()

    async def scenario(server: RedisServer) -> None:
        async with connected(server) as redis:
            one = RedisCoordinator(redis, "run-1", "ann")
            assert await one.lease(a_lease([cap], CENT, request)) == 0
            server.kill()
            waiting = [asyncio.create_task(one.lease(a_lease([cap]))) for _ in range(3)]
            settled = asyncio.create_task(one.settle(an_outcome(request, cost=CENT)))

            async def is_away() -> bool:
                return one.is_away

            await becomes(True, is_away)  # noqa: FBT003 - what it becomes
            await asyncio.to_thread(server.start)
            granted = await asyncio.gather(*waiting)
            await settled
            assert granted.count(0.0) == 2
            assert not one.is_away
            assert await one.usage(cap) == BudgetUsage(CENT, 2 * CENT)

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_nothing_is_granted_without_redis(tmp_path: Path) -> None:
    """After the patience every verb fails, and says what to do; it works again once Redis does."""
    needs_redis()

    async def scenario(server: RedisServer) -> None:
        async with connected(server) as redis:
            one = RedisCoordinator(redis, "run-1", "ann", where=server.url, patience=0.3)
            server.kill()
            for work in (
                one.lease(a_lease()),
                one.lease(Lease("draw", Draw("lane"))),
                one.settle(an_outcome(a_request())),
                one.extend(),
                one.usage(a_cap("1")),
                one.claim("0f" * 32),
                one.get_many(["0f" * 32]),
            ):
                with pytest.raises(CoordinatorError, match=r"nothing is sent without it; see that"):
                    await work
            await asyncio.to_thread(server.start)
            assert await one.lease(a_lease()) == 0

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_cancelled_lease_is_there_before_it_is_settled(server: RedisServer) -> None:
    """A caller hangs up while its call is held: the settlement that follows leaves nothing."""
    cap = a_cap("1")

    async def scenario() -> None:
        async with connected(server) as redis:
            one = RedisCoordinator(redis, "run-1", "ann")
            for _ in range(50):
                request = a_request()
                task = asyncio.create_task(one.lease(a_lease([cap], CENT, request)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait((task,))
                await one.settle(an_outcome(request, cost=Decimal(0)))
            assert await one.usage(cap) == BudgetUsage(Decimal(0), Decimal(0))

    asyncio.run(scenario())


def test_redis_holds_no_prompt_and_no_answer_in_clear(server: RedisServer) -> None:
    """Leases have no content, and answers are encrypted where what is kept is."""
    store = StoreCipher({"LLMCTL_STORE_KEY": "k" * 32}, on=True)
    request = a_request()

    async def scenario() -> bytes:
        async with connected(server) as redis:
            one = RedisCoordinator(redis, "run-1", "ann", store=store)
            await one.lease(a_lease([a_cap("1")], CENT, request))
            await one.put("0f" * 32, a_cached_answer("canary-answer"))
            assert (await one.get_many(["0f" * 32]))["0f" * 32].text == "canary-answer"
            other = RedisCoordinator(redis, "run-2", "ann")
            assert await other.get_many(["0f" * 32]) == {}
            keys: Any = await redis.keys("*")
            return b"".join([key + (await redis.dump(key) or b"") for key in keys])

    everything = asyncio.run(scenario())
    assert b"01CALL" in everything
    for secret in (b"canary", b"0f" * 32):
        assert secret not in everything


def test_a_call_whose_end_only_this_machine_knows_is_settled(
    server: RedisServer, tmp_path: Path
) -> None:
    """A machine was killed between its ledger's row and Redis: the next run there says what the
    call cost; what nobody knows the end of still counts in full."""
    cap, requests = a_cap("1"), [a_request() for _ in range(2)]

    async def scenario() -> None:
        async with connected(server) as redis:
            with closing(open_ledger(tmp_path / "ledger.db", "run-1", "ann")) as ledger:
                one = RedisCoordinator(redis, "run-1", "ann", silence=SIGN)
                budget = CoordinatedBudget(one, ledger)
                for request in requests:
                    assert await budget.hold(a_hold(request, CENT), [cap]) is None
                await ledger.settle(an_outcome(requests[0], cost=CENT / 10))
            with closing(open_ledger(tmp_path / "ledger.db", "run-2", "ann")) as ledger:
                find = ledger.calls_of
                two = RedisCoordinator(redis, "run-2", "ann", silence=SIGN, find=find)
                await becomes(BudgetUsage(2 * CENT, Decimal(0)), lambda: two.usage(cap))
                await two.settle_lost()
                assert await two.usage(cap) == BudgetUsage(CENT + CENT / 10, Decimal(0))

    asyncio.run(scenario())


def test_a_cluster_is_asked_as_one(tmp_path: Path) -> None:
    """All that is shared is in one place of it; an outage is waited for there, too."""
    needs_redis()
    cap, request = a_cap("1"), a_request()

    async def scenario(server: RedisServer) -> None:
        async with open_coordinator(RedisSettings(server.url), {}, "run-1", "ann") as one:
            assert await one.lease(a_lease([cap], CENT, request)) == 0
            server.kill()
            settled = asyncio.create_task(one.settle(an_outcome(request, cost=CENT / 2)))

            async def is_away() -> bool:
                return one.is_away

            await becomes(True, is_away)  # noqa: FBT003 - what it becomes
            await asyncio.to_thread(server.start)
            await settled
            assert await one.usage(cap) == BudgetUsage(CENT / 2, Decimal(0))
            await one.put("0f" * 32, a_cached_answer())
            assert [*await one.get_many(["1f" * 32, "0f" * 32])] == ["0f" * 32]

    flags = "--cluster-enabled", "yes", "--cluster-port", str(closed_port())
    with RedisServer(tmp_path, *flags) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

        async def state() -> str:
            return str(server.ask("CLUSTER", "INFO")).split()[0]

        asyncio.run(becomes("cluster_state:ok", state))
        asyncio.run(scenario(server))


def test_without_the_library_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra, and nothing was asked."""
    monkeypatch.setattr("llmctl.auth.extras.find_spec", lambda _: None)

    async def scenario() -> None:
        async with open_coordinator(RedisSettings("redis://127.0.0.1:1"), {}, "run-1", "ann"):
            pass

    with pytest.raises(SetupError, match=r"redis is not installed: .* extra `redis`"):
        asyncio.run(scenario())


def test_what_redis_may_have_forgotten_is_told_again(tmp_path: Path) -> None:
    """It was killed before it had written what it replied: what is held, claimed and was settled of
    late counts again before anything new does, and once."""
    needs_redis()
    cap, requests = a_cap("0.04"), [a_request() for _ in range(3)]

    async def scenario(server: RedisServer) -> None:
        async with connected(server) as redis, connected(server) as another:
            one = RedisCoordinator(redis, "run-1", "ann")
            two = RedisCoordinator(another, "run-2", "ann")
            for request in requests:
                assert await one.lease(a_lease([cap], CENT, request)) == 0
            await one.settle(an_outcome(requests[0], cost=CENT / 2))
            assert await one.claim("0f" * 32) == "ours"
            for forgotten in (True, False):
                if forgotten:
                    server.ask("FLUSHALL")
                server.kill()
                refused = asyncio.create_task(one.lease(a_lease([cap], 2 * CENT)))
                await asyncio.sleep(0)
                await asyncio.to_thread(server.start)
                assert isinstance(await refused, BudgetDenied)
                assert await two.usage(cap) == BudgetUsage(CENT / 2, 2 * CENT)
                assert await two.claim("0f" * 32) == "theirs"

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server))
