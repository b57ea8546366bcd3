"""Requests as an engine draws them: what has a kept answer is dealt with on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from llmctl.protocols import Chain
from llmctl.types import Request

_CHUNK = 512
"""Requests looked up together. So many are read ahead, at the most."""

_AT_ONCE = 4
"""Chunks of kept answers on their way to the disk: it may be slow, memory must not fill up."""


class Plain:
    """Requests just as they come."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)

    async def draw(self) -> Request | None:
        """The next request; None when there is none left."""
        return next(self._requests, None)


class Sifted:
    """Requests of which those with a kept answer are never drawn: `handler` deals with them,
    many at a time. The worker that draws waits meanwhile; others go on. `ahead` of the others
    are claimed together. Once `stopped` nothing is drawn. `prepare` is called before the first
    request is: it may take a while, and is not needed where all answers are kept."""

    def __init__(
        self,
        requests: Iterable[Request],
        handler: Chain,
        stopped: Callable[[], bool],
        prepare: Callable[[], None] | None = None,
        ahead: int = 1,
    ) -> None:
        self._requests = iter(requests)
        self._handler = handler
        self._stopped = stopped
        self._prepare = prepare
        self._ahead = min(ahead, _CHUNK)
        self._unkept: deque[Request] = deque()
        self._ready: deque[Request] = deque()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._claiming = asyncio.Lock()

    async def draw(self) -> Request | None:
        """The next request that must be asked; None when there is none left. Raises what
        dealing with the others raises."""
        while not self._ready:
            if self._stopped() or not (self._unkept or await self._look()):
                return None
            await self._claim()
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        return None if self._stopped() else self._ready.popleft()

    async def _look(self) -> bool:
        """Look up requests until one must be asked; False when there is none left."""
        while not (self._unkept or self._ready):
            async with self._slots:
                if self._stopped():
                    return False
                if self._unkept or self._ready:
                    break
                chunk = list(islice(self._requests, _CHUNK))
                if not chunk:
                    return False
                answered, rest = self._handler.take(chunk)
                self._unkept.extend(rest)
                if answered:
                    await self._handler.deal(answered)
        return True

    async def _claim(self) -> None:
        async with self._claiming:
            if self._ready or not self._unkept:
                return
            lot = [self._unkept.popleft() for _ in range(min(self._ahead, len(self._unkept)))]
            try:
                await self._handler.claim(lot)
            except BaseException:
                self._unkept.extendleft(reversed(lot))
                raise
            self._ready.extend(lot)

    def rest(self) -> Iterator[Request]:
        """What has not been drawn."""
        return chain(self._ready, self._unkept, self._requests)
