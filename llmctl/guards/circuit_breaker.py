"""Circuit breaker: a provider that is down is left alone; its calls wait, or are refused.

closed → open after too many failures → half-open when its time is over: one call finds out →
closed, or open again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import BreakerPolicy
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
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request

State = Literal["closed", "open", "half-open"]

_SLOTS = 20
"""Parts of the window by which calls are counted: it moves on by a twentieth at a time."""

_ENOUGH = 2
"""Times `failures`: so many calls a window must hold before their share says anything."""

_FAILURES = (ServerFailed, Overloaded, CallTimeout, ConnectionFailed)
"""Errors that say that the provider is down."""

_NEUTRAL = (BadResponse, RateLimited)
"""Errors that say neither: too many requests, and an answer that cannot be read."""

_UNREACHED = (ConnectionFailed, CallTimeout)


class CallPermit(Struct, frozen=True):
    """Leave to make one call. `generation` counts the openings of the circuit by then: what a call
    from before says later is no news. `probe`: the one call that finds out."""

    generation: int
    probe: bool = False


class Circuit:
    """The states as pure arithmetic; `now` is in seconds."""

    __slots__ = ("_generation", "_in_a_row", "_open_until", "_probing", "_slots", "policy", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state: State = "closed"
        self._generation = self._in_a_row = 0
        self._slots: deque[list[float]] = deque()  # [when it began, calls, failed]
        self._open_until = 0.0
        self._probing = False

    def acquire(self, now: float) -> CallPermit | None:
        """Leave to call; None while there is none to be had."""
        if self.state == "closed":
            return CallPermit(self._generation)
        if self.state == "open" and now >= self._open_until:
            self.state = "half-open"
        if self.state == "half-open" and not self._probing:
            self._probing = True
            return CallPermit(self._generation, probe=True)
        return None

    def wait(self, now: float) -> float:
        """Seconds until there may be leave; 0 while a probe is under way, or when there is leave
        now."""
        return max(0.0, self._open_until - now) if self.state == "open" else 0.0

    def succeeded(self, permit: CallPermit, now: float) -> None:
        """The provider answered."""
        if permit.generation != self._generation:
            return
        self._in_a_row = 0
        if permit.probe:
            self.state, self._probing = "closed", False
            self._slots.clear()
            self._generation += 1
            return
        self._count(now, failed=False)

    def failed(self, permit: CallPermit, now: float) -> None:
        """The provider is in trouble."""
        if permit.generation != self._generation:
            return
        if permit.probe:
            self._open(now)
            return
        self._in_a_row += 1
        self._count(now, failed=True)
        calls, failures = (sum(slot[each] for slot in self._slots) for each in (1, 2))
        least = _ENOUGH * self.policy.failures
        too_many = calls >= least and failures >= self.policy.error_rate * calls
        if self._in_a_row >= self.policy.failures or too_many:
            self._open(now)

    def open(self, now: float) -> None:
        """Open at once: the provider said that it will serve nobody."""
        if self.state != "open":
            self._open(now)

    def cancelled(self, permit: CallPermit) -> None:
        """The call said nothing about the provider; another one may find out."""
        if permit.probe and permit.generation == self._generation:
            self._probing = False

    def _open(self, now: float) -> None:
        self.state, self._probing = "open", False
        self._open_until = now + self.policy.open_for
        self._generation += 1

    def _count(self, now: float, *, failed: bool) -> None:
        if not self._slots or now - self._slots[-1][0] >= self.policy.window / _SLOTS:
            while self._slots and now - self._slots[0][0] >= self.policy.window:
                self._slots.popleft()
            self._slots.append([now, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed


class ProviderHealth:
    """One provider's circuit, and the calls that wait for it.

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

    async def acquire(self) -> CallPermit:
        """Leave to call. Raises `ProviderDown`."""
        while True:
            now = self._clock.monotonic()
            permit = self._circuit.acquire(now)
            if permit is not None:
                return permit
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
        """Seconds until the provider is looked at again; None when nothing waits for it."""
        return self._circuit.wait(self._clock.monotonic()) if self._waiting else None

    def ended(self, permit: CallPermit, error: CallError | None) -> None:
        """How the call went; None for an answer. Marks failures that are not the row's fault."""
        now, circuit, before = self._clock.monotonic(), self._circuit, self._circuit.state
        cause = error.cause if isinstance(error, Interrupted) else error
        if isinstance(cause, QuotaExhausted):
            self._last = cause
            circuit.open(now)
        elif isinstance(cause, _FAILURES):
            self._last = cause
            circuit.failed(permit, now)
        elif isinstance(cause, _NEUTRAL) and not permit.probe:
            circuit.cancelled(permit)
        else:
            circuit.succeeded(permit, now)
        self._reached = self._reached or not isinstance(cause, _UNREACHED)
        if error is not None and isinstance(cause, _FAILURES):
            error.excused = circuit.state != "closed" and self._waits()
        if circuit.state != before or permit.probe:
            self._wake()

    def cancelled(self, permit: CallPermit) -> None:
        """The call was given up before the provider said anything."""
        self._circuit.cancelled(permit)
        if permit.probe:
            self._wake()

    def _down(self, wait: float) -> ProviderDown:
        error = ProviderDown(self._name, self._last, wait)
        error.reached = self._reached
        return error

    def _waits(self) -> bool:
        return self._patient and self._reached

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class CircuitBreaker:
    """The guard: asks the provider's health before every attempt, and tells it the outcome."""

    def __init__(self, inner: Handler, health: ProviderHealth) -> None:
        self._inner = inner
        self._health = health

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer. Raises `ProviderDown` for what is not sent."""
        permit = await self._health.acquire()
        try:
            answer = await self._inner(request, emit)
        except CallError as error:
            if error.sent:
                self._health.ended(permit, error)
            else:
                self._health.cancelled(permit)
            raise
        except BaseException:
            self._health.cancelled(permit)
            raise
        self._health.ended(permit, None)
        return answer
