"""The border to the HTTP client: what it sends, bounds and maps, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from llmctl import transport
from llmctl.errors import BadResponse, CallError, CallTimeout, ConnectionFailed
from llmctl.protocols import HttpRequest
from llmctl.settings import Timeouts
from llmctl.transport import HttpTransport, proxy_for
from tests.simulator.fault import Fault
from tests.simulator.faults import CutBody, CutHeaders, Disconnect, Dribble, GzipBomb, Hang
from tests.simulator.server import Simulator

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


def fetch(base_url: str, timeouts: Timeouts | None = None) -> bytes:
    """The body of one chat completion."""

    async def run() -> bytes:
        client = HttpTransport(base_url)
        request = HttpRequest(
            url=base_url + "/chat/completions",
            headers={"content-type": "application/json", "accept-encoding": "gzip, deflate"},
            body=BODY,
            timeouts=timeouts or Timeouts(),
        )
        try:
            async with client.send(request) as reply:
                return await reply.read()
        finally:
            await client.close()

    return asyncio.run(run())


def test_an_answer_arrives(sim: Simulator) -> None:
    """The body of a good answer is read whole."""
    assert b"echo: hello" in fetch(sim.base_url)


@pytest.mark.parametrize(
    ("fault", "kind", "ambiguous"),
    [
        (Disconnect, ConnectionFailed, True),
        (lambda: CutHeaders(size=12), ConnectionFailed, True),
        (lambda: CutBody(fraction=0.5), ConnectionFailed, True),
    ],
)
def test_a_broken_connection_may_have_been_billed(
    sim: Simulator, fault: Callable[[], Fault], kind: type[CallError], *, ambiguous: bool
) -> None:
    """Whatever breaks after the request was sent is a connection error that says so."""
    sim.fault = fault()
    with pytest.raises(kind) as caught:
        fetch(sim.base_url)
    assert caught.value.ambiguous is ambiguous
    assert caught.value.retryable


def test_nobody_there() -> None:
    """A refused connection was never sent: it cannot have been billed."""
    with pytest.raises(ConnectionFailed) as caught:
        fetch("http://127.0.0.1:9/v1")
    assert not caught.value.ambiguous


def test_silence_ends_at_the_first_byte_limit(sim: Simulator) -> None:
    """A server that accepts and says nothing is given up after `first_byte`."""
    sim.fault = Hang()
    with pytest.raises(CallTimeout, match="first_byte") as caught:
        fetch(sim.base_url, Timeouts(first_byte=0.2))
    assert caught.value.ambiguous


def test_dribbling_ends_at_the_total_limit(sim: Simulator) -> None:
    """A body that keeps coming a byte at a time is given up at `total`, a real deadline."""
    sim.fault = Dribble(interval=0.05)
    with pytest.raises(CallTimeout, match=r"timeout\.total"):
        fetch(sim.base_url, Timeouts(first_byte=5, total=0.5))


def test_a_gzip_bomb_is_not_unpacked(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body that unpacks beyond the bound is refused there."""
    monkeypatch.setattr(transport, "MAX_BODY", 64 * 1024)
    sim.fault = GzipBomb(layers=1)
    with pytest.raises(BadResponse, match="larger than"):
        fetch(sim.base_url)


def test_an_encoding_nobody_asked_for_is_refused(sim: Simulator) -> None:
    """A body compressed twice over is not guessed at."""
    sim.fault = GzipBomb()
    with pytest.raises(BadResponse, match="encoding"):
        fetch(sim.base_url)


def test_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is used, but never for this machine or for `NO_PROXY`."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_for("https://api.openai.com/v1") == "http://proxy.example:3128"
    assert proxy_for("https://inside.example/v1") is None
    for here in ("http://127.0.0.1:8080/v1", "http://localhost/v1", "http://[::1]:1/v1"):
        assert proxy_for(here) is None
