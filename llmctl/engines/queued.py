"""Requests that are got ready many at a time, just before they are drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from llmctl.clock import Clock
from llmctl.engines.ahead import Ahead
from llmctl.engines.lot import Lot
from llmctl.engines.source import Sifted
from llmctl.protocols import Chain
from llmctl.types import Request

_LEAST, _MOST = 8, 128
"""Requests in a lot. As many more may be ready: what is on record for them counts as spent until
they are made, and as in doubt when the process is killed."""


class Queued:
    """The requests of `source`, in their order, a lot of them prepared by `handler` while those of
    the lot before it are drawn by `workers`. Once `stopped` nothing is drawn. Whoever draws says
    `close` in the end."""

    def __init__(
        self,
        source: Sifted,
        handler: Chain,
        stopped: Callable[[], bool],
        workers: int,
        clock: Clock,
    ) -> None:
        self._source = source
        self._handler = handler
        self._stopped = stopped
        self._lot = Lot(min(workers, _MOST), least=min(workers, _LEAST), most=_MOST, clock=clock)
        self._ready: deque[Request] = deque()
        self._filling = Ahead()
        self._exhausted = False

    async def draw(self) -> Request | None:
        """The next request; None when there is none left. Raises what getting them ready does."""
        while not self._ready:
            self._filling.check()
            if self._exhausted or self._stopped():
                return None
            self._filling.start(self._fill)
            await self._filling.wait()
        if self._stopped():
            return None
        drawn = self._ready.popleft()
        if len(self._ready) <= self._lot.size and not (self._exhausted or self._filling.failed):
            self._filling.start(self._fill)
        return drawn

    async def _fill(self) -> None:
        """Get the next lot ready."""
        self._lot.begin()
        lot: list[Request] = []
        try:
            while len(lot) < self._lot.size and (self._source.ready or not lot):
                drawn = await self._source.draw()
                if drawn is None:
                    self._exhausted = True
                    break
                lot.append(drawn)
            if lot:
                await self._handler.prepare(lot)
        finally:
            self._ready.extend(lot)

    async def close(self) -> None:
        """Return when nothing goes on any more in what is read. Raises what getting ready did and
        no draw has."""
        await self._filling.close()
        await self._source.close()

    def rest(self) -> Iterator[Request]:
        """What has not been drawn."""
        return chain(self._ready, self._source.rest())
