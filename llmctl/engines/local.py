"""The engine of this machine: asyncio workers that share one stream of requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from llmctl.clock import Clock
from llmctl.engines.source import Plain
from llmctl.errors import CallError
from llmctl.inflight import InFlight
from llmctl.protocols import Handler, Source
from llmctl.shutdown import Stop
from llmctl.types import Request


class LocalEngine:
    """`workers`, each with at most one request in hand. With `in_flight` fewer of them may have
    one under way: a worker takes its place in there while the handler sends, and leaves it when
    the request has been dealt with.

    The workers draw from the source themselves: what is read ahead is the source's affair, so
    the memory does not grow with the input, and a worker draws again only when its last request
    has been dealt with for good.
    """

    def __init__(
        self, workers: int, stop: Stop, clock: Clock, in_flight: InFlight | None = None
    ) -> None:
        self._number = workers
        self._in_flight = in_flight
        self._stop = stop
        self._clock = clock

    async def run(self, requests: Iterable[Request] | Source, handler: Handler) -> None:
        """Returns when all is dealt with or a stop was asked for.

        A `CallError` concerns its request only (an observer has seen it); any other error
        ends the run: what is in flight is cancelled and the error raised.
        """
        source = Plain(requests) if isinstance(requests, Iterable) else requests
        workers = [asyncio.ensure_future(self._work(source, handler)) for _ in range(self._number)]
        giving_up = asyncio.ensure_future(self._stop.give_up(self._clock))
        try:
            await self._watch(workers, giving_up)
        finally:
            for task in (*workers, giving_up):
                task.cancel()
            await asyncio.gather(*workers, giving_up, return_exceptions=True)

    async def _watch(
        self, workers: Sequence[asyncio.Future[None]], giving_up: asyncio.Future[None]
    ) -> None:
        running: set[asyncio.Future[None]] = set(workers)
        while running:
            done, _ = await asyncio.wait({*running, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {giving_up}:
                task.result()
            if giving_up in done:
                return
            running -= done

    async def _work(self, source: Source, handler: Handler) -> None:
        leave = None if self._in_flight is None else self._in_flight.leaving()
        while not self._stop.asked and (request := await source.draw()) is not None:
            with contextlib.suppress(CallError):
                await handler(request, None)
            # After any other error the place is nobody's: nothing more is to be sent.
            if leave is not None:
                leave()
