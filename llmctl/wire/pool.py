"""The connections of one address: kept for a while between two calls, closed on time."""

from __future__ import annotations

import asyncio

from llmctl.wire.connection import Connection
from llmctl.wire.failures import Late, Unreached
from llmctl.wire.route import Route

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which llama.cpp and uvicorn (which
serves vLLM) close one, so that a connection is rarely found closed by the other side."""

_FRESH = 0.1
"""Seconds an idle connection is used without a look whether it is closed: longer than any stall
of the event loop, which would have noticed."""

_PATIENCE = 1.0
"""Seconds to wait, when all is over, for connections to be gone."""


class Pool:
    """Belongs to the event loop that it was made in. Who takes a connection gives it back."""

    def __init__(self, route: Route) -> None:
        self.loop = asyncio.get_running_loop()
        self._route = route
        # By when they became idle: those given back last are used first, so that the others age.
        self._idle: dict[Connection, None] = {}
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._none_left: asyncio.Future[None] | None = None
        self._closed = False

    def take(self, now: float) -> Connection | None:
        """One that was in use a moment ago, if there is one: most calls end here."""
        if self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable and now - connection.since < _FRESH:
                return connection
            self._idle[connection] = None
        return None

    async def fetch(self, seconds: float) -> Connection:
        """An idle one, or a new one within that time. Raises `Unreached`."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if await self._alive(connection):
                return connection
        try:
            async with asyncio.timeout(seconds):
                connection = await self._route.open(lambda: Connection(self._gone))
        except TimeoutError as error:
            raise Late from error
        if self._closed or not connection.usable:
            connection.abort()
            raise Unreached("the connection was closed")
        self._all.add(connection)
        return connection

    async def _alive(self, connection: Connection) -> bool:
        """Let the event loop say what it has not yet: a request sent on a connection that the
        other side has closed is lost, and nobody could tell whether it was read."""
        try:
            await asyncio.sleep(0)  # the end is read…
            await asyncio.sleep(0)  # …and told
        except BaseException:
            connection.abort()
            raise
        if connection.usable and self.loop.time() - connection.since < KEEP_ALIVE:
            return True
        connection.abort()
        return False

    def _gone(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._all.discard(connection)
        if self._none_left is not None and not self._all and not self._none_left.done():
            self._none_left.set_result(None)

    def give(self, connection: Connection) -> None:
        """The exchange is over, or given up: keep the connection where it can be kept."""
        if connection.free(self.loop.time()):
            self._idle[connection] = None
            if self._sweeper is None:
                self._sweeper = self.loop.call_later(KEEP_ALIVE, self._sweep)

    def _sweep(self) -> None:
        """Close those that have been idle for too long; look again when the next one has."""
        self._sweeper = None
        for connection in tuple(self._idle):
            end = connection.since + KEEP_ALIVE
            if end > self.loop.time():
                self._sweeper = self.loop.call_at(end, self._sweep)
                break
            del self._idle[connection]
            connection.abort()

    async def close(self) -> None:
        """Close all connections, and return when they are."""
        self._closed = True
        self._route.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._all):
            connection.abort()
        if self._all:
            self._none_left = self.loop.create_future()
            await asyncio.wait({self._none_left}, timeout=_PATIENCE)
        # A connection that was given up while it was being made is in no list.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
