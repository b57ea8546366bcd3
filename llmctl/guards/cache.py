"""Answers once given are given again; identical requests in flight become one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import orjson

from llmctl.clock import Clock
from llmctl.errors import CallError, LlmctlError
from llmctl.protocols import CachedAnswer, CacheStore, Emit, Handler
from llmctl.types import Finish, Request, Response

_COMPLETE: frozenset[Finish] = frozenset({"stop", "tool_calls"})


class Cache:
    """Keyed by the request's fingerprint. Only complete answers are kept.

    `ttl`: seconds an answer may be reused, None for ever. A store that fails is told to `warn`
    once and not written to any more: an answer that was paid for is never lost to it.
    """

    def __init__(
        self,
        inner: Handler,
        store: CacheStore,
        clock: Clock,
        warn: Callable[[str], None],
        ttl: float | None = None,
    ) -> None:
        self._inner = inner
        self._store = store
        self._clock = clock
        self._ttl = ttl
        self._warn = warn
        self._writes = True
        self._flights: dict[str, asyncio.Future[Response]] = {}

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The kept answer, the answer of an identical request in flight, or a new one."""
        if request.cache_mode == "bypass":
            return replace(await self._inner(request, emit), cache="bypass")
        key = request.fingerprint
        while True:
            if request.cache_mode == "use":
                kept = self._kept(request)
                if kept is not None:
                    return _deliver(kept, emit)
            flight = self._flights.get(key)
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

    async def _lead(self, request: Request, emit: Emit | None) -> Response:
        key = request.fingerprint
        flight: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            response = replace(await self._inner(request, emit), cache="miss")
            await self._keep(key, response)
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

    def _kept(self, request: Request) -> Response | None:
        kept = self._store.get(request.fingerprint)
        if kept is None:
            return None
        if self._ttl is not None and self._clock.wall() - kept.stored > self._ttl:
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

    async def _keep(self, key: str, response: Response) -> None:
        if response.finish not in _COMPLETE or not self._writes:
            return
        answer = CachedAnswer(
            text=response.text,
            finish=response.finish,
            model=response.model,
            usage=response.usage,
            cost=response.reported_cost,
            body=response.body,
            stored=self._clock.wall(),
        )
        try:
            await self._store.put(key, answer)
        except LlmctlError as error:
            if self._writes:
                self._writes = False
                self._warn(f"answers are no longer cached: {error.message}")


def _deliver(answer: Response, emit: Emit | None) -> Response:
    if emit is not None:
        emit(answer.text)
    return answer
