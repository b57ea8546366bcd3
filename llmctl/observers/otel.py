"""OpenTelemetry: what a span, and metrics, say of a call; sent by `otlp` once it is on record.

A span takes some 20 µs, behind the call and not in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmctl.auth.extras import needs_extra
from llmctl.clock import Clock
from llmctl.config.settings import Telemetry
from llmctl.errors import CallError
from llmctl.observers import genai_names as names
from llmctl.observers.audit import clean, with_tokens
from llmctl.observers.otlp import Attributes, Exporter, Metrics, collector, put
from llmctl.types import KEPT, Answer, CallRecord, Message, Request, Target

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""The W3C trace context of whoever asked for the call that is under way; empty: nobody said one."""


class TelemetryObserver:
    """Makes a span and measurements of every call, once the call is on record. `parent` is the
    trace context that the whole run has; `serving`: for callers of a gateway."""

    def __init__(
        self,
        exporter: Exporter,
        metrics: Metrics | None,
        *,
        content: bool,
        parent: str = "",
        serving: bool = False,
    ) -> None:
        self._exporter, self._metrics = exporter, metrics
        self._content, self._parent, self._serving = content, parent, serving

    async def __call__(self, record: CallRecord) -> None:
        """Return when there is room for a span; it is made when the loop comes round again."""
        room, parent = await self._exporter.room(), traceparent.get() or self._parent
        asyncio.get_running_loop().call_soon(partial(self._make, record, parent, room=room))

    def _make(self, record: CallRecord, parent: str, *, room: bool) -> None:
        try:
            if self._metrics is not None:
                measure(self._metrics, record, serving=self._serving)
            found = _TRACEPARENT.fullmatch(parent.strip())
            if found and not int(found[3], 16) & 1:
                return  # whoever asks keeps no trace of it
            if room:
                self._exporter.add(_scoped(call_span(record, found, content=self._content)))
            else:
                self._exporter.lose("they came faster than the collector takes them")
        except Exception as error:  # noqa: BLE001 - no call fails because of what is told of it
            self._exporter.lose(f"a mistake in llmctl, {type(error).__name__}: {error}")


def _scoped(span: Span) -> bytes:
    from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

    made: bytes = ScopeSpans(spans=[span]).SerializeToString()
    return made


def _path(request: Request) -> str:
    return "" if request.raw is None else request.raw.path


@lru_cache(maxsize=256)
def _asked(target: Target, path: str) -> Attributes:
    """What spans and metrics say of whom is asked; `path` as in `operation_name`."""
    found: dict[str, str | int] = {names.OPERATION: names.operation_name(target.adapter, path)}
    parts = urlsplit(target.origin)
    host = parts.hostname or ""
    found[names.PROVIDER] = names.provider_name(target.provider, host)
    found[names.REQUEST_MODEL] = clean(target.model)
    if parts.scheme in {"http", "https"} and host:
        found |= {names.SERVER_ADDRESS: host, names.SERVER_PORT: parts.port or 443}
    return tuple(found.items())


@lru_cache(maxsize=256)
def _template(target: Target, path: str) -> Span:
    """The span of any call to the target; to be copied."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    asked = dict(_asked(target, path))
    span = Span(name=f"{asked[names.OPERATION]} {asked[names.REQUEST_MODEL]}")
    span.kind = Span.SpanKind.SPAN_KIND_CLIENT
    for name, value in (*asked.items(), (names.PROFILE, clean(target.profile))):
        put(span, name, value)
    return span


def call_span(record: CallRecord, parent: re.Match[str] | None, *, content: bool) -> Span:
    """The span of a call, below `parent`; what was said only with `content`."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    request, span = record.request, Span()
    span.CopyFrom(_template(record.target, _path(request)))
    ids = os.urandom(24)
    span.trace_id, span.span_id = ids[:16], ids[16:]
    if parent is not None:
        span.trace_id, span.parent_span_id = bytes.fromhex(parent[1]), bytes.fromhex(parent[2])
    span.start_time_unix_nano = int(record.started * 1e9)
    span.end_time_unix_nano = span.start_time_unix_nano + int(max(0.0, record.elapsed) * 1e9)
    if isinstance(record.result, CallError):
        span.status.code = Status.StatusCode.STATUS_CODE_ERROR
    said = {names.CALL: request.call_id, **_parameters(request), **_outcome(record.result)}
    said |= _figures(record)
    for name, value in request.tags.items():
        said[names.TAG + clean(name)] = clean(value)
    if content and not (request.masked and request.masked.refused):
        said |= _content(record)
    for name, value in said.items():
        put(span, name, value)
    return span


def _outcome(result: Answer | CallError) -> dict[str, Any]:
    """How the call ended; of an error its kind, for its message may quote what was asked."""
    found: dict[str, Any] = {names.RETRIES: result.attempts - 1} if result.attempts > 1 else {}
    if isinstance(result, Answer):
        found[names.RESPONSE_MODEL] = clean(result.model)
        found[names.FINISH_REASONS] = (result.finish,)
        found[names.CACHE] = result.cache
    else:
        found[names.ERROR_TYPE] = result.row_type
        if result.http_status is not None:
            found[names.HTTP_STATUS] = result.http_status
    return found


def _figures(record: CallRecord) -> dict[str, Any]:
    """Time to the first piece, tokens and dollars, those that are known."""
    usage, found = record.usage, dict[str, Any]()
    if record.first_token is not None:
        found |= {names.STREAM: True, names.FIRST_CHUNK: record.first_token}
    if not _is_kept(record.result):
        known = (
            (names.INPUT_TOKENS, usage.input),
            (names.OUTPUT_TOKENS, usage.output),
            (names.CACHE_READ, usage.cached_input),
            (names.CACHE_CREATION, usage.cache_write),
            (names.REASONING, usage.reasoning),
            (names.ESTIMATED, usage.estimated),
            (names.IN_BATCH, record.in_batch),
        )
        found |= {name: value for name, value in known if value}
    for name, cost in ((names.COST, record.cost), (names.SAVED, record.saved)):
        if cost is not None:
            found[name] = float(cost)
    return found


def _is_kept(result: Answer | CallError) -> bool:
    """Whether nobody was asked, since the answer was there."""
    return isinstance(result, Answer) and result.cache in KEPT


def _parameters(request: Request) -> dict[str, Any]:
    """The parameters that the conventions know; numbers alone, for a text may be what was said."""
    found: dict[str, Any] = {}
    own = (("max_tokens", request.max_tokens), ("temperature", request.temperature))
    for given in (own, request.parameters.items()):
        for name, value in given:
            if name in names.PARAMETERS and isinstance(value, int | float) and abs(value) < 2**63:
                known, kind = names.PARAMETERS[name]
                found[known] = kind(value)
    if isinstance(several := request.parameters.get("n"), int) and 1 < several < 2**63:
        found[names.CHOICES] = several
    if request.schema is not None:
        found[names.OUTPUT_TYPE] = "json"
    return found


def _content(record: CallRecord) -> dict[str, Any]:
    """What was asked, as the provider was asked it, and what came of it, as JSON: with tokens in
    the place of what was masked. Of images, files and sound only that they are there."""
    request, result = record.request, record.result
    asked = [_message(message) for message in request.messages]
    if request.raw is not None:
        body = _json(request.raw.body)
        asked = [{"role": "user", "parts": [{"type": "text", "content": body}]}]
    found: dict[str, Any] = {names.INPUT_MESSAGES: asked}
    parts: list[dict[str, Any]] = []
    if result.text:
        parts.append({"type": "text", "content": result.text})
    if isinstance(result, Answer):
        parts += [_tool_call(call) for call in result.tool_calls]
    if parts:
        finish = result.finish if isinstance(result, Answer) else "error"
        said = {"role": "assistant", "parts": parts, "finish_reason": finish}
        found[names.OUTPUT_MESSAGES] = [said]
    values = request.masked.values if request.masked is not None else {}
    texts = {name: _json(value) for name, value in found.items()}
    found = {name: clean(with_tokens(text, values)) for name, text in texts.items()}
    stop = request.parameters.get("stop") or request.parameters.get("stop_sequences") or ()
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list | tuple) and stops:
        found[names.STOP_SEQUENCES] = tuple(clean(str(each)) for each in stops)
    return found


def _json(value: Any) -> str:
    """JSON of what may hold half characters, which orjson refuses."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        said = {"type": "tool_call_response", "response": message.text}
        return {"role": "tool", "parts": [{**said, "id": message.extra.get("tool_call_id")}]}
    content = message.content
    if isinstance(content, str):
        content = ({"type": "text", "text": content},)
    parts = [
        {"type": "text", "content": part.get("text")}
        if part.get("type") == "text"
        else {"type": str(part.get("type"))}
        for part in content or ()
    ]
    calls = message.extra.get("tool_calls")
    parts += [_tool_call(call) for call in (calls if isinstance(calls, list | tuple) else ())]
    return {"role": message.role, "parts": parts}


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") or {}
    made = {"type": "tool_call", "id": call.get("id"), "name": function.get("name")}
    return {**made, "arguments": function.get("arguments")}


@lru_cache(maxsize=1024)
def _measured(target: Target, path: str, model: str, error: str) -> Attributes:
    """What metrics say of a call; `model` answered, or there was an `error`."""
    ended = ((names.RESPONSE_MODEL, clean(model)), (names.ERROR_TYPE, error))
    return (*_asked(target, path), *((name, value) for name, value in ended if value))


def measure(metrics: Metrics, record: CallRecord, *, serving: bool) -> None:
    """Record the measurements of a call; `serving`: as its caller sees it, too."""
    request, result, usage = record.request, record.result, record.usage
    model = result.model if isinstance(result, Answer) else ""
    error = "" if isinstance(result, Answer) else result.row_type
    said = _measured(record.target, _path(request), model, error)
    first = record.first_token
    if serving:
        metrics.record(names.SERVER_DURATION, record.elapsed, said)
        if first is not None and not error:
            metrics.record(names.SERVER_FIRST_TOKEN, first, said)
    if _is_kept(result) or not result.attempts:
        return  # nobody was asked
    if not record.in_batch:  # of which nobody knows how long they took
        metrics.record(names.CLIENT_DURATION, record.elapsed, said)
    if first is not None:
        metrics.record(names.CLIENT_FIRST_CHUNK, first, said)
    if usage.input:
        metrics.record(names.TOKEN_USAGE, usage.input, (*said, (names.TOKEN_TYPE, "input")))
    if usage.output:
        metrics.record(names.TOKEN_USAGE, usage.output, (*said, (names.TOKEN_TYPE, "output")))
    if record.cost:
        metrics.record(names.SPENT, float(record.cost), said)


@asynccontextmanager
async def open_telemetry(
    settings: Telemetry,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    run_id: str,
    warn: Callable[[str], None],
    serving: bool,
) -> AsyncIterator[TelemetryObserver | None]:
    """The observer of a run; what it has made is delivered at the end, for a few seconds. None
    where the environment names no collector. `serving`: the run is a gateway's. Raises
    `SetupError`."""
    place = collector(settings, environ, run_id)
    if place is None:
        yield None
        return
    needs_extra("otel", "opentelemetry.proto", "opentelemetry-proto")
    metrics = Metrics(clock.wall()) if settings.metrics else None
    exporter = Exporter(place, clock, warn, metrics, lasting=serving)
    parent = environ.get("TRACEPARENT", "")
    try:
        yield TelemetryObserver(
            exporter, metrics, content=settings.content, parent=parent, serving=serving
        )
    finally:
        await exporter.close()
