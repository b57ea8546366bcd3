"""What tests share: a clock that they move, and requests to send."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from msgspec.structs import replace

from llmctl.privacy.findings import IDENTIFIERS
from llmctl.privacy.requests import RequestMasker
from llmctl.protocols import Emit
from llmctl.types import Answer, Message, Request, StreamChunk, Target, Usage, fingerprint

T = TypeVar("T")
P = ParamSpec("P")

TARGET = Target(
    profile="test",
    provider="openai",
    adapter="openai",
    base_url="http://127.0.0.1:1/v1",
    model="gpt-5-mini",
)

_SPINS = 50


def done(begin: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """What comes of something that is begun in an event loop."""

    async def both() -> T:
        return await begin(*args, **kwargs)

    return asyncio.run(both())


class FakeClock:
    """A clock that stands still until every task waits; then it jumps to the next deadline."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.now = 1000.0
        self._offset = wall - self.now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self.now + self._offset

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait for the clock to be moved so far."""
        if seconds <= 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end, moving the clock whenever nothing else can happen."""
        return asyncio.run(self._drive(work))

    async def _drive(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(_SPINS):
                await asyncio.sleep(0)
            while not task.done() and self._sleepers:
                deadline, _, woken = heapq.heappop(self._sleepers)
                if not woken.done():
                    self.now = max(self.now, deadline)
                    woken.set_result(None)
                    break
        return task.result()


def request(text: str = "hello", **changes: Any) -> Request:
    """A request for `text`, with its fingerprint."""
    made = Request(id="a", target=TARGET, messages=(Message("user", text),), call_id="call-1")
    made = replace(made, **changes)
    return replace(made, fingerprint=fingerprint(made))


def response(text: str = "hi", **changes: Any) -> Answer:
    """An answer of `text`."""
    made = Answer(
        text=text, usage=Usage(input=3, output=2), target=TARGET, finish="stop", model="gpt-5-mini"
    )
    return replace(made, **changes)


class Scripted:
    """A handler that gives the scripted results in turn, the last one for ever."""

    def __init__(self, *results: Answer | BaseException) -> None:
        self._results = list(results) or [response()]
        self.calls: list[Request] = []

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The next result, raised if it is an error."""
        self.calls.append(request)
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, BaseException):
            raise result
        if emit is not None:
            emit(StreamChunk(result.text))
        return result


MASKER = RequestMasker(
    key=b"k" * 32,
    lasting=True,
    kinds=frozenset(IDENTIFIERS),
    action="mask",
    restores=True,
    profile="sim",
)
"""Masks all identifiers."""
