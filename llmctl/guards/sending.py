"""A row is sent when there is room for one more under way."""

from __future__ import annotations

from collections.abc import Callable

from llmctl.inflight import InFlight
from llmctl.protocols import Emit, Handler
from llmctl.types import Request, Response


class Sending:
    """Takes the row's place in `in_flight`; whoever drives the rows takes it away again. `check`
    raises when what is sent could not be settled."""

    def __init__(self, inner: Handler, in_flight: InFlight, check: Callable[[], None]) -> None:
        self._inner = inner
        self._in_flight = in_flight
        self._check = check

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
        """The inner answer. Raises the run's own error once it is to end, and as `check`."""
        await self._in_flight.enter()
        self._check()
        return await self._inner(request, emit)
