"""The border to the HTTP client: what it sends, bounds and maps, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from llmctl import transport
from llmctl.config.settings import Timeouts
from llmctl.errors import BadResponse, CallError, CallTimeout, ConfigError, ConnectionFailed
from llmctl.network import proxy_for
from llmctl.protocols import HttpRequest
from llmctl.transport import HttpTransport
from tests.simulator.fault import Fault
from tests.simulator.faults import CutBody, CutHeaders, Disconnect, Dribble, GzipBomb, Hang
from tests.simulator.server import Simulator

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def a_request(base_url: str, timeouts: Timeouts | None = None, body: bytes = BODY) -> HttpRequest:
    """A chat completion."""
    return HttpRequest(
        url=base_url + "/chat/completions",
        headers={"content-type": "application/json", "accept-encoding": "gzip, deflate"},
        body=body,
        timeouts=timeouts or Timeouts(),
    )


async def body_of(client: HttpTransport, request: HttpRequest) -> bytes:
    """What comes back."""
    async with client.send(request) as reply:
        return await reply.read()


def fetch(base_url: str, timeouts: Timeouts | None = None) -> bytes:
    """The body of one chat completion."""

    async def run() -> bytes:
        client = HttpTransport(base_url)
        try:
            return await body_of(client, a_request(base_url, timeouts))
        finally:
            await client.close()

    return asyncio.run(run())


class Raw:
    """A server that answers every request with the same bytes, and keeps what it read.

    To a `CONNECT` it says yes first, and then speaks TLS if it has a certificate.
    """

    def __init__(self, answer: bytes = OK, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.heads: list[str] = []
        self._tls = tls
        self._open: list[asyncio.StreamWriter] = []

    async def serve(self, do: Callable[[int], Awaitable[None]]) -> None:
        """Listen on loopback while `do(port)` runs."""
        server = await asyncio.start_server(self._speak, "127.0.0.1", 0)
        async with server:
            await do(server.sockets[0].getsockname()[1])
            for writer in self._open:
                writer.close()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await writer.wait_closed()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.heads.append(head)
                if head.startswith("CONNECT") and self._tls:
                    writer.write(b"HTTP/1.1 200 yes\r\n\r\n")
                    await writer.start_tls(self._tls)
                    continue
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
                await reader.readexactly(int(fields.get("content-length", "0")))
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for provider.example, signed by nobody, with its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=provider.example",
            "-addext", "subjectAltName=DNS:provider.example,DNS:localhost,IP:127.0.0.1",
            "-keyout", file, "-out", file.with_suffix(".crt"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    """A server's side of TLS with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def use_proxies(monkeypatch: pytest.MonkeyPatch, proxies: Mapping[str, str]) -> None:
    """Let the environment name these proxies and no others."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, url in proxies.items():
        monkeypatch.setenv(name, url)


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


def test_an_answer_that_has_begun_has_until_the_total_limit(sim: Simulator) -> None:
    """`first_byte` is over with the first byte: what takes longer to arrive whole is waited for."""
    sim.fault = Dribble(interval=0.05)
    started = time.monotonic()
    with pytest.raises(CallTimeout, match=r"timeout\.total"):
        fetch(sim.base_url, Timeouts(first_byte=0.4, total=1))
    assert time.monotonic() - started > 0.9


def test_a_gzip_bomb_is_not_unpacked(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body that unpacks beyond the bound is refused there."""
    monkeypatch.setattr(transport, "MAX_BODY", 64 * 1024)
    sim.fault = GzipBomb(layers=1)
    with pytest.raises(BadResponse, match="larger than"):
        fetch(sim.base_url)


@pytest.mark.parametrize("whole", [True, False], ids=["one piece", "two pieces"])
def test_a_plain_body_is_read_whole_and_bounded(
    monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    """A body that is not compressed arrives whole up to the bound, however it is cut up, and is
    refused beyond."""
    sizes, body = (100,) if whole else (60, 40), b""
    for size in sizes:
        body += b"%x\r\n%s\r\n" % (size, b"a" * size)
    server = Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")

    async def do(port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1"
        client = HttpTransport(url)
        monkeypatch.setattr(transport, "MAX_BODY", 100)
        assert await body_of(client, a_request(url)) == b"a" * 100
        monkeypatch.setattr(transport, "MAX_BODY", 99)
        with pytest.raises(BadResponse, match="larger than"):
            await body_of(client, a_request(url))
        await client.close()

    asyncio.run(server.serve(do))


def test_a_short_limit_holds_beside_a_long_one(sim: Simulator) -> None:
    """Calls of one client are given up by their own limits, and one that is cancelled says so."""
    sim.fault = Hang()

    async def run() -> None:
        client = HttpTransport(sim.base_url)
        patient = asyncio.ensure_future(body_of(client, a_request(sim.base_url)))
        await asyncio.to_thread(sim.wait_for_calls, 1)
        with pytest.raises(CallTimeout, match="first_byte"):
            await body_of(client, a_request(sim.base_url, Timeouts(first_byte=0.2)))
        assert not patient.done()
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient
        await client.close()

    asyncio.run(run())


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


def test_a_call_that_is_given_up_ends_on_the_wire(sim: Simulator) -> None:
    """A cancelled call closes its connection, before its answer began and in the middle of it:
    the provider need not go on with it."""
    sim.bill_abandoned = False

    async def run() -> None:
        client = HttpTransport(sim.base_url)
        for number, fault in enumerate((Hang(), Dribble(interval=0.01)), 1):
            sim.fault = fault
            call = asyncio.ensure_future(body_of(client, a_request(sim.base_url)))
            await asyncio.to_thread(sim.wait_for_calls, number)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(
                sim.wait_until, lambda: not sim.record.snapshot()["open_connections"]
            )
        await client.close()

    asyncio.run(run())


def test_connections_are_used_again(sim: Simulator) -> None:
    """One after the other, requests share a connection."""

    async def run() -> None:
        client = HttpTransport(sim.base_url)
        for _ in range(3):
            await body_of(client, a_request(sim.base_url))
        await client.close()

    asyncio.run(run())
    assert sim.record.snapshot()["connections"] == 1


def test_a_connection_closed_meanwhile_is_not_used(sim: Simulator) -> None:
    """What the server closed between two requests costs the second one nothing."""

    async def run() -> None:
        client = HttpTransport(sim.base_url)
        for _ in range(2):
            assert b"echo" in await body_of(client, a_request(sim.base_url))
            await asyncio.to_thread(sim.drop_connections)
            await asyncio.to_thread(
                sim.wait_until, lambda: not sim.record.snapshot()["open_connections"]
            )
            await asyncio.sleep(0)  # what came while the event loop was in the middle of a turn
        await client.close()

    asyncio.run(run())
    assert sim.record.snapshot()["connections"] == 2


def test_a_large_prompt_is_sent_whole(sim: Simulator) -> None:
    """Megabytes of attachments go out without a complaint of the client."""
    text = "a" * (3 << 20)

    async def run() -> None:
        client = HttpTransport(sim.base_url)
        body = BODY.replace(b"hello", text.encode())
        await body_of(client, a_request(sim.base_url, body=body))
        await client.close()

    asyncio.run(run())
    body = sim.calls[0].body
    assert body is not None
    assert body["messages"][0]["content"] == text


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (OK.replace(b"\r\n\r\n", b"\r\nset-cookie: a=" + b"b" * 20_000 + b"\r\n\r\n", 1), 200),
        (b"HTTP/1.1 307 No\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", 307),
    ],
    ids=["long header", "redirect"],
)
def test_replies_arrive_as_they_are(answer: bytes, status: int) -> None:
    """A gateway's long header is read, a redirect is handed on and not followed, and no cookie
    comes back."""
    server = Raw(answer)

    async def do(port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1"
        client = HttpTransport(url)
        for _ in range(2):
            async with client.send(a_request(url)) as reply:
                assert reply.status == status
        await client.close()

    asyncio.run(server.serve(do))
    assert len(server.heads) == 2
    assert "cookie" not in "".join(server.heads).lower()


def test_what_is_no_http_may_have_been_billed() -> None:
    """A reply that cannot be understood came after the request was sent."""

    async def do(port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1"
        client = HttpTransport(url)
        with pytest.raises(ConnectionFailed) as caught:
            await body_of(client, a_request(url))
        assert caught.value.ambiguous
        await client.close()

    asyncio.run(Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").serve(do))


def test_certificates_are_held_to_the_store(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SSL_CERT_FILE` names whom to trust; without it a stranger's certificate ends the call
    before anything was sent."""
    server = Raw(tls=tls_of(certificate))

    async def through(proxy: int) -> bytes:
        use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://ann:pass%20word@127.0.0.1:{proxy}"})
        url = "https://provider.example/v1"
        client = HttpTransport(url)
        try:
            return await body_of(client, a_request(url))
        finally:
            await client.close()

    async def do(port: int) -> None:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(ConnectionFailed, match="certificate") as caught:
            await through(port)
        assert not caught.value.ambiguous
        assert [head.split(" ")[0] for head in server.heads] == ["CONNECT"]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await through(port) == b"ok"

    asyncio.run(server.serve(do))
    connect, post = server.heads[1:]
    assert "Basic YW5uOnBhc3Mgd29yZA==" in connect
    assert "Basic" not in post


def test_certificates_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing `SSL_CERT_FILE` is said, not worked around."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(ConfigError, match="certificates"):
        HttpTransport("https://provider.example/v1")


def test_plain_http_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the request itself, with its own password."""
    server = Raw()

    async def do(port: int) -> None:
        use_proxies(monkeypatch, {"http_proxy": f"http://ann:secret@127.0.0.1:{port}"})
        url = "http://provider.example/v1"
        client = HttpTransport(url)
        assert await body_of(client, a_request(url)) == b"ok"
        await client.close()

    asyncio.run(server.serve(do))
    assert server.heads[0].startswith("POST http://provider.example/v1/chat/completions ")
    assert "proxy-authorization: basic" in server.heads[0].lower()


@pytest.mark.parametrize("said", [b"HTTP/1.1 407 no\r\ncontent-length: 0\r\n\r\n", None])
def test_a_proxy_that_refuses(said: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the proxy says no, or is not there, nothing was sent; its password is not shown."""

    async def do(port: int) -> None:
        where = port if said else 9
        use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://ann:secret@127.0.0.1:{where}"})
        url = "https://provider.example/v1"
        client = HttpTransport(url)
        with pytest.raises(ConnectionFailed, match="proxy") as caught:
            await body_of(client, a_request(url))
        assert not caught.value.ambiguous
        assert "secret" not in str(caught.value)
        await client.close()

    asyncio.run(Raw(said or OK).serve(do))


@pytest.mark.parametrize("proxy", ["socks5://ann:secret@127.0.0.1:1080", "http://ann:secret@:x"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no HTTP proxy is a mistake in the environment, said without its password."""
    use_proxies(monkeypatch, {"ALL_PROXY": proxy})
    with pytest.raises(ConfigError, match="proxy") as caught:
        HttpTransport("https://provider.example/v1")
    assert "secret" not in str(caught.value)
