"""A profile's servers share its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from llmctl.clock import Clock
from llmctl.config.settings import BreakerPolicy
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    CallTimeout,
    ConnectionFailed,
    ServerFailed,
)
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.load_balancer import LoadBalancer
from llmctl.protocols import Emit
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

URLS = tuple(f"http://{name}:8000/v1" for name in "abc")
POLICY = BreakerPolicy(failures=2, open_for=60)


def refused() -> CallError:
    """No connection could be made."""
    return ConnectionFailed("no connection")


def make(clock: Clock, *servers: Scripted, told: list[str] | None = None) -> LoadBalancer:
    """A balancer of these servers, the first of which is `a`."""
    found = dict(zip(URLS, servers, strict=False))
    return LoadBalancer(found, POLICY, clock, (told if told is not None else list[str]()).append)


def asked(servers: Sequence[Scripted]) -> str:
    """How many calls each server got, such as `2 0 1`."""
    return " ".join(str(len(server.calls)) for server in servers)


class Held:
    """A server that answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.calls: list[Request] = []

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:  # noqa: ARG002
        """Answer once that is allowed."""
        self.calls.append(request)
        await self.may.wait()
        return response(target=request.target)


def test_a_call_goes_to_the_server_with_the_fewest_under_way() -> None:
    """Calls under way are spread evenly, and where some have ended the next ones go."""

    async def run() -> None:
        servers = [Held(), Held(), Held()]
        balancer = LoadBalancer(
            dict(zip(URLS, servers, strict=True)), POLICY, FakeClock(), lambda _: None
        )
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            first = [group.create_task(balancer(request(), None)) for _ in range(6)]
            await asyncio.sleep(0)
            assert [len(server.calls) for server in servers] == [2, 2, 2]
            servers[1].may.set()
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*[task for n, task in enumerate(first) if n % 3 == 1])
            for _ in range(3):
                await balancer(request(), None)
            assert [len(server.calls) for server in servers] == [2, 5, 2]
            for server in servers:
                server.may.set()

    asyncio.run(run())


def test_idle_servers_take_turns() -> None:
    """Where as many calls are under way, the one that was not asked for longest is asked; an
    answer says whose it is, and the request says it to the server's handler."""
    clock, servers = FakeClock(), [Scripted(), Scripted(), Scripted()]

    async def run() -> None:
        balancer = make(clock, *servers)
        for _ in range(6):
            await balancer(request(), None)

    clock.run(run())
    assert asked(servers) == "2 2 2"
    assert [server.calls[0].target.base_url for server in servers] == list(URLS)


def late() -> CallError:
    """No connection was made in time."""
    return CallTimeout("no connection", ambiguous=False)


@pytest.mark.parametrize("unsent", [refused, late])
def test_an_unsent_call_goes_on_within_its_attempt(unsent: Callable[[], CallError]) -> None:
    """A server without a connection costs the call no attempt; it is left out at once, looked at
    again by one call when its time is over, and then gets calls as before; people are told."""
    clock, told = FakeClock(), list[str]()
    servers = [Scripted(unsent(), unsent(), response()), Scripted()]

    async def run() -> None:
        balancer = make(clock, *servers, told=told)
        for _ in range(10):
            await balancer(request(), None)
        assert asked(servers) == "1 10"
        await clock.sleep(60)
        for _ in range(10):
            await balancer(request(), None)
        assert asked(servers) == "2 20"
        await clock.sleep(60)
        for _ in range(10):
            await balancer(request(), None)
        assert asked(servers) == "7 25"

    clock.run(run())
    assert told == [
        "the server a:8000 is left out for 60 s (no connection)",
        "the server a:8000 is back",
    ]


def test_the_next_attempt_is_made_at_another_server() -> None:
    """A call that broke is not asked again of the same server, though it is the idler one; its
    failure is no outage, and its server's pause not the profile's."""
    clock = FakeClock()
    servers = [Scripted(ServerFailed("boom", retry_after=30.0), response()), Scripted()]

    async def run() -> None:
        balancer = make(clock, *servers)
        with pytest.raises(ServerFailed) as caught:
            await balancer(request(), None)
        assert (caught.value.others_up, caught.value.retry_after) == (True, None)
        assert caught.value.target.origin == "http://a:8000"
        await balancer(request(call_id="another"), None)  # which makes `a` the next one
        await balancer(request(), None)

    clock.run(run())
    assert asked(servers) == "1 2"


def test_a_server_that_fails_is_left_out_by_the_policy() -> None:
    """One failure may be the row's; two in a row leave the server out. What says nothing of it, or
    is a refused key, does not. The profile's own circuit, which one failure would open, stays
    closed: others are in service."""
    clock = FakeClock()
    failures = [BadResponse("?"), AuthFailed("no"), *[ServerFailed("boom") for _ in range(9)]]
    servers = [Scripted(*failures), Scripted()]

    async def run() -> None:
        health = ProviderHealth(BreakerPolicy(failures=1), clock, "p", patient=False)
        handler = circuit_breaker(make(clock, *servers), health)
        for number in range(30):
            try:
                await handler(request(call_id=str(number)), None)
            except CallError:
                continue

    clock.run(run())
    assert asked(servers) == "4 26"


def test_when_all_are_down_it_is_the_profiles_outage() -> None:
    """Every server is tried once; later calls meet one of them, and their errors count."""
    clock = FakeClock()
    servers = [Scripted(*[refused() for _ in range(9)]) for _ in URLS]
    errors = list[CallError]()

    async def run() -> None:
        balancer = make(clock, *servers)
        for _ in range(3):
            with pytest.raises(ConnectionFailed) as caught:
                await balancer(request(), None)
            errors.append(caught.value)

    clock.run(run())
    assert sum(len(server.calls) for server in servers) == 3 + 1 + 1
    assert not any(error.others_up for error in errors)


def test_an_outage_ends_with_the_first_server_that_is_back() -> None:
    """When the time of all is over, the failure of one is no news of the others: the next attempt
    finds the one that is back."""
    clock = FakeClock()
    failures = [ServerFailed("boom") for _ in range(5)]
    servers = [Scripted(*failures[:4], response()), Scripted(refused(), failures[4])]

    async def run() -> None:
        balancer = make(clock, *servers)
        for number in range(4):
            with pytest.raises(CallError):
                await balancer(request(call_id=str(number)), None)
        await clock.sleep(60)
        with pytest.raises(ServerFailed) as caught:
            await balancer(request(), None)
        assert caught.value.others_up
        assert (await balancer(request(), None)).text == "hi"

    clock.run(run())


def test_a_call_that_is_given_up_leaves_no_trace() -> None:
    """A cancelled call no longer counts as under way, and says nothing of its server; neither does
    a cancelled look at one that was left out."""

    async def run() -> None:
        clock, held, other = FakeClock(), Held(), Scripted()
        balancer = LoadBalancer({URLS[0]: held, URLS[1]: other}, POLICY, clock, lambda _: None)
        for _ in range(3):
            task = asyncio.create_task(balancer(request(), None))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await balancer(request(), None)
        assert (len(held.calls), len(other.calls)) == (3, 3)

    asyncio.run(run())
