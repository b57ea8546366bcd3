"""Prometheus metrics: what the ledger adds up to, and this worker's HTTP requests."""

from __future__ import annotations

import threading
import time
from collections import Counter as Sums
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmctl.gateway.openapi import ROUTES
from llmctl.storage.ledger_queries import HOUR, LedgerPeek, Reading
from llmctl.storage.ledger_rows import dollars

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
_ONE_MODEL = "/v1/models/{model}"
_FRESH = 1.0  # seconds that sums of the ledger may be old
_EVER = (0, HOUR << 32)  # whole hours: nothing is added up call by call
_TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cached_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}


class Total(Struct, frozen=True):
    """The sums (`ledger_queries.SUMS`) of all calls of one profile and model."""

    profile: str
    model: str
    sums: Mapping[str, int]


def ledger_totals(path: Path) -> list[Total]:
    """What all processes have written; nothing while there is no ledger."""

    def read(reading: Reading) -> list[Total]:
        found: dict[tuple[str, str], Sums[str]] = {}
        for cell in reading.cells(_EVER, tags=False):
            found.setdefault((cell.profile, cell.model), Sums()).update(cell.sums)
        return [Total(*kind, sums) for kind, sums in found.items()]

    with LedgerPeek(path) as ledger:
        return ledger.ask(lambda connection: read(Reading(connection))) or []


class LedgerCollector(Collector):
    """Calls, tokens and dollars. They are the same in every worker, and outlive all of them.

    `totals` gives the sums, and is asked at most once a second. May be collected by any thread.
    """

    def __init__(self, totals: Callable[[], list[Total]]) -> None:
        self._totals = totals
        self._lock = threading.Lock()
        self._read: tuple[float, list[Total]] | None = None

    def _fresh(self) -> list[Total]:
        with self._lock:
            now = time.monotonic()
            if self._read is None or now - self._read[0] >= _FRESH:
                self._read = now, self._totals()
            return self._read[1]

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        calls = CounterMetricFamily(
            "llmctl_calls",
            "Calls on the ledger of all processes by how they ended: answered (or given up by the "
            "caller), cached, failed, refused before sending.",
            labels=["profile", "model", "status"],
        )
        tokens = CounterMetricFamily(
            "llmctl_tokens",
            "Tokens used; input includes cached_input and cache_write, output includes reasoning.",
            labels=["profile", "model", "kind"],
        )
        cost = CounterMetricFamily(
            "llmctl_cost_usd",
            "US dollars that calls cost, as far as it is known.",
            labels=["profile", "model"],
        )
        doubtful = CounterMetricFamily(
            "llmctl_doubtful_cost_usd",
            "US dollars that calls of unknown end may have cost beyond that.",
            labels=["profile", "model"],
        )
        for total in self._fresh():
            where, sums = [total.profile, total.model], total.sums
            ended = {"cached": "kept", "failed": "errors", "refused": "refused"}
            by_status = {status: sums[name] for status, name in ended.items()}
            by_status["answered"] = sums["calls"] - sum(by_status.values())
            for status, count in by_status.items():
                calls.add_metric([*where, status], count)
            for kind, name in _TOKENS.items():
                tokens.add_metric([*where, kind], sums[name])
            cost.add_metric(where, float(dollars(sums["cost_pico"])))
            doubtful.add_metric(where, float(dollars(sums["doubtful_pico"])))
        yield from (calls, tokens, cost, doubtful)


class HttpFigures(Collector):
    """HTTP requests of one worker. The label `worker` keeps the workers' series apart: a scrape
    reaches one of them. `in_flight` counts those under way, `waiting` the calls that wait for a
    turn, by profile."""

    def __init__(self, registry: CollectorRegistry, worker: str) -> None:
        self.in_flight: Callable[[], int] = lambda: 0
        self.waiting: Mapping[str, int] = {}
        self._worker = worker
        labels = ["worker", "route", "status"]
        self._count = Counter(
            "llmctl_http_requests",
            "HTTP requests answered by this worker; status 0: the caller had gone.",
            labels,
            registry=registry,
        )
        self._seconds = Histogram(
            "llmctl_http_request_duration_seconds",
            "From the request's head to the end of its answer.",
            labels,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        registry.register(self)

    def ended(self, path: str, status: int, seconds: float) -> None:
        """Count a request. Paths that are no route's are one: callers must not make series."""
        key = (_route(path), status)
        found = self._children.get(key)
        if found is None:
            labels = (self._worker, key[0], str(status))
            found = self._count.labels(*labels), self._seconds.labels(*labels)
            self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """What is under way now."""
        in_flight = GaugeMetricFamily(
            "llmctl_http_requests_in_flight",
            "HTTP requests that this worker is answering.",
            labels=["worker"],
        )
        in_flight.add_metric([self._worker], self.in_flight())
        waiting = GaugeMetricFamily(
            "llmctl_waiting_calls",
            "Calls of this worker that wait for their turn at a provider's rate limit.",
            labels=["worker", "profile"],
        )
        for profile, count in self.waiting.items():
            waiting.add_metric([self._worker, profile], count)
        yield from (in_flight, waiting)


def _route(path: str) -> str:
    if path in ROUTES:
        return path
    return _ONE_MODEL if path.startswith("/v1/models/") else "other"


class Metrics:
    """All metrics of a worker. `ledger` is the ledger's file."""

    def __init__(self, ledger: Path, worker: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more of each
        self._registry = CollectorRegistry()
        self._registry.register(LedgerCollector(lambda: ledger_totals(ledger)))
        self.http = HttpFigures(self._registry, worker)

    def text(self, waiting: Mapping[str, int]) -> bytes:
        """The page that a Prometheus server reads; see `HttpFigures` for `waiting`. Reads the
        ledger: call it in a thread."""
        self.http.waiting = waiting
        return generate_latest(self._registry)
