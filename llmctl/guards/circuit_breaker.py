"""Circuit breaker: a provider that is down is left alone; its calls wait, or are refused.

closed → open after too many failures → half-open when its time is over: one call finds out →
closed, or open again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
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

_SLOTS = 20  # parts of the window, by which calls are counted
_ENOUGH = 2  # times `failures`: a window with fewer calls says nothing by their share
_FAILURES = (ServerFailed, Overloaded, CallTimeout, ConnectionFailed)  # the provider is down
_NEUTRAL = (BadResponse, RateLimited)  # it may be down or not
_UNREACHED = (ConnectionFailed, CallTimeout)


class CallPermit(Struct, frozen=True):
    """Leave to make one call. `generation`: what a call from before the circuit opened says later
    is no news. `probe`: the one call that finds out."""

    generation: int
    probe: bool = False


class Circuit:
    """The states as pure arithmetic; `now` is in seconds."""

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
        """Seconds until there may be leave; 0 while a probe is under way."""
        return max(0.0, self._open_until - now) if self.state == "open" else 0.0

    def end(self, permit: CallPermit, now: float, *, ok: bool | None) -> None:
        """The provider answered, is in trouble, or (None) the call said nothing about it."""
        if permit.generation != self._generation:
            return
        if ok is None:
            self._probing = self._probing and not permit.probe
        elif permit.probe and ok:
            self.state, self._probing, self._in_a_row = "closed", False, 0
            self._slots.clear()
            self._generation += 1
        elif permit.probe:
            self.open(now)
        else:
            self._in_a_row = 0 if ok else self._in_a_row + 1
            if self._count(now, failed=not ok) or self._in_a_row >= self.policy.failures:
                self.open(now)

    def open(self, now: float) -> None:
        """Send nothing for the policy's time; one that is open stays open no longer for it."""
        if self.state == "open":
            return
        self.state, self._probing = "open", False
        self._open_until = now + self.policy.open_for
        self._generation += 1

    def _count(self, now: float, *, failed: bool) -> bool:
        """Whether too large a share of the window's calls failed, this one included."""
        if not self._slots or now - self._slots[-1][0] >= self.policy.window / _SLOTS:
            while self._slots and now - self._slots[0][0] >= self.policy.window:
                self._slots.popleft()
            self._slots.append([now, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed
        if not failed:
            return False
        calls, failures = (sum(slot[each] for slot in self._slots) for each in (1, 2))
        return calls >= _ENOUGH * self.policy.failures and (
            failures >= self.policy.error_rate * calls
        )


def verdict(error: BaseException | None, *, probe: bool) -> bool | None:
    """What the end of a call says of who was asked: there is an answer, or trouble, or (None)
    neither. `probe`: the call was to find out."""
    if error is None:
        return True
    if not _tells(error):
        return None
    if isinstance(_cause(error), _FAILURES):
        return False
    return None if isinstance(_cause(error), _NEUTRAL) and not probe else True


def _tells(error: BaseException) -> bool:
    """Whether it says anything: not where the call was given up or not sent, where its kept
    connection had ended, or where another server of the profile may be in service."""
    return isinstance(error, CallError) and not (
        not error.sent or error.kept_ended or error.others_up
    )


def _cause(error: BaseException | None) -> CallError | None:
    cause = error.cause if isinstance(error, Interrupted) else error
    return cause if isinstance(cause, CallError) else None


class ProviderHealth:
    """One provider's circuit, and the calls that wait for it. `patient`: they wait until it is
    back, unless it has not replied once in this run (its address may be wrong). `on_change` is
    called when the circuit opens, half opens or closes; `waiting` is how many calls wait."""

    def __init__(
        self,
        policy: BreakerPolicy,
        clock: Clock,
        name: str,
        *,
        patient: bool,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._circuit = Circuit(policy)
        self._clock, self._name, self._patient = clock, name, patient
        self._on_change = on_change
        self._reached = False
        self._last: CallError | None = None
        self._changed = asyncio.Event()
        self.waiting = 0

    @property
    def state(self) -> State:
        """The circuit's state as a call would find it now: half-open when its time is over."""
        state = self._circuit.state
        over = state == "open" and not self._circuit.wait(self._clock.monotonic())
        return "half-open" if over else state

    def check(self) -> None:
        """Raises `ProviderDown` when a call would be refused now."""
        if self._circuit.state == "open" and (wait := self._circuit.wait(self._clock.monotonic())):
            self._refuse(wait)

    def _refuse(self, wait: float) -> None:
        if not (self._patient and self._reached):
            raise ProviderDown(self._name, self._last, wait, reached=self._reached)

    @property
    def reached(self) -> bool:
        """Whether the provider has replied in this run."""
        return self._reached

    def open(self, *, reached: bool) -> None:
        """Others have found the provider down, which had replied to them (`reached`): send nothing
        for the policy's time."""
        self._reached = self._reached or reached
        before = self._circuit.state
        self._circuit.open(self._clock.monotonic())
        if self._circuit.state != before:
            self._on_change()
            self._wake()

    async def acquire(self) -> CallPermit:
        """Leave to call. Raises `ProviderDown`."""
        while (permit := self._circuit.acquire(now := self._clock.monotonic())) is None:
            wait = self._circuit.wait(now)
            self._refuse(wait)
            self.waiting += 1
            try:
                await (self._clock.sleep(wait) if wait > 0 else self._changed.wait())
            finally:
                self.waiting -= 1
        if permit.probe:
            self._on_change()
        return permit

    def waits(self) -> float | None:
        """Seconds until the provider is looked at again; None when nothing waits for it."""
        return self._circuit.wait(self._clock.monotonic()) if self.waiting else None

    def ended(self, permit: CallPermit, error: BaseException | None) -> None:
        """How the call went; None for an answer. Marks failures that are not the row's fault."""
        if error is not None and not _tells(error):
            self._circuit.end(permit, self._clock.monotonic(), ok=None)
            if permit.probe:
                self._wake()
            return
        now, circuit, before = self._clock.monotonic(), self._circuit, self._circuit.state
        cause, said = _cause(error), verdict(error, probe=permit.probe)
        failed = said is False
        if failed or isinstance(cause, QuotaExhausted):
            self._last = cause
        if isinstance(cause, QuotaExhausted):
            circuit.open(now)
        else:
            circuit.end(permit, now, ok=said)
        self._reached = self._reached or not isinstance(cause, _UNREACHED)
        if isinstance(error, CallError) and failed:
            waits = self._patient and self._reached
            error.excused = circuit.state != "closed" and waits
            error.refused_for = 0.0 if waits else circuit.wait(now)
        if circuit.state != before:
            self._on_change()
        if circuit.state != before or permit.probe:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def circuit_breaker(inner: Handler, health: ProviderHealth) -> Handler:
    """The guard: every attempt waits for leave, and tells its outcome. Raises `ProviderDown`."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        permit = await health.acquire()
        try:
            answer = await inner(request, emit)
        except BaseException as error:
            health.ended(permit, error)
            raise
        health.ended(permit, None)
        return answer

    return handle
