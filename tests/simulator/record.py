"""What the judge counted: requests, bills, connections; written by the server, read by tests."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .call import Call, Json, Outcome
from .reply import Usage


@dataclass(slots=True)
class Billed:
    """The provider's invoice: requests and tokens, and requests for each content key."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    per_key: Counter[str] = field(default_factory=Counter)

    @property
    def repeated(self) -> int:
        """Bills beyond the first for the same content: what a client paid twice."""
        return self.requests - len(self.per_key)

    def add(self, key: str, usage: Usage) -> None:
        """Put an answer to the content `key` on the invoice."""
        self.requests += 1
        self.input_tokens += usage.input
        self.cached_tokens += usage.cached
        self.written_tokens += usage.written
        self.output_tokens += usage.output
        self.reasoning_tokens += usage.reasoning
        self.per_key[key] += 1


class Record:
    """Counters of one simulator, and the calls themselves while `keep_calls` is true.

    Only the server's thread writes; any thread may read, and `wait_until` blocks without polling.
    """

    def __init__(self, *, keep_calls: bool) -> None:
        self.keep_calls = keep_calls
        self.calls: list[Call] = []
        self.billed = Billed()
        self.requests = 0
        self.requests_per_key: Counter[str] = Counter()
        self.in_flight = 0
        self.max_in_flight = 0
        self.outcomes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.connections = 0
        self.open_connections = 0
        self.errors: list[Exception] = []
        self._condition = threading.Condition()
        self._waiting = 0

    def wait_until(self, holds: Callable[[], bool], timeout: float) -> None:
        """Block until `holds()`; looked at after every event. TimeoutError after `timeout` s."""
        with self._condition:
            self._waiting += 1
            try:
                if not self._condition.wait_for(holds, timeout):
                    message = f"not so within {timeout} s: {self.snapshot()}"
                    raise TimeoutError(message)
            finally:
                self._waiting -= 1

    def connected(self) -> int:
        """Count a new connection; its number."""
        self.connections += 1
        self.open_connections += 1
        self._changed()
        return self.connections

    def disconnected(self) -> None:
        """Count a connection that ended."""
        self.open_connections -= 1
        self._changed()

    def arrived(self, call: Call) -> None:
        """Count a request that is now in flight, and number it."""
        call.index = self.requests
        call.attempt = self.requests_per_key[call.key] + 1
        self.requests_per_key[call.key] = call.attempt
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self.keep_calls:
            self.calls.append(call)
        self._changed()

    def bill(self, call: Call, usage: Usage) -> None:
        """Put a full answer on the invoice."""
        call.billed = usage
        self.billed.add(call.key, usage)
        self._changed()

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Note how a request ended; the first end of a call counts."""
        if call.outcome != "pending":
            return
        call.outcome = outcome
        call.ended = time.monotonic()
        self.in_flight -= 1
        self.outcomes[outcome] += 1
        if call.status is not None:
            self.statuses[call.status] += 1
        if call.fault is not None:
            self.faults[call.fault] += 1
        self._changed()

    def snapshot(self) -> Json:
        """The counters as JSON, for a message."""
        names = ("requests", "in_flight", "connections", "open_connections", "outcomes", "faults")
        return {name: getattr(self, name) for name in names} | {"billed": self.billed.requests}

    def _changed(self) -> None:
        if self._waiting:  # taking the lock only for a waiter keeps the hot path free of it
            with self._condition:
                self._condition.notify_all()
