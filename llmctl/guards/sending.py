"""A row is sent when there is room for one more under way."""

from __future__ import annotations

from llmctl.inflight import InFlight
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class Sending:
    """Takes the row's place in `in_flight`; whoever drives the rows takes it away again."""

    def __init__(self, inner: Handler, in_flight: InFlight) -> None:
        self._inner = inner
        self._in_flight = in_flight

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer. Raises as `InFlight.enter`."""
        await self._in_flight.enter()
        return await self._inner(request, emit)
