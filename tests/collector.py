"""An OpenTelemetry collector on loopback, which decodes what it gets by opentelemetry-proto."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span


def value(any_value: Any) -> Any:
    """What an `AnyValue` holds."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return tuple(value(each) for each in any_value.array_value.values)
    return getattr(any_value, kind)


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span, a point or a resource; each name stands there once."""
    found = {each.key: value(each.value) for each in holder.attributes}
    assert len(found) == len(holder.attributes)
    return found


class Collector(ThreadingHTTPServer):
    """What a collector has got and taken.

    Attributes:
        statuses: of its next replies; 200 from then on.
        headers: of every reply.
        rejected: spans of each request that it says it rejects.
        takes_metrics: otherwise their path is one that it does not know (404).
        open: it answers while this is set.
        paths, bodies, requests: of every request, also those that it refused.

    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.rejected = 0
        self.takes_metrics = True
        self.open = threading.Event()
        self.open.set()
        self.paths: list[str] = []
        self.requests: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.scopes: list[ScopeSpans] = []
        self.resources: list[Resource] = []
        self._metrics: dict[bytes, list[Metric]] = {}

    @property
    def spans(self) -> list[Span]:
        """All spans that it took."""
        return [span for scope in self.scopes for span in scope.spans]

    @property
    def said(self) -> list[dict[str, Any]]:
        """Their attributes."""
        return [attributes(span) for span in self.spans]

    def points(self, name: str) -> list[Any]:
        """The last points of a metric, of every process."""
        found = []
        for metrics in self._metrics.values():
            for metric in metrics:
                if metric.name == name:
                    found += getattr(metric, metric.WhichOneof("data") or "").data_points
        return found

    @property
    def metrics(self) -> dict[str, Metric]:
        """The last metrics, by name, of any process."""
        return {metric.name: metric for each in self._metrics.values() for metric in each}

    def take(self, path: str, body: bytes) -> None:
        """Decode what was posted."""
        if path == "/v1/traces":
            for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(spans.resource)
                self.scopes += spans.scope_spans
        else:
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                key = measured.resource.SerializeToString(deterministic=True)
                self._metrics[key] = [m for scope in measured.scope_metrics for m in scope.metrics]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """Take what is posted, unless another status is due."""
        collector, body = self.server, self.rfile.read(int(self.headers["content-length"]))
        collector.paths.append(self.path)
        collector.bodies.append(body)
        collector.requests.append({name.lower(): text for name, text in self.headers.items()})
        collector.open.wait()
        status = collector.statuses.pop(0) if collector.statuses else 200
        if self.path == "/v1/metrics" and not collector.takes_metrics:
            status = 404
        reply = ExportTraceServiceResponse()
        if status == 200:
            collector.take(self.path, body)
            if collector.rejected and self.path == "/v1/traces":
                reply.partial_success.rejected_spans = collector.rejected
                reply.partial_success.error_message = "too old"
        data = reply.SerializeToString()
        try:
            self.send_response(status)
            for name, text in {**collector.headers, "content-length": str(len(data))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # whoever asked did not wait
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collecting(statuses: Iterable[int] = ()) -> Iterator[Collector]:
    """A collector that runs; `statuses` are those of its first replies."""
    with Collector() as collector:
        collector.statuses += statuses
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            collector.open.set()
            collector.shutdown()
            thread.join()
