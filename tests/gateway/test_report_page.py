"""The page of `llmctl report` at the gateway's `/`: who sees it, and how it is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmctl.clock import SystemClock
from llmctl.gateway import pages as module
from llmctl.gateway.callers import Caller
from llmctl.gateway.metrics import Metrics
from llmctl.gateway.pages import pages
from llmctl.reports.page import policy
from tests.gateway.conftest import Serve
from tests.ledgers import a_call, a_ledger

BROWSER = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
Ask = Callable[[int], list[bytes]]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with one call, a second ago."""
    started = round(time.time() * 1000) - 1000
    return a_ledger(tmp_path / "ledger.db", a_call(started_ms=started, model="gpt-first"))


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Lets so many admins ask for the page at once."""
    service = SimpleNamespace(
        settings=SimpleNamespace(folders=SimpleNamespace(state=tmp_path), budgets=()),
        run=SimpleNamespace(clock=SystemClock()),
    )
    app = pages(Metrics(tmp_path / "ledger.db", "0"))
    scope = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
        "headers": [(b"accept", b"text/html")], "llmctl.app": SimpleNamespace(service=service),
        "llmctl.caller": Caller("ada", admin=True),
    }  # fmt: skip

    async def one() -> bytes:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        await app(scope, receive, send)
        status, body = sent[0]["status"], sent[1]["body"]
        return f"{status} {body.decode()}".encode()

    async def many(number: int) -> list[bytes]:
        return await asyncio.gather(*(one() for _ in range(number)))

    return lambda number: asyncio.run(many(number))


def test_who_sees_it(serve: Serve, token: Callable[..., str], home: Path) -> None:
    """A browser with an admin's token gets the page, whose policy is a header, too; another
    caller is refused, and one without a token; what is no browser gets the links."""
    state = home / ".local/state/llmctl"
    state.mkdir(parents=True, mode=0o700)
    started = round(time.time() * 1000) - 1000
    a_ledger(state / "ledger.db", a_call(started_ms=started, user="secret-user"))
    admin, member, gateway = token("ops", "--admin"), token("web"), serve()
    with gateway.client(admin) as client:
        reply = client.get("/", headers=BROWSER)
        assert (reply.status_code, "secret-user" in reply.text) == (200, True)
        assert reply.headers["content-security-policy"] == f"{policy()}; frame-ancestors 'none'"
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert client.get("/").json()["name"] == "llmctl"
        assert client.post("/", headers=BROWSER).status_code == 405
    with gateway.client(member) as client:
        reply = client.get("/", headers=BROWSER)
        assert (reply.status_code, "secret-user" in reply.text) == (403, False)
        assert "/usage" in reply.json()["error"]["message"]
        assert client.get("/").json()["links"]["usage"] == "/usage"
    with gateway.client() as client:
        assert client.get("/", headers=BROWSER).status_code == 401


@pytest.mark.usefixtures("ledger")
def test_many_who_ask_are_one_report(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask at once, and soon after, the ledger is added up once."""
    made: list[object] = []
    make = module._report

    def counted(service: Any) -> str:
        made.append(service)
        return make(service)

    monkeypatch.setattr(module, "_report", counted)
    replies = ask(20)
    assert {*replies} == {replies[0]}
    assert replies[0].startswith(b"200 <!doctype html>")
    assert b"gpt-first" in replies[0]
    assert len(made) == 1


def test_it_is_made_anew(ask: Ask, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is old the page is made anew."""
    monkeypatch.setattr(module, "_FRESH", 0.0)
    assert b"gpt-second" not in ask(1)[0]
    a_ledger(ledger, a_call(started_ms=round(time.time() * 1000) - 1000, model="gpt-second"))
    assert b"gpt-second" in ask(1)[0]


def test_a_ledger_that_cannot_be_read(ask: Ask, tmp_path: Path) -> None:
    """503 with a sentence, not a mistake of the gateway's; and no trace of the path."""
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    (reply,) = ask(1)
    assert reply.startswith(b"503 ")
    assert b"cannot be read" in reply
    assert str(tmp_path).encode() not in reply
