"""A provider that is down is left alone; what is to go there waits, or is refused."""

from __future__ import annotations

import asyncio

from llmctl.clock import Clock
from llmctl.errors import (
    BadResponse,
    CallError,
    CallTimeout,
    ConnectionFailed,
    Interrupted,
    Overloaded,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.guards.circuit import Circuit, Ticket
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request

_TROUBLE = (ServerFailed, Overloaded, CallTimeout, ConnectionFailed)
"""What says that the provider is down. Too many requests, and an answer that cannot be read,
say that it is there."""

_NO_NEWS = (BadResponse, RateLimited)

_UNREACHED = (ConnectionFailed, CallTimeout)


class Gate:
    """One provider's circuit, and those who wait before it.

    `patient`: calls wait until the provider is back; otherwise they are refused. A provider that
    has not replied once in this run is not waited for: its address may be wrong.
    """

    def __init__(self, circuit: Circuit, clock: Clock, name: str, *, patient: bool) -> None:
        self._circuit = circuit
        self._clock = clock
        self._name = name
        self._patient = patient
        self._reached = False
        self._last: CallError | None = None
        self._changed = asyncio.Event()
        self._waiting = 0

    def check(self) -> None:
        """Raises `ProviderDown` when a call would be refused now."""
        circuit, now = self._circuit, self._clock.monotonic()
        if circuit.state == "open" and circuit.wait(now) > 0 and not self._waits():
            raise self._down(circuit.wait(now))

    async def enter(self) -> Ticket:
        """Leave to call. Raises `ProviderDown`."""
        while True:
            now = self._clock.monotonic()
            ticket = self._circuit.enter(now)
            if ticket is not None:
                return ticket
            wait = self._circuit.wait(now)
            if not self._waits():
                raise self._down(wait)
            self._waiting += 1
            try:
                if wait > 0:
                    await self._clock.sleep(wait)
                else:
                    await self._changed.wait()
            finally:
                self._waiting -= 1

    def waits(self) -> float | None:
        """Seconds until the provider is looked at again; None when nobody waits for it."""
        if not self._waiting:
            return None
        return self._circuit.wait(self._clock.monotonic())

    def ended(self, ticket: Ticket, error: CallError | None) -> None:
        """How the call went."""
        now, circuit = self._clock.monotonic(), self._circuit
        said = error.cause if isinstance(error, Interrupted) else error
        before = circuit.state
        if isinstance(said, QuotaExhausted):
            self._last = said
            circuit.trip(now)
        elif isinstance(said, _TROUBLE):
            self._last = said
            circuit.failed(ticket, now)
        elif isinstance(said, _NO_NEWS) and not ticket.probe:
            circuit.gave_up(ticket)
        else:
            circuit.succeeded(ticket, now)
        self._reached = self._reached or not isinstance(said, _UNREACHED)
        if error is not None and isinstance(said, _TROUBLE):
            error.excused = circuit.state != "closed" and self._waits()
        if circuit.state != before or ticket.probe:
            self._tell()

    def gave_up(self, ticket: Ticket) -> None:
        """The call was cancelled."""
        self._circuit.gave_up(ticket)
        if ticket.probe:
            self._tell()

    def _down(self, wait: float) -> ProviderDown:
        error = ProviderDown(self._name, self._last, wait)
        error.reached = self._reached
        return error

    def _waits(self) -> bool:
        return self._patient and self._reached

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Breaker:
    """Asks the gate before every attempt, and tells it how the attempt went."""

    def __init__(self, inner: Handler, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer. Raises `ProviderDown` for what is not sent."""
        ticket = await self._gate.enter()
        try:
            response = await self._inner(request, emit)
        except CallError as error:
            if error.sent:
                self._gate.ended(ticket, error)
            else:
                self._gate.gave_up(ticket)
            raise
        except BaseException:
            self._gate.gave_up(ticket)
            raise
        self._gate.ended(ticket, None)
        return response
