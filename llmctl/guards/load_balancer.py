"""Load balancer: a profile's servers share its calls, by how many are under way at each.

A server that is down is left out, by a circuit of its own, until a call finds that it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import BreakerPolicy
from llmctl.errors import CallError, CallTimeout, ConnectionFailed
from llmctl.guards.circuit_breaker import CallPermit, Circuit, verdict
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request

_REMEMBERED = 10_000  # calls whose last attempt broke


class _Server:
    """One server; `turn` is the number of the attempt that it was last chosen for."""

    def __init__(self, url: str, handler: Handler, policy: BreakerPolicy) -> None:
        self.url, self.handler = url, handler
        self.circuit = Circuit(policy)
        self.under_way = self.turn = 0
        self.left_out = False

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def may_serve(self, now: float) -> bool:
        """Whether it is in service, or it is time to find out."""
        state = self.circuit.state
        return state == "closed" or (state == "open" and not self.circuit.wait(now))


class LoadBalancer:
    """A `Handler` that makes one attempt at one of several `servers`, handlers by their addresses.

    It asks the server with the fewest calls under way here; of several, the one that was not asked
    for longest. A server to which no connection can be made is left out at once, one that fails by
    `policy`, which also says for how long; then one call finds out whether it is back. A call that
    was not sent, because there was no connection, goes to the next server within the same attempt.
    One that broke goes to another server in its next attempt. Where all are left out, the one that
    was left out first is asked: that the profile is down is for its own circuit breaker to say.
    `warn` gets a sentence when a server is left out, and when it is back.
    """

    def __init__(
        self,
        servers: Mapping[str, Handler],
        policy: BreakerPolicy,
        clock: Clock,
        warn: Callable[[str], None],
    ) -> None:
        self._servers = [_Server(url, handler, policy) for url, handler in servers.items()]
        self._open_for = policy.open_for
        self._clock, self._warn = clock, warn
        self._turns = 0
        self._broke: dict[str, _Server] = {}  # by call id: where its last attempt broke

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """One attempt. Raises as the servers' handlers do."""
        broke = self._broke.pop(request.call_id, None)
        tried: list[_Server] = []
        failure: CallError | None = None
        while (chosen := self._choose(tried, broke)) is not None:
            server, permit = chosen
            tried.append(server)
            try:
                return await self._ask(server, permit, request, emit)
            except CallError as error:
                if not _is_unsent(error):
                    raise
                failure = error
        assert failure is not None  # there is a server, and it has been tried
        raise failure

    def _choose(
        self, tried: list[_Server], broke: _Server | None
    ) -> tuple[_Server, CallPermit | None] | None:
        """A server that is not `tried`, and leave to ask it; without leave where all are left out.
        None: there is no other one."""
        now = self._clock.monotonic()
        others = [server for server in self._servers if server not in tried]
        for server in sorted(others, key=lambda one: (one is broke, one.under_way, one.turn)):
            if (permit := server.circuit.acquire(now)) is not None:
                return server, permit
        return None if tried else (min(others, key=lambda one: one.circuit.wait(now)), None)

    async def _ask(
        self, server: _Server, permit: CallPermit | None, request: Request, emit: Emit | None
    ) -> Answer:
        self._turns += 1
        server.turn = self._turns
        server.under_way += 1
        target = replace(request.target, base_url=server.url)
        try:
            answer = await server.handler(replace(request, target=target), emit)
        except BaseException as error:
            self._ended(server, permit, error)
            if isinstance(error, CallError):
                error.target = target
                self._remember(request, server, error)
            raise
        finally:
            server.under_way -= 1
        self._ended(server, permit, None)
        return answer

    def _ended(
        self, server: _Server, permit: CallPermit | None, error: BaseException | None
    ) -> None:
        """How an attempt at a server went; None for an answer."""
        now, circuit = self._clock.monotonic(), server.circuit
        said = verdict(error, probe=permit is not None and permit.probe)
        if said is False and _is_unsent(error):
            circuit.open(now)
        elif permit is not None:
            circuit.end(permit, now, ok=said)
        if server.left_out != (circuit.state != "closed"):
            server.left_out = not server.left_out
            self._warn(
                f"the server {server.name} is left out for {self._open_for:g} s ({error})"
                if server.left_out
                else f"the server {server.name} is back"
            )
        if said is False and isinstance(error, CallError):
            error.others_up = any(one.may_serve(now) for one in self._servers)
            if error.others_up:  # which need no pause
                error.retry_after = None

    def _remember(self, request: Request, server: _Server, error: CallError) -> None:
        """Its next attempt, if there is one, is made at another server."""
        if error.retryable:
            self._broke[request.call_id] = server
            if len(self._broke) > _REMEMBERED:
                del self._broke[next(iter(self._broke))]


def _is_unsent(error: BaseException | None) -> bool:
    """Whether there was no connection that the call could be sent on."""
    return isinstance(error, ConnectionFailed | CallTimeout) and not error.ambiguous
