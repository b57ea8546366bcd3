"""Answers once given are given again; identical requests in flight become one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import orjson
from msgspec.structs import replace

from llmctl.behind import Behind
from llmctl.clock import Clock
from llmctl.errors import CallError, LlmctlError
from llmctl.guards.claims import Claims
from llmctl.protocols import CachedAnswer, CacheStore, Emit, Handler
from llmctl.types import Answer, CacheState, Finish, Request

_COMPLETE: frozenset[Finish] = frozenset({"stop", "tool_calls"})

Flight = asyncio.Future[Answer]
"""An answer on its way, and then until it is kept."""


class Cache:
    """Keyed by the request's fingerprint. Only complete answers are kept.

    `ttl`: seconds an answer may be reused, None for ever. `patience`: seconds to wait for an
    answer that another process is getting, on the clock `waiting`. Answers are kept `behind` the
    call. A store that fails is told to `warn` once and not written to any more: an answer that
    was paid for is never lost to it.
    """

    def __init__(
        self,
        inner: Handler,
        store: CacheStore,
        clock: Clock,
        warn: Callable[[str], None],
        behind: Behind,
        ttl: float | None = None,
        patience: float = 600.0,
        waiting: Clock | None = None,
    ) -> None:
        self._inner = inner
        self._store = store
        self._clock = clock
        self._ttl = ttl
        self._warn = warn
        self._behind = behind
        self._writes = True
        self._flights: dict[str, Flight] = {}
        self._claims = Claims(store, clock, patience, waiting)

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The kept answer, the answer of an identical request in flight, or a new one."""
        if request.cache_mode == "bypass":
            return replace(await self._inner(request, emit), cache="bypass")
        key = request.fingerprint
        while True:
            flight = self._flights.get(key)
            if flight is not None and flight.done() and request.cache_mode == "refresh":
                flight = None
            elif flight is None and not self._claims.has(key):
                kept = self._kept(request)
                if kept is not None:
                    return _deliver(kept, emit)
            if flight is None:
                return await self._lead(request, emit)
            how: CacheState = "hit" if flight.done() else "shared"
            try:
                shared = await asyncio.shield(flight)
            except CallError as error:
                raise error.unbilled() from error
            except asyncio.CancelledError:
                if not flight.cancelled():
                    raise
                continue  # whoever led was cancelled, this request was not: it goes itself
            return _deliver(replace(shared, cache=how, attempts=0, uncertain=0), emit)

    def kept(self, requests: Sequence[Request]) -> list[Answer | None]:
        """The kept answers of many requests, in their order; None for what must be asked."""
        asked = [r.fingerprint for r in requests if r.cache_mode == "use"]
        found = self._store.get_all(asked) if asked else {}
        now = self._clock.wall()
        return [
            self._hit(r, found.get(r.fingerprint), now) if r.cache_mode == "use" else None
            for r in requests
        ]

    async def claim(self, requests: Sequence[Request]) -> None:
        """These requests, for which there is no kept answer, are made next: claim them in one
        go. What fails here fails again, and is told, when each of them is made."""
        if self._writes:
            wanted = [r.fingerprint for r in requests if r.cache_mode == "use"]
            with contextlib.suppress(LlmctlError):
                await self._claims.ahead(wanted)

    def to_ask(self, requests: Sequence[Request]) -> list[Request]:
        """Those of the requests, which were claimed, that a provider will be asked, each only once;
        as far as that is known: another process may be at some of the others."""
        first: dict[str, Request] = {}
        for request in requests:
            key = request.fingerprint
            ours = request.cache_mode != "use" or not self._writes or self._claims.has(key)
            if ours and key not in self._flights:
                first.setdefault(key, request)
        return list(first.values())

    def give_back(self) -> None:
        """What was claimed and not made is anybody's again."""
        self._claims.give_back()

    async def _lead(self, request: Request, emit: Emit | None) -> Answer:
        """Get the answer for all who want it now, in this process and, by a claim, in others."""
        key = request.fingerprint
        flight: Flight = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            response = await self._first(request, emit, flight)
        except BaseException as error:
            self._land(key, flight)
            if isinstance(error, CallError):
                flight.set_exception(error)
                flight.exception()  # nobody may be waiting; that is no mistake
            else:
                flight.cancel()
            raise
        flight.set_result(response)
        return response

    async def _first(self, request: Request, emit: Emit | None, flight: Flight) -> Answer:
        """The answer of another process, or a new one."""
        if request.cache_mode == "use" and self._writes:
            key = request.fingerprint
            try:
                found = await self._claims.begin(key, lambda: self._kept(request))
            except CallError:  # the run is to end
                raise
            except LlmctlError as error:
                self._give_up(error)
            else:
                if found is not None:
                    self._land(key, flight)
                    return _deliver(found, emit)
        response = await self._inner(request, emit)
        self._keep(request, response, flight)
        return response

    def _land(self, key: str, flight: Flight, *, kept: bool = False) -> None:
        """Nobody is getting the answer any more: it is `kept`, or there is none."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        self._claims.end(key, kept=kept)

    def _kept(self, request: Request) -> Answer | None:
        if request.cache_mode != "use":
            return None
        return self._hit(request, self._store.get(request.fingerprint), self._clock.wall())

    def _hit(self, request: Request, kept: CachedAnswer | None, now: float) -> Answer | None:
        if kept is None or (self._ttl is not None and now - kept.stored > self._ttl):
            return None
        return Answer(
            text=kept.text,
            usage=kept.usage,
            target=request.target,
            finish=kept.finish,
            model=kept.model,
            body=kept.body,
            cache="hit",
            attempts=0,
            reported_cost=kept.cost,
            parsed=orjson.loads(kept.text) if request.schema is not None else None,
        )

    def _keep(self, request: Request, response: Answer, flight: Flight) -> None:
        """Keep it if it may be. Nobody waits for that: until it is kept, who asks the same gets
        the answer of this flight."""
        key = request.fingerprint
        if response.finish not in _COMPLETE or not self._writes:
            self._land(key, flight)
            return
        answer = CachedAnswer(
            text=response.text,
            finish=response.finish,
            model=response.model,
            usage=response.usage,
            cost=response.reported_cost,
            body=response.body,
            stored=self._clock.wall(),
            asked=request.target.model,
        )

        def kept(error: BaseException | None) -> None:
            self._land(key, flight, kept=error is None)
            if isinstance(error, LlmctlError):
                self._give_up(error)
            elif error is not None:
                raise error

        self._behind.add(self._store.put(key, answer), kept)

    def _give_up(self, error: LlmctlError) -> None:
        if self._writes:
            self._writes = False
            self._warn(f"answers are no longer cached: {error.message}")


def _deliver(answer: Answer, emit: Emit | None) -> Answer:
    if emit is not None:
        emit(answer.text)
    return answer
