"""Requests as an engine draws them: what has a kept answer is dealt with on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from llmctl.clock import Clock
from llmctl.engines.ahead import Ahead
from llmctl.engines.lot import Lot
from llmctl.protocols import Chain
from llmctl.types import Request

_CHUNK = 512
"""Requests looked up together, and claimed together, at the most."""

_BITE = 128
"""Requests looked up together where most must be asked: making them takes the time of many a
reply, which waits meanwhile."""

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
    many at a time. The worker that draws waits meanwhile; others go on. A lot of the others is
    claimed together, the next one when half of it is drawn: a worker that finds none waits for
    the disk, and all others behind it. A lot is `ahead` requests or, by `clock`, so many more
    that it lasts a while. Once `stopped` nothing is drawn. `prepare` is called before the first
    request is: it may take a while, and is not needed where all answers are kept. Whoever draws
    says `close` in the end."""

    def __init__(
        self,
        requests: Iterable[Request],
        handler: Chain,
        stopped: Callable[[], bool],
        prepare: Callable[[], None] | None = None,
        ahead: int = 1,
        clock: Clock | None = None,
    ) -> None:
        self._requests = iter(requests)
        self._handler = handler
        self._stopped = stopped
        self._prepare = prepare
        first = min(ahead, _CHUNK)
        self._lot = Lot(first, least=first, most=_CHUNK, clock=clock)
        self._bite = min(_BITE, _CHUNK)
        self._unkept: deque[Request] = deque()
        self._ready: deque[Request] = deque()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._claiming = asyncio.Lock()
        self._refilling = Ahead()
        self._exhausted = False

    @property
    def ready(self) -> bool:
        """Whether `draw` returns at once."""
        return bool(self._ready)

    async def draw(self) -> Request | None:
        """The next request that must be asked; None when there is none left. Raises what
        dealing with the others raises."""
        while not self._ready:
            self._refilling.check()
            if self._stopped():
                return None
            if not await self._more():
                return None
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        if self._stopped():
            return None
        drawn = self._ready.popleft()
        done = (self._exhausted and not self._unkept) or self._refilling.failed
        if not done and len(self._ready) * 2 <= self._lot.size:
            self._refilling.start(self._refill)
        return drawn

    async def _more(self) -> bool:
        """Return when there may be some to draw; False when there will be none."""
        if self._unkept or (not self._exhausted and await self._look()):
            await self._claim()
        elif self._refilling.busy:
            await self._refilling.wait()
        elif self._claiming.locked():  # by another worker, and there may be some for this one
            await self._claim()
        else:
            return bool(self._ready)
        return True

    async def close(self) -> None:
        """Return when nothing goes on any more in what was read. Raises what reading ahead did
        and no draw has."""
        await self._refilling.close()

    async def _refill(self) -> None:
        """See to it that the next requests are ready before they are drawn."""
        self._lot.begin()
        if await self._look(ahead=True):
            await self._claim(ahead=True)

    async def _look(self, *, ahead: bool = False) -> bool:
        """Look up requests until one must be asked, or `ahead` of those that are ready a whole
        lot; False when there is none left."""
        wanted = self._lot.size if ahead else 1

        def enough() -> bool:
            return len(self._unkept) >= wanted or (bool(self._ready) and not ahead)

        while not enough():
            async with self._slots:
                if self._stopped():
                    return False
                if enough():
                    break
                chunk = list(islice(self._requests, self._bite))
                if not chunk:
                    self._exhausted = True
                    return bool(self._unkept)
                answered, rest = self._handler.take(chunk)
                self._unkept.extend(rest)
                few = len(rest) > len(answered)
                self._bite = min(_BITE if few else 2 * self._bite, _CHUNK)
                if answered:
                    await self._handler.deal(answered)
            if ahead:
                await asyncio.sleep(0)  # others have something to do, too
        return True

    async def _claim(self, *, ahead: bool = False) -> None:
        """Claim a lot, unless another worker has, or `ahead` of those that are ready."""
        async with self._claiming:
            if (self._ready and not ahead) or not self._unkept:
                return
            if not ahead:
                self._lot.begin()
            lot = [self._unkept.popleft() for _ in range(min(self._lot.size, len(self._unkept)))]
            try:
                await self._handler.claim(lot)
            except BaseException:
                self._unkept.extendleft(reversed(lot))
                raise
            self._ready.extend(lot)

    def rest(self) -> Iterator[Request]:
        """What has not been drawn."""
        return chain(self._ready, self._unkept, self._requests)
