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
    are claimed together, the next ones when half of them are drawn: a worker that finds none
    waits for the disk, and all others behind it. Once `stopped` nothing is drawn. `prepare` is
    called before the first request is: it may take a while, and is not needed where all answers
    are kept. Whoever draws says `close` in the end."""

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
        self._refilling: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._heard = False
        self._exhausted = False

    async def draw(self) -> Request | None:
        """The next request that must be asked; None when there is none left. Raises what
        dealing with the others raises."""
        while not self._ready:
            self._check()
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
        done = self._exhausted or self._failure is not None or self._refilling is not None
        if not done and len(self._ready) * 2 <= self._ahead:
            self._refilling = asyncio.ensure_future(self._refill())
        return drawn

    async def _more(self) -> bool:
        """Return when there may be some to draw; False when there will be none."""
        if self._unkept or (not self._exhausted and await self._look()):
            await self._claim()
        elif self._refilling is not None:
            await asyncio.wait((self._refilling,))
        elif self._claiming.locked():  # by another worker, and there may be some for this one
            await self._claim()
        else:
            return bool(self._ready)
        return True

    async def close(self) -> None:
        """Return when nothing goes on any more in what was read. Raises what reading ahead did
        and no draw has."""
        if self._refilling is not None:
            await asyncio.wait((self._refilling,))
        if not self._heard:
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            self._heard = True
            raise self._failure

    async def _refill(self) -> None:
        """See to it that the next requests are ready before they are drawn."""
        try:
            if await self._look(ahead=True):
                await self._claim(ahead=True)
        except Exception as error:  # noqa: BLE001 - whoever draws next raises it
            self._failure = error
        finally:
            self._refilling = None

    async def _look(self, *, ahead: bool = False) -> bool:
        """Look up requests until one must be asked, or `ahead` of those that are ready another
        one; False when there is none left."""
        while not (self._unkept or (self._ready and not ahead)):
            async with self._slots:
                if self._stopped():
                    return False
                if self._unkept or (self._ready and not ahead):
                    break
                chunk = list(islice(self._requests, _CHUNK))
                if not chunk:
                    self._exhausted = True
                    return False
                answered, rest = self._handler.take(chunk)
                self._unkept.extend(rest)
                if answered:
                    await self._handler.deal(answered)
        return True

    async def _claim(self, *, ahead: bool = False) -> None:
        """Claim a lot, unless another worker has, or `ahead` of those that are ready."""
        async with self._claiming:
            if (self._ready and not ahead) or not self._unkept:
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
