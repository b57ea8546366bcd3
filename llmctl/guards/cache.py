"""Answers once given are given again; identical requests in flight become one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import orjson
from msgspec.structs import replace

from llmctl.cancellation import CancelledAfterSending
from llmctl.clock import Clock
from llmctl.errors import CallError, LlmctlError
from llmctl.guards.claims import Claims
from llmctl.protocols import CachedAnswer, CacheStore, Emit, Handler
from llmctl.types import Finish, Request, Response

_COMPLETE: frozenset[Finish] = frozenset({"stop", "tool_calls"})


class Cache:
    """Keyed by the request's fingerprint. Only complete answers are kept.

    `ttl`: seconds an answer may be reused, None for ever. `patience`: seconds to wait for an
    answer that another process is getting, on the clock `waiting`. A store that fails is told to
    `warn` once and not written to any more: an answer that was paid for is never lost to it.
    """

    def __init__(
        self,
        inner: Handler,
        store: CacheStore,
        clock: Clock,
        warn: Callable[[str], None],
        ttl: float | None = None,
        patience: float = 600.0,
        waiting: Clock | None = None,
    ) -> None:
        self._inner = inner
        self._store = store
        self._clock = clock
        self._ttl = ttl
        self._warn = warn
        self._writes = True
        self._flights: dict[str, asyncio.Future[Response]] = {}
        self._claims = Claims(store, clock, patience, waiting)

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The kept answer, the answer of an identical request in flight, or a new one."""
        if request.cache_mode == "bypass":
            return replace(await self._inner(request, emit), cache="bypass")
        key = request.fingerprint
        while True:
            flight = self._flights.get(key)
            if flight is None and not self._claims.has(key):
                kept = self._kept(request)
                if kept is not None:
                    return _deliver(kept, emit)
            if flight is None:
                return await self._lead(request, emit)
            try:
                shared = await asyncio.shield(flight)
            except CallError as error:
                raise error.unbilled() from error
            except asyncio.CancelledError:
                if not flight.cancelled():
                    raise
                continue  # whoever led was cancelled, this request was not: it goes itself
            return _deliver(replace(shared, cache="shared", attempts=0, uncertain=0), emit)

    def kept(self, requests: Sequence[Request]) -> list[Response | None]:
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

    def give_back(self) -> None:
        """What was claimed and not made is anybody's again."""
        self._claims.give_back()

    async def _lead(self, request: Request, emit: Emit | None) -> Response:
        """Get the answer for all who want it now, in this process and, by a claim, in others."""
        key = request.fingerprint
        flight: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            response = await self._first(request, emit)
        except CallError as error:
            flight.set_exception(error)
            flight.exception()  # nobody may be waiting; that is no mistake
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(response)
            return response
        finally:
            del self._flights[key]

    async def _first(self, request: Request, emit: Emit | None) -> Response:
        if request.cache_mode != "use" or not self._writes:
            response = await self._inner(request, emit)
            await self._keep(request, response)
            return response
        key, kept = request.fingerprint, False
        try:
            found = await self._claims.begin(key, lambda: self._kept(request))
        except CallError:  # the run is to end
            raise
        except LlmctlError as error:
            self._give_up(error)
        else:
            if found is not None:
                return _deliver(found, emit)
        try:
            response = await self._inner(request, emit)
            kept = await self._keep(request, response)
        finally:
            self._claims.end(key, kept=kept)
        return response

    def _kept(self, request: Request) -> Response | None:
        if request.cache_mode != "use":
            return None
        return self._hit(request, self._store.get(request.fingerprint), self._clock.wall())

    def _hit(self, request: Request, kept: CachedAnswer | None, now: float) -> Response | None:
        if kept is None or (self._ttl is not None and now - kept.stored > self._ttl):
            return None
        return Response(
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

    async def _keep(self, request: Request, response: Response) -> bool:
        """Keep it if it may be; True when it is."""
        if response.finish not in _COMPLETE or not self._writes:
            return False
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
        try:
            await self._store.put(request.fingerprint, answer)
        except LlmctlError as error:
            self._give_up(error)
            return False
        except asyncio.CancelledError as stop:
            # The answer is paid for: this is not a call that was never sent.
            raise CancelledAfterSending(
                attempts=response.attempts, uncertain=response.uncertain + 1
            ) from stop
        return True

    def _give_up(self, error: LlmctlError) -> None:
        if self._writes:
            self._writes = False
            self._warn(f"answers are no longer cached: {error.message}")


def _deliver(answer: Response, emit: Emit | None) -> Response:
    if emit is not None:
        emit(answer.text)
    return answer
