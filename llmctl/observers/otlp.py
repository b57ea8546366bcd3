"""OTLP over HTTP: sends spans and metrics to an OpenTelemetry collector, behind the calls.

Reference: opentelemetry.io/docs/specs/otlp. The messages are opentelemetry-proto's. With its SDK,
encoder and exporter a span takes three times as long, and its queue forgets silently what it has no
room for.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from llmctl import __version__
from llmctl.clock import Clock
from llmctl.config.settings import Telemetry, is_loopback, parse_collector
from llmctl.errors import CallTimeout, ConnectionFailed, LlmctlError, SetupError
from llmctl.http import build, fetch
from llmctl.observers import genai_names as names
from llmctl.observers.audit import clean
from llmctl.observers.genai_names import Instrument
from llmctl.redact import printable, redact_possible_keys, remember
from llmctl.shutdown import first_of

if TYPE_CHECKING:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

QUEUE = 16 << 20  # bytes of spans that may wait: about 20,000 without content
BODY = 1 << 20  # bytes of spans in one request; collectors take 20 MiB at most, unless told
WAIT = 1.0  # seconds that calls wait for room, once until spans are delivered again
EVERY = 5.0  # seconds between two deliveries of spans (OTEL_BSP_SCHEDULE_DELAY)
METRICS_EVERY = 60.0  # seconds between two of metrics (OTEL_METRIC_EXPORT_INTERVAL)
FLUSH = 5.0  # seconds that the end of a run waits for the collector
SERIES = 2000  # attribute sets; OpenTelemetry's own limit, for callers may ask for any model

_TIMEOUT = 10.0  # seconds of one request (OTEL_EXPORTER_OTLP_TIMEOUT)
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds until the same is sent again
_MOST = 1 << 16  # bytes of a reply that are read
_RETRIED = frozenset({429, 502, 503, 504})  # by the reference; anything else is final

TRACES, METRICS = "/v1/traces", "/v1/metrics"
_SEE = "see `telemetry:` in the configuration, and whether the collector runs"

Attributes = tuple[tuple[str, str | int | float | bool], ...]


class Collector(Struct, frozen=True):
    """Where telemetry goes: the collector's address, the headers of every request, and the
    attributes of what sends (the resource)."""

    url: str
    headers: Mapping[str, str]
    resource: Mapping[str, str]


def collector(settings: Telemetry, environ: Mapping[str, str], run_id: str) -> Collector | None:
    """The collector that the configuration names, or, where that leaves it to the environment, the
    variables of OpenTelemetry; None where those name none. Raises `SetupError`."""
    url, headers, resource = settings.otlp, {}, {names.SERVICE_NAME: "llmctl"}
    if url == "env":
        url = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        if not url:
            return None
        url = _environment_url(url, environ)
        headers = {
            name.lower(): value for name, value in _pairs(environ, "OTEL_EXPORTER_OTLP_HEADERS")
        }
        resource |= dict(_pairs(environ, "OTEL_RESOURCE_ATTRIBUTES"))
        if service := environ.get("OTEL_SERVICE_NAME", "").strip():
            resource[names.SERVICE_NAME] = service
    for name, place in settings.headers.items():
        if not (value := environ.get(place.env, "").strip()):
            raise SetupError(
                f"the variable {place.env} is not set, which holds the header {name} of "
                "`telemetry:`; set it, or take the header out of the configuration"
            )
        headers[name.lower()] = value
    for value in headers.values():
        remember(value)
    parts = urlsplit(url)
    if headers and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise SetupError(
            f"headers of `telemetry:` may be keys and are sent by https:// alone, not to {url}; "
            "use https://, or a collector on this machine"
        )
    if settings.service:
        resource[names.SERVICE_NAME] = settings.service
    resource |= {names.SERVICE_VERSION: __version__, names.SERVICE_INSTANCE: run_id}
    return Collector(url, headers, resource)


def _environment_url(text: str, environ: Mapping[str, str]) -> str:
    """The collector's address in the environment. Raises `SetupError`."""
    url = parse_collector(text)
    if url in (None, "env"):
        raise SetupError(
            "$OTEL_EXPORTER_OTLP_ENDPOINT is not http:// or https:// and a host, such as "
            "http://127.0.0.1:4318, without user, password and /v1/traces; set it again"
        )
    spoken = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "http/protobuf"
    if spoken != "http/protobuf":
        raise SetupError(
            f"$OTEL_EXPORTER_OTLP_PROTOCOL is {printable(spoken)}, and llmctl speaks http/protobuf "
            "alone: name the collector's port for that (4318) under `telemetry: otlp:`"
        )
    return url


def _pairs(environ: Mapping[str, str], variable: str) -> Iterator[tuple[str, str]]:
    """The entries of a variable such as `a=1,b=2%2C3`. Raises `SetupError`; what it holds may be a
    key and is not shown."""
    for entry in filter(str.strip, environ.get(variable, "").split(",")):
        name, mark, value = entry.partition("=")
        if not mark or not name.strip():
            raise SetupError(f"${variable} is no list such as name=value,name=value; set it again")
        yield unquote(name.strip()), unquote(value.strip())


class Point:
    """One series of an instrument: how often, the sum, and how often within each bound."""

    __slots__ = ("buckets", "count", "highest", "lowest", "total")

    def __init__(self, instrument: Instrument, value: float) -> None:
        self.buckets = [0] * (len(instrument.bounds) + 1)
        self.count, self.total, self.lowest, self.highest = 0, 0.0, value, value


class Metrics:
    """What was measured since `start` (seconds since the epoch), by instrument and attributes."""

    def __init__(self, start: float) -> None:
        self._start = int(start * 1e9)
        self._points: dict[tuple[Instrument, Attributes], Point] = {}

    def record(self, instrument: Instrument, value: float, attributes: Attributes) -> None:
        """Add one measurement."""
        key = instrument, attributes
        point = self._points.get(key)
        if point is None:
            if len(self._points) >= SERIES:
                key = instrument, ((names.OVERFLOW, True),)
            point = self._points.setdefault(key, Point(instrument, value))
        point.count += 1
        point.total += value
        point.lowest, point.highest = min(point.lowest, value), max(point.highest, value)
        point.buckets[bisect_left(instrument.bounds, value)] += 1

    def encoded(self, now: float) -> list[Metric]:
        """All of it as OTLP: cumulative sums and histograms."""
        from opentelemetry.proto.metrics.v1.metrics_pb2 import (
            AggregationTemporality,
            Metric,
        )

        cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        found: dict[Instrument, Metric] = {}
        for (instrument, attributes), point in self._points.items():
            if instrument not in found:
                found[instrument] = Metric(
                    name=instrument.name, unit=instrument.unit, description=instrument.description
                )
            metric = found[instrument]
            time = {"start_time_unix_nano": self._start, "time_unix_nano": int(now * 1e9)}
            if not instrument.bounds:
                metric.sum.aggregation_temporality, metric.sum.is_monotonic = cumulative, True
                made: Any = metric.sum.data_points.add(as_double=point.total, **time)
            else:
                metric.histogram.aggregation_temporality = cumulative
                made = metric.histogram.data_points.add(
                    count=point.count,
                    sum=point.total,
                    min=point.lowest,
                    max=point.highest,
                    explicit_bounds=instrument.bounds,
                    bucket_counts=point.buckets,
                    **time,
                )
            for name, value in attributes:
                put(made, name, value)
        return list(found.values())


def put(holder: Any, name: str, value: Any) -> None:
    """Add an attribute to what holds them: text, a number, a truth value, or a tuple of texts."""
    made = holder.attributes.add(key=name).value
    kind = value.__class__
    if kind is str:
        made.string_value = value
    elif kind is bool:
        made.bool_value = value
    elif kind is int:
        made.int_value = value
    elif kind is tuple:
        for each in value:
            made.array_value.values.add(string_value=each)
    else:
        made.double_value = value


class Refused(Exception):
    """The collector did not take a request. `again`: seconds until it may be sent again, 0 where
    nobody has said; None: it is final. `absent`: there was no connection."""

    def __init__(self, why: str, again: float | None = None, *, absent: bool = False) -> None:
        super().__init__(why)
        self.again, self.absent = again, absent


class Exporter:
    """Sends spans, and the metrics now and then, while calls go on.

    What waits is bounded. A collector that is down or busy is asked again until it takes them;
    what has no room meanwhile, or is refused for good, is counted, and told of by `close`; where
    the run is `lasting`, once when that begins, too.
    """

    def __init__(
        self,
        place: Collector,
        clock: Clock,
        warn: Callable[[str], None],
        metrics: Metrics | None,
        *,
        lasting: bool = False,
    ) -> None:
        self._place, self._clock, self._warn, self._metrics = place, clock, warn, metrics
        self._lasting = lasting
        self._waiting: deque[bytes] = deque()
        self._unsent = self._size = 0  # bytes that wait, and with those that are under way
        self._space, self._ready, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._full = False  # calls have waited in vain, and no space has come since
        self._spans = self._delivered = 0
        self._why: dict[str, str] = {}  # what was last heard of each path
        self._task = asyncio.ensure_future(self._run())

    async def room(self) -> bool:
        """Whether one span more may wait; after a while where there is no room now."""
        if self._size >= QUEUE and not self._full:
            self._space.clear()
            await first_of(self._clock.sleep(WAIT), self._space.wait())
            self._full = self._size >= QUEUE
        return self._size < QUEUE

    def add(self, span: bytes) -> None:
        """Let a span wait: a `ScopeSpans` of it alone."""
        self._spans += 1
        self._waiting.append(span)
        self._unsent += len(span)
        self._size += len(span)
        if self._unsent >= BODY:
            self._ready.set()

    def lose(self, why: str) -> None:
        """Count a span that is not sent."""
        self._spans += 1
        self._lost(self._why.get(TRACES) or why)

    def _lost(self, why: str) -> None:
        self._why[TRACES] = why
        if self._lasting:
            self._lasting = False
            self._warn(f"spans are not delivered: {why}; {_SEE}")

    async def _run(self) -> None:
        """Deliver until the end, and then what is left."""
        due = self._clock.monotonic() + METRICS_EVERY
        while not self._ended.is_set():
            await first_of(self._clock.sleep(EVERY), self._ready.wait(), self._ended.wait())
            self._ready.clear()
            await self._deliver_spans()
            if self._clock.monotonic() >= due:
                due += METRICS_EVERY
                await self._deliver_metrics()
        await asyncio.gather(self._deliver_spans(), self._deliver_metrics())

    async def _deliver_spans(self) -> None:
        """Send those that wait now: what comes meanwhile gets a request of its own later."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
            ExportTraceServiceResponse,
        )
        from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

        left = len(self._waiting)
        while left > 0:
            spans, size = self._take()
            left -= len(spans)
            # Messages of protobuf one behind the other are one message.
            scope = ScopeSpans.FromString(b"".join(spans))
            scope.scope.name, scope.scope.version = "llmctl", __version__
            scope.schema_url = names.SCHEMA_URL
            whole = ResourceSpans(resource=self._resource(), scope_spans=[scope])
            body = ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString()
            try:
                reply = await self._post(TRACES, body)
            except Refused as error:
                self._lost(str(error))
            else:
                partial = _decoded(ExportTraceServiceResponse, reply).partial_success
                rejected = max(0, min(partial.rejected_spans, len(spans)))
                self._delivered += len(spans) - rejected
                if rejected:
                    self._lost(f"{self._host} rejected them{_said(partial.error_message)}")
            self._size -= size
            self._full = False
            self._space.set()

    def _take(self) -> tuple[list[bytes], int]:
        """The spans of one request, and their bytes."""
        spans: list[bytes] = []
        size = 0
        while self._waiting and size < BODY:
            spans.append(self._waiting.popleft())
            size += len(spans[-1])
        self._unsent -= size
        return spans, size

    async def _deliver_metrics(self) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceRequest,
            ExportMetricsServiceResponse,
        )
        from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics, ScopeMetrics

        measured = self._metrics.encoded(self._clock.wall()) if self._metrics is not None else ()
        if not measured:
            return
        scope = ScopeMetrics(metrics=measured, schema_url=names.SCHEMA_URL)
        scope.scope.name, scope.scope.version = "llmctl", __version__
        whole = ResourceMetrics(resource=self._resource(), scope_metrics=[scope])
        body = ExportMetricsServiceRequest(resource_metrics=[whole]).SerializeToString()
        self._why[METRICS] = self._slow
        try:
            reply = await self._post(METRICS, body)
        except Refused as error:
            self._why[METRICS] = str(error)
            return
        del self._why[METRICS]
        partial = _decoded(ExportMetricsServiceResponse, reply).partial_success
        if partial.rejected_data_points:
            self._why[METRICS] = f"{self._host} rejected some{_said(partial.error_message)}"

    def _resource(self) -> Resource:
        from opentelemetry.proto.resource.v1.resource_pb2 import Resource

        made = Resource()
        for name, value in self._place.resource.items():
            put(made, clean(name), clean(value))
        return made

    @property
    def _host(self) -> str:
        return urlsplit(self._place.url).netloc

    @property
    def _slow(self) -> str:
        return f"{self._host} did not take them in time"

    async def _post(self, path: str, body: bytes) -> bytes:
        """Send until it is taken; gives the reply. Raises `Refused`."""
        pause = _PAUSE
        while True:
            try:
                return await self._attempt(path, body)
            except Refused as error:
                self._why[path] = str(error)
                # At the end nobody waits for a server that is not there.
                if error.again is None or (error.absent and self._ended.is_set()):
                    raise
                wait = self._clock.sleep(min(_LONGEST_PAUSE, error.again or pause))
            if self._ended.is_set():
                await wait
            else:
                await first_of(wait, self._ended.wait())
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _attempt(self, path: str, body: bytes) -> bytes:
        headers = {**self._place.headers, "content-type": "application/x-protobuf"}
        try:
            request = build("POST", f"{self._place.url}{path}", headers, body)
            reply = await fetch(request, _TIMEOUT, _MOST)
        except CallTimeout as error:
            why = f"{self._host} did not answer within {_TIMEOUT:g} s"
            raise Refused(why, 0.0) from error
        except ConnectionFailed as error:
            why = error.message.removesuffix("; check the network and `base_url`")
            raise Refused(why, 0.0, absent=not error.ambiguous) from error
        except LlmctlError as error:
            raise Refused(error.message) from error
        if 200 <= reply.status < 300:
            return reply.body
        why = f"{self._host} answers {path} with {reply.status}"
        if 300 <= reply.status < 400:
            why += ", and redirects are not followed"
        again = None
        if reply.status in _RETRIED:
            after = reply.headers.get("retry-after", "")
            again = float(after) if re.fullmatch(r"[0-9]{1,4}", after) else 0.0
        raise Refused(why, again)

    async def close(self) -> None:
        """Deliver what is left, within `FLUSH` seconds, and tell of what could not be."""
        try:
            await asyncio.sleep(0)  # spans of the last calls are made
            self._ended.set()
            await asyncio.wait((self._task,), timeout=FLUSH)
        finally:
            self._task.cancel()
            (ended,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(ended, Exception):
                self._why[TRACES] = f"a mistake in llmctl, {type(ended).__name__}: {ended}"
            self._tell()

    def _tell(self) -> None:
        lost = self._spans - self._delivered
        if lost:
            what = f"{lost:,} of {self._spans:,} spans were not delivered"
            self._warn(f"{what}: {self._why.get(TRACES, self._slow)}; {_SEE}")
        elif METRICS in self._why:
            more = "`metrics: false` there sends spans alone"
            self._warn(f"metrics were not delivered: {self._why[METRICS]}; {_SEE}; {more}")


def _decoded(kind: Any, reply: bytes) -> Any:
    """A collector's reply; an empty one where it is not in protobuf."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(reply)
    except DecodeError:
        return kind()


def _said(words: str) -> str:
    """What a collector says, on one line, without anything like a key: " (words)", or nothing."""
    text = " ".join(printable(redact_possible_keys(words)).split())[:200]
    return f" ({text})" if text else ""
