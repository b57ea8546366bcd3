"""Spans and metrics of calls, as a collector on loopback gets them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from llmctl.clock import Clock, SystemClock
from llmctl.config.settings import Secret, Telemetry
from llmctl.errors import CallError, RateLimited, SetupError
from llmctl.observers import genai_names as names
from llmctl.observers import otlp
from llmctl.observers.otel import TelemetryObserver, open_telemetry
from llmctl.redact import forget
from llmctl.types import Answer, CallRecord, Masked, Message, RawRequest, Usage
from tests.cli.jsonl import prompts, read, write
from tests.collector import Collector, attributes, collecting
from tests.conftest import KEY, LLMCTL, Run, configure, ledger
from tests.simulator.server import Simulator
from tests.support import TARGET, FakeClock, request, response

NOW = 1_800_000_000.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ROW = {
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model",
    "gen_ai.response.model", "gen_ai.response.finish_reasons", "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens", "server.address", "server.port", "llmctl.profile",
    "llmctl.call.id", "llmctl.cache", "llmctl.cost.usd",
}  # fmt: skip
"""All that a span says of a simple row."""
MEASURED = {"gen_ai.client.operation.duration", "gen_ai.client.token.usage", "llmctl.cost.usd"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes everything."""
    with collecting() as found:
        yield found


@pytest.fixture
def llmctl(run: Run, configured: dict[str, str]) -> Run:
    """Run `llmctl` with the default profile `sim`, which points at the simulator."""
    return partial(run, env=configured)


def a_record(result: Answer | CallError | None = None, **changes: Any) -> CallRecord:
    """How a call ended; `changes` are those of its request."""
    asked = request("where do I live?", **changes)
    ended = result or response("in Köln", target=asked.target)
    return CallRecord(asked, ended, Usage(3, 2), Decimal("0.25"), None, NOW, 1.5, None)


def observe(
    url: str,
    *records: CallRecord,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    serving: bool = False,
) -> list[str]:
    """Let these calls be observed, and the run end; gives what the user is told."""
    told: list[str] = []

    async def run() -> None:
        opening = open_telemetry(
            Telemetry(otlp=url, **(settings or {})),
            environ or {},
            clock or SystemClock(),
            run_id="run-1",
            warn=told.append,
            serving=serving,
        )
        async with opening as observer:
            for record in records:
                assert observer is not None
                await observer(record)
                await asyncio.sleep(0)  # a call takes a while

    if isinstance(clock, FakeClock):
        clock.run(run())
    else:
        asyncio.run(run())
    return told


def span_of(collector: Collector, record: CallRecord, **more: Any) -> tuple[Span, dict[str, Any]]:
    """The span of one call, and its attributes."""
    assert observe(collector.url, record, **more) == []
    return collector.spans[-1], collector.said[-1]


def telemetry(home: Path, text: str) -> None:
    """Add the section to the user's configuration."""
    with (home / ".config/llmctl/config.yaml").open("a", encoding="utf-8") as file:
        file.write(f"telemetry: {text}\n")


def test_every_row_of_a_batch_is_a_span(
    home: Path, environ: dict[str, str], tmp_path: Path, collector: Collector
) -> None:
    """3,000 rows are 3,000 spans, decoded by OTLP's own messages: each with ids of its own, the
    call id of its row in the ledger, its time within the run, and exactly the conventions' names;
    below the run's parent. The metrics add up to the same. Nothing that was said is anywhere."""
    rows = [{"id": f"r{n}", "prompt": f"canary-{n} wants to know"} for n in range(3_000)]
    file = write(tmp_path / "in.jsonl", rows)
    begun = time.time()
    with Simulator(record_bodies=False) as sim:
        configure(home, sim.base_url, "{env: SIM_KEY}")
        telemetry(home, f"{{otlp: '{collector.url}'}}")
        done = subprocess.run(
            [LLMCTL, "batch", file, "--json", "-q", "--concurrency", "50"],
            env={**environ, "SIM_KEY": KEY, "TRACEPARENT": SAMPLED},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    spans, said = collector.spans, collector.said
    assert len(spans) == 3_000
    assert len({span.span_id for span in spans}) == 3_000
    ids = {each["llmctl.call.id"] for each in said}
    assert ids == {row["call_id"] for row in ledger(home)}
    assert {frozenset(each) for each in said} == {frozenset(ROW)}
    assert {scope.schema_url for scope in collector.scopes} == {names.SCHEMA_URL}
    (resource,) = {resource.SerializeToString() for resource in collector.resources}
    assert b"llmctl" in resource
    for span in spans:
        assert (span.name, span.kind) == ("chat gpt-5-mini", Span.SpanKind.SPAN_KIND_CLIENT)
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert begun * 1e9 <= span.start_time_unix_nano < span.end_time_unix_nano
        assert span.end_time_unix_nano < time.time() * 1e9
    summary = json.loads(done.stdout)
    assert set(collector.metrics) == MEASURED
    (calls,) = collector.points("gen_ai.client.operation.duration")
    assert (calls.count, sum(calls.bucket_counts)) == (3_000, 3_000)
    assert tuple(calls.explicit_bounds) == names.CLIENT_DURATION.bounds
    tokens = {attributes(p)["gen_ai.token.type"]: p.sum for p in collector.points(
        "gen_ai.client.token.usage")}  # fmt: skip
    assert tokens == {"input": summary["input_tokens"], "output": summary["output_tokens"]}
    (spent,) = collector.points("llmctl.cost.usd")
    assert spent.as_double == pytest.approx(summary["cost_usd"])
    assert not any(b"canary" in body for body in collector.bodies)


def test_what_was_said_only_where_it_is_asked_for(
    llmctl: Run, home: Path, collector: Collector
) -> None:
    """With `content: true` a span has question and answer, by the conventions' schema."""
    telemetry(home, f"{{otlp: '{collector.url}', content: true}}")
    assert llmctl("ask", "-s", "be brief", "canary").returncode == 0
    (said,) = collector.said
    asked, answered = (
        json.loads(said[f"gen_ai.{which}.messages"]) for which in ("input", "output")
    )
    assert asked == [
        {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "canary"}]},
    ]
    assert answered == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "echo: canary"}],
            "finish_reason": "stop",
        }
    ]


def test_nothing_is_sent_that_the_configuration_does_not_ask_for(
    llmctl: Run, home: Path, configured: dict[str, str], collector: Collector
) -> None:
    """OpenTelemetry's own variables alone send nothing; `otlp: env` sends where they say, under the
    names that they give, and nowhere where they name no collector."""
    there = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=search%20one,authorization=Bearer%20canary-4711",
        "OTEL_SERVICE_NAME": "nightly",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=ci,service.name=other",
    }
    assert llmctl("ask", "hi", env={**configured, **there}).returncode == 0
    assert collector.paths == []
    telemetry(home, "{otlp: env}")
    assert llmctl("ask", "hi").stderr == ""
    assert collector.paths == []
    done = llmctl("ask", "hello", env={**configured, **there})
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(collector.paths) == ["/v1/metrics", "/v1/traces"]
    for heard in collector.requests:
        assert (heard["x-team"], heard["authorization"]) == ("search one", "Bearer canary-4711")
    resource = attributes(collector.resources[0])
    assert (resource["service.name"], resource["deployment.environment"]) == ("nightly", "ci")


def test_a_collector_that_is_down(llmctl: Run, home: Path, tmp_path: Path) -> None:
    """Neither rows nor the exit code are any different; at the end one line says how many spans
    were not delivered, why, and what to do. Nobody waits for what is not there."""
    with collecting() as gone:
        pass
    telemetry(home, f"{{otlp: '{gone.url}'}}")
    begun = time.monotonic()
    done = llmctl("batch", str(write(tmp_path / "in.jsonl", prompts(10))), "-q")
    assert (done.returncode, len(read(tmp_path / "in.out.jsonl"))) == (0, 10)
    (line,) = done.stderr.splitlines()
    where = gone.url.removeprefix("http://")
    assert f"10 of 10 spans were not delivered: no connection to {where} (Connection" in line
    assert "see `telemetry:` in the configuration, and whether the collector runs" in line
    assert time.monotonic() - begun < otlp.FLUSH + 20


def test_a_collector_that_is_busy_is_asked_again(collector: Collector) -> None:
    """After 503 and 429 the same spans are sent once more, as late as it says; nothing is lost, and
    nobody is told."""
    collector.statuses += [503, 429]
    clock = FakeClock(NOW)
    told = observe(collector.url, a_record(), settings={"metrics": False}, clock=clock)
    assert (told, len(collector.spans), len(collector.paths)) == ([], 1, 3)
    assert collector.bodies[0] == collector.bodies[1] == collector.bodies[2]
    collector.statuses.append(503)
    collector.headers["retry-after"] = "17"
    before = clock.now
    assert observe(collector.url, a_record(), settings={"metrics": False}, clock=clock) == []
    assert clock.now - before >= 17


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (307, "with 307, and redirects are not followed"),
        (401, "answers /v1/traces with 401"),
        (404, "answers /v1/traces with 404"),
    ],
)
def test_a_refusal_is_final(collector: Collector, status: int, words: str) -> None:
    """A redirect is not followed, and what is refused for good is not sent again: it is told of."""
    collector.statuses.append(status)
    with collecting() as other:
        collector.headers["location"] = f"{other.url}/v1/traces"
        (told,) = observe(collector.url, a_record(), settings={"metrics": False})
        assert other.paths == []
    assert told.startswith("1 of 1 spans were not delivered: ")
    assert words in told
    assert collector.paths == ["/v1/traces"]


def test_what_a_collector_rejects_is_told(collector: Collector) -> None:
    """It may take a request and reject some of its spans."""
    collector.rejected = 2
    (told,) = observe(collector.url, *[a_record()] * 5, settings={"metrics": False})
    where = collector.url.removeprefix("http://")
    assert told.startswith(f"2 of 5 spans were not delivered: {where} rejected them (too old)")


def test_a_collector_without_metrics(collector: Collector) -> None:
    """One that takes spans alone is told of with what to do, and with that there is no more."""
    collector.takes_metrics = False
    clock = FakeClock(NOW)

    async def run() -> list[str]:
        told: list[str] = []
        exporter = otlp.Exporter(
            otlp.Collector(collector.url, {}, {}), clock, told.append, otlp.Metrics(NOW)
        )
        observer = TelemetryObserver(exporter, exporter._metrics, content=False)
        await observer(a_record())
        while not collector.spans:  # which come first, while the run goes on
            await clock.sleep(1)
        await exporter.close()
        return told

    (told,) = clock.run(run())
    assert "metrics were not delivered: " in told
    assert "answers /v1/metrics with 404" in told
    assert "`metrics: false` there sends spans alone" in told
    assert observe(collector.url, a_record(), settings={"metrics": False}) == []


def test_a_slow_collector_ends_no_later(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that does not answer is waited for `FLUSH` seconds, and told of."""
    monkeypatch.setattr(otlp, "FLUSH", 0.2)
    collector.open.clear()
    begun = time.monotonic()
    (told,) = observe(collector.url, a_record())
    assert time.monotonic() - begun < 5
    assert told.startswith("1 of 1 spans were not delivered: ")
    assert "did not take them in time" in told


def test_what_waits_is_bounded(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the collector takes nothing, calls wait once for room, then no more; what has no room
    is counted and told of, and what had is delivered when the collector is back."""
    monkeypatch.setattr(otlp, "QUEUE", 4000)
    slept: list[float] = []

    class Noting(FakeClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await super().sleep(seconds)

    clock = Noting(NOW)
    (told,) = observe(collector.url, *[a_record()] * 50, settings={"metrics": False}, clock=clock)
    assert slept.count(otlp.WAIT) == 1
    taken = len(collector.spans)
    assert 4 <= taken < 20
    assert told.startswith(f"{50 - taken} of 50 spans were not delivered: they came faster than")


def test_a_gateway_says_so_when_it_begins(collector: Collector) -> None:
    """A run without an end in sight tells of the first loss at once, and of others at its end."""
    told: list[str] = []

    async def run() -> None:
        place = otlp.Collector(collector.url, {}, {})
        exporter = otlp.Exporter(place, SystemClock(), told.append, None, lasting=True)
        exporter.lose("it is full")
        exporter.lose("it is full")
        assert len(told) == 1
        await exporter.close()

    asyncio.run(run())
    assert told[0].startswith("spans are not delivered: it is full; see `telemetry:`")
    assert told[1].startswith("2 of 2 spans were not delivered: it is full; see `telemetry:`")


def test_a_failed_call(collector: Collector) -> None:
    """Its span has the kind of the error and the status, and never its message, which may quote
    what was asked."""
    error = RateLimited("slow down, canary", http_status=429)
    error.attempts = 3
    span, said = span_of(collector, a_record(error))
    assert span.status.code == Status.StatusCode.STATUS_CODE_ERROR
    assert (said["error.type"], said["http.response.status_code"]) == ("rate_limited", 429)
    assert said["llmctl.retries"] == 2
    assert not any(b"canary" in body for body in collector.bodies)
    (duration,) = collector.points("gen_ai.client.operation.duration")
    assert attributes(duration)["error.type"] == "rate_limited"


def test_a_call_that_was_not_sent(collector: Collector) -> None:
    """It has a span, but no operation of a provider's is measured."""
    refused = CallError("no", sent=False)
    assert observe(collector.url, a_record(refused)) == []
    assert (len(collector.spans), collector.metrics) == (1, {})


def test_a_kept_answer(collector: Collector) -> None:
    """Its span says so and what it saved; nobody was asked, so no tokens are counted again."""
    kept = replace(a_record(response(cache="hit")), cost=Decimal(0), saved=Decimal("0.5"))
    _, said = span_of(collector, kept)
    assert (said["llmctl.cache"], said["llmctl.saved.usd"]) == ("hit", 0.5)
    assert "gen_ai.usage.input_tokens" not in said
    assert collector.metrics == {}


def test_a_stream(collector: Collector) -> None:
    """It has the time to its first piece; in a gateway as its caller sees it, too."""
    streamed = replace(a_record(), first_token=0.25)
    assert observe(collector.url, streamed, serving=True) == []
    (said,) = collector.said
    assert (said["gen_ai.request.stream"], said["gen_ai.response.time_to_first_chunk"]) == (
        True,
        0.25,
    )
    for name in (
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.server.time_to_first_token",
    ):
        (point,) = collector.points(name)
        assert (point.count, point.sum) == (1, 0.25)
    (duration,) = collector.points("gen_ai.server.request.duration")
    assert (duration.sum, duration.min, duration.max) == (1.5, 1.5, 1.5)


def test_what_was_asked_for(collector: Collector) -> None:
    """Parameters that are numbers have the conventions' names, tags ours; a parameter that is a
    text, which may be anything, is left out, and so is a number that OTLP cannot carry."""
    record = a_record(
        max_tokens=100, temperature=0.5, schema={"type": "object"},
        tags={"team": "search"},
        options={"top_p": 0.9, "seed": 2**63, "n": 3, "top_k": "canary", "stop": ["canary"]},
    )  # fmt: skip
    span, said = span_of(collector, record)
    assert said["gen_ai.request.max_tokens"] == 100
    assert (said["gen_ai.request.temperature"], said["gen_ai.request.top_p"]) == (0.5, 0.9)
    assert (said["gen_ai.request.choice.count"], said["gen_ai.output.type"]) == (3, "json")
    assert said["llmctl.tag.team"] == "search"
    assert "gen_ai.request.seed" not in said
    assert not any(b"canary" in body for body in collector.bodies)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (
        int(NOW * 1e9),
        int((NOW + 1.5) * 1e9),
    )


@pytest.mark.parametrize(
    ("provider", "adapter", "base_url", "path", "operation", "name"),
    [
        ("openai", "openai", "https://api.openai.com/v1", "", "chat", "openai"),
        ("openai", "openai", "https://me.openai.azure.com/v1", "", "chat", "azure.ai.openai"),
        ("openai", "openai", "https://api.x.ai/v1", "", "chat", "x_ai"),
        ("openai", "openai", "https://notx.ai/v1", "/embeddings", "embeddings", "openai"),
        ("openai", "openai", "https://llm.example/v1", "/completions", "text_completion", "openai"),
        ("mistral", "mistral", "https://api.mistral.ai/v1", "", "chat", "mistral_ai"),
        ("vertex", "vertex", "https://x.googleapis.com/v1", "", "generate_content",
         "gcp.vertex_ai"),
        ("gemini", "gemini", "https://g.example", "", "generate_content", "gcp.gemini"),
        ("bedrock", "bedrock", "https://b.example", "", "chat", "aws.bedrock"),
        ("local", "openai", "local://model/a.gguf?size=1", "", "chat", "local"),
    ],
)  # fmt: skip
def test_names_of_providers(
    collector: Collector,
    provider: str,
    adapter: str,
    base_url: str,
    path: str,
    operation: str,
    name: str,
) -> None:
    """Operation and provider have the names of the conventions, where those know them; a model in
    this program has no address."""
    target = replace(TARGET, provider=provider, adapter=adapter, base_url=base_url)
    raw = RawRequest(path, {}) if path else None
    span, said = span_of(collector, a_record(target=target, raw=raw), settings={"metrics": False})
    assert (said["gen_ai.operation.name"], said["gen_ai.provider.name"]) == (operation, name)
    assert span.name == f"{operation} gpt-5-mini"
    assert said.get("server.port") == (None if provider == "local" else 443)


def test_content_of_a_masked_call(collector: Collector) -> None:
    """It has the tokens in question, answer and tool calls, though the caller got the values; of a
    call that was refused for what is in it there is no content at all."""
    token, value = "[[EMAIL_1a2b]]", 'ann"@x.example'
    asked = request(f"mail {token}", masked=Masked({"email": 1}, {token: value}))
    function = {"name": "f", "arguments": json.dumps({"to": value})}
    answer = response(f"to {value}", tool_calls=({"id": "1", "function": function},))
    sent = replace(a_record(answer), request=asked, asked=request(f"mail {value}"))
    blocked = a_record(masked=Masked({"email": 1}, refused="there is an address"))
    assert observe(collector.url, sent, blocked, settings={"content": True}) == []
    first, second = collector.said
    assert token in first["gen_ai.input.messages"]
    assert first["gen_ai.output.messages"].count(token) == 2
    assert json.loads(first["gen_ai.output.messages"])[0]["parts"][1]["name"] == "f"
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & set(second)
    assert not any(b"x.example" in body for body in collector.bodies)


def test_content_of_other_parts(collector: Collector) -> None:
    """Of an image only that it is there; a tool's call and its result are told as such, and a body
    that is passed through as it is. Half a character is no reason to lose a span."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "t1", "function": {"name": "f", "arguments": "{}"}}
    turns = (
        Message("user", ({"type": "text", "text": "see"}, image)),
        Message("assistant", None, {"tool_calls": [call]}),
        Message("tool", "done", {"tool_call_id": "t1"}),
    )
    broken = a_record(response("half \ud800"), tags={"a\udcff": "b"})
    raw = a_record(raw=RawRequest("/chat/completions", {"messages": [{"content": "hm"}]}))
    told = observe(collector.url, a_record(messages=turns), raw, broken, settings={"content": True})
    assert told == []
    (asked, passed, _) = [json.loads(said["gen_ai.input.messages"]) for said in collector.said]
    assert asked[0]["parts"] == [{"type": "text", "content": "see"}, {"type": "image_url"}]
    assert asked[1]["parts"][0] == {
        "type": "tool_call", "id": "t1", "name": "f", "arguments": "{}",
    }  # fmt: skip
    assert asked[2]["parts"] == [{"type": "tool_call_response", "response": "done", "id": "t1"}]
    assert json.loads(passed[0]["parts"][0]["content"]) == {"messages": [{"content": "hm"}]}
    assert collector.said[2]["llmctl.tag.a?"] == "b"


@pytest.mark.parametrize("parent", ["", "nonsense", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-x"])
def test_no_parent(collector: Collector, parent: str) -> None:
    """Without a valid trace context every call has a trace of its own."""
    records = [a_record(), a_record()]
    assert observe(collector.url, *records, environ={"TRACEPARENT": parent}) == []
    assert len({span.trace_id for span in collector.spans}) == 2
    assert {span.parent_span_id for span in collector.spans} == {b""}


def test_a_trace_that_is_not_kept(collector: Collector) -> None:
    """Where whoever asks does not sample the trace there are no spans; the metrics count."""
    assert observe(collector.url, a_record(), environ={"TRACEPARENT": UNSAMPLED}) == []
    assert collector.spans == []
    assert set(collector.metrics) == MEASURED


def test_headers_are_secrets(collector: Collector) -> None:
    """A header's value is that of its variable; it is sent, and shown in nothing that is told."""
    collector.statuses.append(400)
    settings = {"headers": {"X-Api-Key": Secret("OTLP_KEY")}, "metrics": False, "service": "me"}
    key = "otlp-key-abcdef-4711"
    try:
        (told,) = observe(collector.url, a_record(), settings=settings, environ={"OTLP_KEY": key})
        assert collector.requests[0]["x-api-key"] == key
        assert key not in told
    finally:
        forget(key)
    with pytest.raises(SetupError, match="OTLP_KEY is not set"):
        observe(collector.url, settings=settings)
    with pytest.raises(SetupError, match="https:// alone"):
        observe("http://collector.example", settings=settings, environ={"OTLP_KEY": key})
    forget(key)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "is not http:// or https://"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x.example/v1/traces"}, "is not http://"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "speaks http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "canary-4711"}, "is no list such as name=value"),
    ],
)
def test_variables_that_cannot_be_used(environ: dict[str, str], words: str) -> None:
    """A mistake in OpenTelemetry's variables is an error that names the variable, not its value."""
    where = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **environ}
    with pytest.raises(SetupError) as caught:
        observe("env", environ=where)
    assert words in caught.value.message
    assert next(iter(environ)) in caught.value.message
    assert "canary" not in caught.value.message


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named with the command that installs it, before anything is sent."""
    monkeypatch.setattr("llmctl.auth.extras.find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"opentelemetry-proto is not installed: .*otel"):
        observe("http://127.0.0.1:4318")


def test_many_models_are_one_series(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers may ask for any number of models: beyond a limit they are counted together."""
    monkeypatch.setattr(otlp, "SERIES", 4)
    records = [a_record(target=replace(TARGET, model=f"m{n}")) for n in range(10)]
    assert observe(collector.url, *records) == []
    points = collector.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in points) == 10
    (rest,) = [point for point in points if "otel.metric.overflow" in attributes(point)]
    assert rest.count == 9


def test_a_mistake_of_ours_fails_no_call(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span that cannot be made is told of, and the run goes on."""

    def broken(*_: object, **__: object) -> Span:
        raise ValueError("oh")

    monkeypatch.setattr("llmctl.observers.otel.call_span", broken)
    (told,) = observe(collector.url, a_record())
    assert told.startswith("1 of 1 spans were not delivered: a mistake in llmctl, ValueError: oh")
