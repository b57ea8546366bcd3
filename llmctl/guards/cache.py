"""Answer cache: kept answers are given again, and identical requests in flight become one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from llmctl import schemas
from llmctl.clock import Clock
from llmctl.errors import BudgetRefused, CallError, DataRefused, LlmctlError
from llmctl.protocols import AnswerCache, CachedAnswer, Emit, Handler
from llmctl.types import Answer, CacheState, Request, StreamChunk

# Seconds between two looks for an answer that another process is getting, and their growth.
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.05, 0.25, 1.5
_SKEW = 60.0  # seconds that the clock may have been ahead which an answer was kept by
_BEAT = 10.0  # seconds between two signs of life to the other processes


class Cache:
    """The guard: answers from the cache, and one call a question, in all processes.

    Only complete answers are kept, by the request's `answer_key`, in the background until `close`:
    a paid answer waits for no cache. `ttl`: seconds an answer may be reused, None for ever. What
    another living process is getting is waited for, on the clock `waiting`, however long that takes
    it: its rate limit may. `looked_up`: requests come after a look (`kept_answers`). A store that
    fails is told to `warn` once and used no more.
    """

    def __init__(
        self,
        inner: Handler,
        store: AnswerCache,
        clock: Clock,
        warn: Callable[[str], None],
        ttl: float | None = None,
        waiting: Clock | None = None,
        *,
        looked_up: bool = False,
    ) -> None:
        self._inner, self._store, self._clock, self._warn = inner, store, clock, warn
        self._ttl, self._waiting = ttl, waiting or clock
        self._looked_up, self._failed = looked_up, False
        self._flights: dict[str, asyncio.Future[Answer]] = {}
        self._claimed: set[str] = set()
        self._beating: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The kept answer, the answer of an identical request in flight, or a new one."""
        if request.cache_mode == "bypass":
            return replace(await self._inner(request, emit), cache="bypass")
        while True:
            flight = self._flights.get(request.answer_key)
            if flight is None or (flight.done() and request.cache_mode == "refresh"):
                return await self._lead(request, emit)
            how: CacheState = "hit" if flight.done() else "shared"
            try:
                shared = await asyncio.shield(flight)
            except (BudgetRefused, DataRefused):
                continue  # the leader's budget and tags need not be this request's: it goes itself
            except CallError as error:
                raise error.unbilled() from error
            except asyncio.CancelledError:
                if not flight.cancelled():
                    raise
                continue  # the leader was cancelled, this request was not: it goes itself
            how = shared.cache if shared.cache in {"hit", "semantic"} else how
            shared = replace(shared, cache=how, attempts=0, uncertain=0, limited=0, earlier=())
            return deliver(shared, emit)

    async def close(self) -> None:
        """Return when every answer is kept."""
        while self._background:
            await asyncio.wait(self._background)
        if self._beating is not None:
            self._beating.cancel()

    async def _lead(self, request: Request, emit: Emit | None) -> Answer:
        """Get the answer for all requests of this process that want it now."""
        key = request.answer_key
        flight: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            kept = None
            if request.cache_mode == "use" and not self._failed:
                try:
                    kept = None if self._looked_up else await self._find(request)
                    kept = kept or await self._claim(request)
                except LlmctlError as error:
                    self._give_up(error)
            answer = await self._inner(request, emit) if kept is None else deliver(kept, emit)
        except BaseException as error:
            self._land(key, flight)
            if isinstance(error, CallError):
                flight.set_exception(error)
                flight.exception()  # nobody may be waiting; that is no mistake
            else:
                flight.cancel()
            raise
        flight.set_result(answer)
        # What answers a prompt that was cut is no answer to the whole one, which is the key.
        complete = answer.finish in {"stop", "tool_calls"} and not answer.cut
        if answer.cache == "miss" and complete and not self._failed:
            self._start(self._keep(request, answer, flight))
        else:
            self._land(key, flight)
        return answer

    async def _claim(self, request: Request) -> Answer | None:
        """The answer of another process, once that has it; None when it is this one's turn."""
        key = request.answer_key
        pause = _FIRST_PAUSE
        self._claimed.add(key)  # a claim that is given up half-way may have gone through
        while (claim := await self._store.claim(key)) == "theirs":
            await self._waiting.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)
            if found := await self._find(request):
                self._claimed.discard(key)
                return replace(found, cache="shared")
        self._beating = self._beating or asyncio.create_task(self._beat())
        # The process that had the claim until a moment ago may have kept the answer.
        found = await self._find(request) if claim == "kept" else None
        return found and (found if pause == _FIRST_PAUSE else replace(found, cache="shared"))

    async def _find(self, request: Request) -> Answer | None:
        kept = await self._store.get(request.answer_key)
        return answer_of(request, kept, self._clock.wall(), self._ttl)

    async def _keep(self, request: Request, answer: Answer, flight: asyncio.Future[Answer]) -> None:
        """Until it is kept, identical requests get the answer of the flight."""
        key = request.answer_key
        kept = CachedAnswer(
            answer.text, answer.finish, answer.model, answer.usage, answer.reported_cost,
            answer.body, self._clock.wall(), request.target.model,
            answer.tool_calls, answer.citations, answer.beyond_text,
        )  # fmt: skip
        try:
            await self._store.put(key, kept)
            self._claimed.discard(key)  # `put` has ended it
        finally:
            self._land(key, flight)

    def _land(self, key: str, flight: asyncio.Future[Answer]) -> None:
        """The flight is over; a claim that `put` did not end is given back."""
        if self._flights.get(key) is flight:
            del self._flights[key]
            if key in self._claimed:
                self._claimed.discard(key)
                self._start(self._store.release(key))

    async def _beat(self) -> None:
        while self._claimed:
            await self._clock.sleep(_BEAT)
            if self._claimed:
                with suppress(LlmctlError):
                    await self._store.beat()
        self._beating = None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work in the background."""

        async def do() -> None:
            try:
                await work
            except LlmctlError as error:
                self._give_up(error)

        task = asyncio.create_task(do())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _give_up(self, error: LlmctlError) -> None:
        """Use the store, which failed, no more."""
        if isinstance(error, CallError):  # the run is to end
            raise error
        if not self._failed:
            self._failed = True
            self._warn(f"answers are no longer cached: {error.message}")


def answer_of(
    request: Request, kept: CachedAnswer | None, now: float, ttl: float | None
) -> Answer | None:
    """The request's answer as it was kept; None where it is older than `ttl` seconds, a clock that
    was ahead has kept it (nobody knows how old it is), or it was kept without what makes it one."""
    if kept is None or (ttl is not None and not -_SKEW <= now - kept.stored <= ttl):
        return None
    if request.wants_body and kept.body is None:
        return None  # it was streamed
    has_text, bare = bool(kept.text.strip()), request.raw is None and not kept.beyond_text
    if bare and not kept.tool_calls and (not has_text or kept.finish == "tool_calls"):
        return None
    parsed = schemas.value(kept.text) if request.schema is not None and has_text else None
    return Answer(
        kept.text, kept.usage, request.target, kept.finish, kept.model, kept.body,
        cache="hit", attempts=0, reported_cost=kept.cost, parsed=parsed,
        tool_calls=kept.tool_calls, citations=kept.citations, beyond_text=kept.beyond_text,
    )  # fmt: skip


async def kept_answers(
    store: AnswerCache, requests: Sequence[Request], now: float, ttl: float | None
) -> list[Answer | None]:
    """The kept answers of a page of requests, in their order; None for what must be asked. The one
    place that looks up many at a time: so a file of kept rows passes at over 5,000 rows/s."""
    keys = [r.answer_key for r in requests if r.cache_mode == "use"]
    try:
        found = await store.get_many(keys) if keys else {}
    except LlmctlError:  # the guard meets it too, and warns
        found = {}
    return [
        answer_of(r, found.get(r.answer_key) if r.cache_mode == "use" else None, now, ttl)
        for r in requests
    ]


def deliver(answer: Answer, emit: Emit | None) -> Answer:
    """The answer, whose text goes to `emit` in one piece."""
    if emit is not None:
        emit(StreamChunk(answer.text))
    return answer
