"""The local engine: asyncio workers that share one stream of requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from llmctl.clock import Clock
from llmctl.errors import CallError
from llmctl.protocols import Handler, Observer
from llmctl.shutdown import Stop
from llmctl.types import Request


class LocalEngine:
    """`workers` tasks, each of which draws a request, awaits the handler, and draws the next. The
    handler returns when the call's record is durable, so at most `workers` rows are between their
    first byte on the wire and the disk."""

    def __init__(self, workers: int, stop: Stop, clock: Clock) -> None:
        self._workers, self._stop, self._clock = workers, stop, clock

    async def run(
        self,
        requests: AsyncIterator[Request],
        handler: Handler,
        sink: Observer,  # noqa: ARG002 - the handler's outermost guard has it
    ) -> None:
        """Return when all requests are dealt with, or a stop was asked for and what was in flight
        has ended (at the latest `shutdown.DRAIN` seconds later).

        A `CallError` concerns its request only (its record says so); any other error ends the run:
        what is in flight is cancelled and the error raised.
        """
        turn = asyncio.Lock()  # an async iterator has one reader at a time
        workers = [
            asyncio.create_task(self._work(requests, turn, handler)) for _ in range(self._workers)
        ]
        overdue = asyncio.create_task(self._stop.overdue(self._clock))
        try:
            running = set(workers)
            while running and not overdue.done():
                done, _ = await asyncio.wait(
                    {*running, overdue}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                running -= done
        finally:
            for task in (*workers, overdue):
                task.cancel()
            ended = await asyncio.gather(*workers, overdue, return_exceptions=True)
        for error in ended:  # what a cancelled worker's record met: a full disk
            if isinstance(error, Exception):
                raise error

    async def _work(
        self, requests: AsyncIterator[Request], turn: asyncio.Lock, handler: Handler
    ) -> None:
        while True:
            async with turn:
                if self._stop.asked:
                    return
                request = await anext(requests, None)
            if request is None:
                return
            with contextlib.suppress(CallError):
                await handler(request, None)
