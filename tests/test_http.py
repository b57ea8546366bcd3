"""The HTTP client over both transports, and what is pure in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from llmctl.errors import ConfigError, InvalidRequest
from llmctl.http import build, proxy_for
from tests.conformance.http_client import HttpClientContract, certificate, tls, use_proxies
from tests.conformance.http_peer import Line, always, answer, driven, send
from tests.conftest import KEY, Run, configure
from tests.simulator.server import Simulator

__all__ = ["certificate", "tls"]


class TestStandard(HttpClientContract):
    """httpx2's own transport, for one request at a time."""

    many = False


class TestAiohttp(HttpClientContract):
    """aiohttp, for many requests at a time."""

    many = True

    @driven
    async def test_an_answer_before_the_question_is_over(self) -> None:
        """A server may refuse 20 MB before it has read them: its answer counts, and the
        connection, on which the rest would still have to be sent, is not used again."""

        async def speak(line: Line) -> None:
            if line.number:
                return await always(line)
            await line.head()
            line.say(b"HTTP/1.1 413 Too large\r\ncontent-length: 2\r\n\r\nno")
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.5)
            return None

        async with self.opened(speak) as (client, peer):
            async with send(client, peer.url, b"a" * (20 << 20)) as reply:
                assert reply.status == 413
                assert await reply.read() == b"no"
            assert await answer(client, peer.url) == b"ok"
            assert len(peer.lines) == 2


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("http://h", "h", "/"),
        ("http://h:80/a?b=c&d", "h", "/a?b=c&d"),
        ("https://h:443/a%20b#c", "h", "/a%20b"),
        ("https://h:80/?q", "h:80", "/?q"),
        ("http://[::1]:8080/", "[::1]:8080", "/"),
        ("https://m\xfcnchen.example/v1", "xn--mnchen-3ya.example", "/v1"),
    ],
)
def test_addresses(url: str, host: str, target: str) -> None:
    """The host as it must be written, the port only where it is not the usual one."""
    request = build("POST", url, {})
    assert (request.headers["host"], request.url.raw_path.decode()) == (host, target)


def test_a_login_in_the_address() -> None:
    """Name and password of an address go where they belong, unless a header says otherwise."""
    request = build("POST", "http://ann:pass%20word@h/a", {})
    assert (str(request.url), request.headers["authorization"]) == (
        "http://h/a", "Basic YW5uOnBhc3Mgd29yZA==",
    )  # fmt: skip
    own = build("POST", "http://ann:x@h/a", {"Authorization": "Bearer k"})
    assert own.headers.get_list("authorization") == ["Bearer k"]


@pytest.mark.parametrize("url", ["http:///x", "http://h:x/", "ftp://h/", "h", "", "http://h\r\n/"])
def test_addresses_that_are_none(url: str) -> None:
    """A malformed address is a mistake in the configuration."""
    with pytest.raises(ConfigError, match="base_url"):
        build("POST", url, {})


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "connection"])
def test_headers_of_the_client(name: str) -> None:
    """What decides where a request goes and ends is not for others to say."""
    with pytest.raises(InvalidRequest, match=name.lower()):
        build("POST", "http://h/", {name: "x"})


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "listed", "used"),
    [
        ("https://api.example/v1", "", True),
        ("https://api.example/v1", "api.example", False),
        ("https://api.example/v1", ".example", False),
        ("https://api.example/v1", "*.example", False),
        ("https://example/v1", "*.example", True),
        ("https://api.example/v1", "*", False),
        ("https://10.1.2.3/v1", "10.0.0.0/8", False),
        ("https://11.1.2.3/v1", "10.0.0.0/8", True),
        ("https://[fd00::1]/v1", "[fd00::1]", False),
        ("https://[fe80::1]/v1", "fd00::/8, nonsense/99", True),
        ("http://localhost/v1", "", False),
        ("http://[::1]:1/v1", "", False),
        ("http://0.0.0.0:8000/v1", "", False),
        ("http://[::]:8000/v1", "", False),
        ("https://192.0.2.7/v1", "10.0.0.0/8, 192.0.2.0/24", False),
        ("https://gw.corp.test/v1", "*.corp.test", False),
        ("https://gw.corp.test:81/v1", "gw.corp.test:81", False),
        ("https://gw.corp.test:82/v1", "gw.corp.test:81", True),
        ("https://corp.test/v1", "*", False),
    ],
)
def test_proxies_come_from_the_environment(
    url: str, listed: str, monkeypatch: pytest.MonkeyPatch, *, used: bool
) -> None:
    """Case 37: the environment's proxy is used, but never for this machine or for `NO_PROXY`."""
    use_proxies(monkeypatch, {"HTTPS_PROXY": PROXY, "http_proxy": PROXY, "NO_PROXY": listed})
    found = proxy_for(httpx2.URL(url))
    assert (found is not None and str(found.url)) == (used and PROXY)


@pytest.mark.parametrize("proxy", ["socks5://ann:secret@127.0.0.1:1080", "http://ann:secret@:x"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no HTTP proxy is a mistake in the environment, said without its password."""
    use_proxies(monkeypatch, {"ALL_PROXY": proxy})
    with pytest.raises(ConfigError, match="proxy") as caught:
        proxy_for(httpx2.URL("https://provider.example/v1"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("choice", ["", "    http: standard\n"], ids=["auto", "standard"])
def test_a_batch_goes_over_aiohttp(
    choice: str, run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Many calls at a time go over aiohttp, unless the profile says `http: standard`; one call
    never does."""
    configure(home, sim.base_url, "{env: SIM_KEY}", choice)
    environ = {**environ, "SIM_KEY": KEY, "PYTHONPROFILEIMPORTTIME": "1"}
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    batch, ask = run("batch", "in.jsonl", env=environ), run("ask", "three", env=environ)
    assert (batch.returncode, ask.returncode, len(sim.calls)) == (0, 0, 3)
    assert ("aiohttp" in batch.stderr) is not bool(choice)
    assert "httpx2" in ask.stderr
    assert "aiohttp" not in ask.stderr
