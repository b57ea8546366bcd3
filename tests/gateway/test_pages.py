"""The gateway's pages and metrics, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmctl.gateway.callers import Caller
from llmctl.gateway.metrics import HttpFigures, Metrics
from llmctl.gateway.openapi import ROUTES, document
from llmctl.gateway.pages import pages
from llmctl.storage.ledger import open_ledger
from llmctl.types import CallRecord, Usage
from tests.prometheus import check, samples
from tests.support import request, response

STARTED = 1_795_900_000.0
ADMIN, MEMBER = Caller("ada", admin=True), Caller("bob", token="ci")


@dataclass
class FakeService:
    """A service that is ready, or says why not."""

    why: list[str] = field(default_factory=list)
    authenticate: object = None

    def ready(self) -> list[str]:
        """Why it is not ready."""
        return self.why

    def waiting(self) -> Mapping[str, int]:
        """Calls that wait."""
        return {"sim": 3}

    async def usage(self, caller: Caller) -> Mapping[str, Any]:
        """Whose it is."""
        return {"user": caller.user}


@dataclass
class FakeApp:
    """What pages see of the application."""

    service: FakeService = field(default_factory=FakeService)
    draining: bool = False


@dataclass
class Reply:
    """A status, headers and a body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body read."""
        return orjson.loads(self.body)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    """The metrics of a worker whose ledger is not there yet."""
    return Metrics(tmp_path / "ledger.db", "0")


def get(
    metrics: Metrics,
    path: str,
    caller: Caller | None = ADMIN,
    app: FakeApp | None = None,
    method: str = "GET",
    host: str = "gateway",
) -> Reply:
    """What the page at `path` answers."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "root_path": "", "scheme": "http", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", host.encode())], "server": ("127.0.0.1", 1), "client": ("::1", 2),
        "llmctl.app": app or FakeApp(), "llmctl.caller": caller,
    }  # fmt: skip

    async def ask() -> None:
        await pages(metrics)(scope, receive, send)

    asyncio.run(ask())
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(
        sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])
    )


def test_health_needs_nothing(metrics: Metrics) -> None:
    """The process lives as long as it answers, also while it drains."""
    reply = get(metrics, "/healthz", None, FakeApp(draining=True))
    assert (reply.status, reply.json()) == (200, {"status": "ok"})


def test_ready(metrics: Metrics) -> None:
    """Ready is 200; while it drains, 503."""
    assert get(metrics, "/readyz", None).status == 200
    reply = get(metrics, "/readyz", None, FakeApp(draining=True))
    assert (reply.status, reply.json()["status"]) == (503, "draining")


def test_not_ready(metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot serve is 503, and only the log says why: anybody may ask."""
    why = "/home/ada/ledger.db is gone"
    reply = get(metrics, "/readyz", None, FakeApp(FakeService([why])))
    assert (reply.status, reply.json()) == (503, {"status": "not ready"})
    assert why in capsys.readouterr().err


def test_a_caller_sees_its_own_usage(metrics: Metrics) -> None:
    """The service is asked for the usage of whoever asks."""
    assert get(metrics, "/usage", MEMBER).json() == {"user": "bob"}


def test_metrics_are_for_admins(metrics: Metrics) -> None:
    """Who is no admin gets 403 and no figure."""
    assert get(metrics, "/metrics").status == 200
    reply = get(metrics, "/metrics", MEMBER)
    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission")
    assert b"llmctl_" not in reply.body


@pytest.mark.parametrize("host", ["x/healthz?", "x/usage#", "@", "[", "x:99999999"])
def test_the_host_header_moves_no_path(metrics: Metrics, host: str) -> None:
    """Pages are found by the path alone, whatever the `Host` header says."""
    assert get(metrics, "/metrics", MEMBER, host=host).status == 403
    assert get(metrics, "/nothing", host=host).status == 404


def test_what_is_no_page(metrics: Metrics) -> None:
    """Unknown paths are 404 and other methods 405 with `allow`, both as JSON."""
    reply = get(metrics, "/v1/nothing")
    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found")
    reply = get(metrics, "/usage", method="DELETE")
    assert (reply.status, "GET" in reply.headers["allow"]) == (405, True)
    assert reply.json()["error"]["type"] == "invalid_request"


def test_root_names_the_pages(metrics: Metrics) -> None:
    """The links of `/` are the paths of the document, but for itself and those with a variable."""
    links = get(metrics, "/").json()["links"]
    assert {"/", *links.values()} == {route for route in ROUTES if "{" not in route}


def test_openapi_can_be_loaded(metrics: Metrics) -> None:
    """Schemathesis reads the document, and every path of it has an operation."""
    schemathesis = pytest.importorskip("schemathesis")
    assert get(metrics, "/openapi.json").json() == document()
    schema = schemathesis.openapi.from_dict(document())
    found = {operation.ok().path for operation in schema.get_all_operations()}
    assert found == ROUTES


def test_ledger_metrics_are_what_all_processes_wrote(tmp_path: Path) -> None:
    """Calls, tokens and dollars are the ledger's, whoever wrote them, by profile, provider and
    model; an empty page where there is no ledger yet, and `promtool` finds no fault in either."""

    async def write(run: str) -> None:
        ledger = open_ledger(tmp_path / "ledger.db", run, "ada")
        for number in range(2):
            asked, usage = request(call_id=f"{run}-{number}"), Usage(input=3, output=2)
            await ledger.settle(
                CallRecord(asked, response(), usage, Decimal("0.125"), None, STARTED, 0.1, None)
            )
        ledger.close()

    check(Metrics(tmp_path / "ledger.db", "0").text({}))
    for run in ("a", "b"):
        asyncio.run(write(run))
    metrics = Metrics(tmp_path / "ledger.db", "0")
    metrics.http.ended("/v1/messages", 200, 0.2)
    page = metrics.text({"sim": 3})
    check(page)
    found = samples(page)
    where = ("test", "openai", "gpt-5-mini")
    assert found[frozenset(("llmctl_calls_total", *where, "answered"))] == 4
    assert found[frozenset(("llmctl_calls_total", *where, "failed"))] == 0
    assert found[frozenset(("llmctl_tokens_total", *where, "input"))] == 12
    assert found[frozenset(("llmctl_tokens_total", *where, "output"))] == 8
    assert found[frozenset(("llmctl_cost_usd_total", *where))] == pytest.approx(0.5)


def test_requests_by_route_and_status(metrics: Metrics) -> None:
    """Requests are counted by route and status; unknown paths are one route, however many callers
    make up. Names of models in a path make none either."""
    http: HttpFigures = metrics.http
    http.in_flight = lambda: 2
    for path in ("/v1/messages", "/v1/messages", "/x", "/y", "/v1/models/a", "/v1/models/b"):
        http.ended(path, 200, 0.2)
    http.ended("/v1/messages", 429, 0.001)
    found = samples(metrics.text({"sim": 3}))
    assert found[frozenset(("llmctl_http_requests_total", "0", "/v1/messages", "200"))] == 2
    assert found[frozenset(("llmctl_http_requests_total", "0", "/v1/messages", "429"))] == 1
    assert found[frozenset(("llmctl_http_requests_total", "0", "other", "200"))] == 2
    assert found[frozenset(("llmctl_http_requests_total", "0", "/v1/models/{model}", "200"))] == 2
    seconds = found[
        frozenset(("llmctl_http_request_duration_seconds_sum", "0", "/v1/messages", "200"))
    ]
    assert seconds == pytest.approx(0.4)
    assert found[frozenset(("llmctl_http_requests_in_flight", "0"))] == 2
    assert found[frozenset(("llmctl_waiting_calls", "0", "sim"))] == 3


def test_metrics_have_help_and_units(metrics: Metrics) -> None:
    """Every metric has a help line, and none is called otherwise than `llmctl_…`."""
    text = metrics.text({}).decode()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("llmctl_")
        assert family.documentation
