"""Prometheus metrics of a worker: those of the ledger, and its own HTTP requests."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmctl.gateway.openapi import ROUTES
from llmctl.reports.metrics import History, LedgerCollector, Snapshot, history, snapshot
from llmctl.storage.ledger_queries import HOUR, LedgerPeek, Reading

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
_ONE_MODEL = "/v1/models/{model}"
_WINDOW = 3600.0  # seconds whose latencies are shown
_LASTING = 60.0  # seconds that sums of past hours may be old


class LedgerReader:
    """What all processes have written in the ledger at `path`, and do now.

    What the past hours add up to is read once a minute: over a million calls that takes 150 ms of
    processor, and the rest 8.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._past: tuple[float, History] | None = None

    def __call__(self) -> Snapshot | None:
        """The ledger now; None while there is none."""
        with LedgerPeek(self._path) as ledger:
            return ledger.ask(self._read)

    def _read(self, connection: sqlite3.Connection) -> Snapshot:
        connection.execute("BEGIN")  # all as it is at one moment; closing the file ends it
        ledger, now = Reading(connection), round(time.time() * 1000)
        if self._past is None or time.monotonic() - self._past[0] >= _LASTING:
            self._past = time.monotonic(), history(ledger, end=now // HOUR)
        return snapshot(ledger, now, _WINDOW, self._past[1])


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
        self._registry.register(LedgerCollector(LedgerReader(ledger)))
        self.http = HttpFigures(self._registry, worker)

    def text(self, waiting: Mapping[str, int]) -> bytes:
        """The page that a Prometheus server reads; see `HttpFigures` for `waiting`. Reads the
        ledger: call it in a thread."""
        self.http.waiting = waiting
        return generate_latest(self._registry)
