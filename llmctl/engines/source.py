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
    many at a time. The worker that draws waits meanwhile; others go on. Once `stopped` nothing
    is drawn. `prepare` is called before the first request is: it may take a while, and is not
    needed where all answers are kept."""

    def __init__(
        self,
        requests: Iterable[Request],
        handler: Chain,
        stopped: Callable[[], bool],
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._requests = iter(requests)
        self._handler = handler
        self._stopped = stopped
        self._prepare = prepare
        self._ready: deque[Request] = deque()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def draw(self) -> Request | None:
        """The next request that must be asked; None when there is none left. Raises what
        dealing with the others raises."""
        while not self._ready:
            async with self._slots:
                if self._stopped():
                    return None
                if self._ready:
                    break
                chunk = list(islice(self._requests, _CHUNK))
                if not chunk:
                    return None
                answered, rest = self._handler.take(chunk)
                self._ready.extend(rest)
                if answered:
                    await self._handler.deal(answered)
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        return None if self._stopped() else self._ready.popleft()

    def rest(self) -> Iterator[Request]:
        """What has not been drawn."""
        return chain(self._ready, self._requests)
