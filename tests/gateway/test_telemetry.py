"""Spans and metrics of the gateway's calls."""

from __future__ import annotations

from pathlib import Path

from tests.collector import attributes, collecting
from tests.gateway.conftest import Serve
from tests.gateway.serving import configure
from tests.gateway.site import CHAT
from tests.simulator.server import Simulator

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_calls_are_below_their_callers_spans(home: Path, sim: Simulator, serve: Serve) -> None:
    """Each call has a span below that of its caller, who says one, and else a trace of its own;
    each worker sends its own metrics, which add up to all requests as the callers saw them."""
    with collecting() as collector:
        configure(home, sim, f"telemetry: {{otlp: '{collector.url}'}}\n")
        gateway = serve("--workers", "2")
        for number in range(12):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"} if number % 2 else {}
            with gateway.client() as client:
                body = {**CHAT, "messages": [{"role": "user", "content": f"canary {number}"}]}
                assert client.post("/v1/chat/completions", json=body, headers=headers).is_success
        assert gateway.stop() == 0
        spans = collector.spans
        assert len(spans) == 12
        below = [span for span in spans if span.trace_id.hex() == TRACE]
        assert {span.parent_span_id.hex() for span in below} == {PARENT}
        assert len(below) == 6
        assert len({span.trace_id for span in spans}) == 7
        served = collector.points("gen_ai.server.request.duration")
        assert sum(point.count for point in served) == 12
        assert {attributes(point)["gen_ai.request.model"] for point in served} == {"gpt-5-mini"}
        assert {attributes(each)["service.name"] for each in collector.resources} == {"llmctl"}
        assert not any(b"canary" in body for body in collector.bodies)
        assert not [line for line in gateway.lines if "spans" in line]
