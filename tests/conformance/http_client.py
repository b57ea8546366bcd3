"""What `HttpClient` does over every transport, on real sockets.

A new transport passes when a subclass of `HttpClientContract` passes.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmctl import http
from llmctl.errors import (
    BadResponse,
    CallError,
    CallTimeout,
    ConfigError,
    ConnectionFailed,
    InvalidRequest,
)
from llmctl.http import CancelledAfterSending, HttpClient
from tests.conformance.http_peer import (
    OK,
    Line,
    Peer,
    Speak,
    always,
    answer,
    driven,
    once,
    opened,
    send,
)
from tests.simulator.faults import Dribble, GzipBomb, Hang
from tests.simulator.server import Simulator

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
TUNNEL = b"HTTP/1.1 200 yes\r\nx: y\r\n\r\n"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
FAR = "https://provider.example/v1"

COMPLETE = [
    (OK, b"ok"),
    (INTERIM + OK, b"ok"),
    (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok"),
    (CHUNKED + b"1;a=b\r\no\r\n001\r\nk\r\n0\r\ntrailer: x\r\n\r\n", b"ok"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", b""),
    (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    (TO_THE_END + b"all of it", b"all of it"),
]
"""Replies, the connection closed after each, and their bodies."""

BROKEN = [
    (b"", "close"),
    (b"", "reset"),
    (INTERIM, "close"),
    (OK[:-1], "close"),
    (OK[:-1], "reset"),
    (CHUNKED, "close"),
    (CHUNKED + b"2\r\nok\r\n", "close"),
    (CHUNKED + b"ok\r\n", "wait"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "wait"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", "wait"),
    (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000, "wait"),
]
"""Less than a whole reply, or none in HTTP; what the server does then."""


def use_proxies(monkeypatch: pytest.MonkeyPatch, proxies: Mapping[str, str]) -> None:
    """Let the environment name these proxies and no others."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, url in proxies.items():
        monkeypatch.setenv(name, url)


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


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS, whose certificate is trusted; no proxy."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    use_proxies(monkeypatch, {})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def tunnel_to(context: ssl.SSLContext, then: Speak = always) -> Speak:
    """A proxy that says yes, and is the origin itself."""

    async def speak(line: Line) -> None:
        head = await line.head()
        assert head.startswith("CONNECT provider.example:443 HTTP/1.1\r\n")
        assert "authorization: Basic YTpi" in head.replace("Authorization", "authorization")
        line.say(TUNNEL)
        await line.writer.start_tls(context)
        await then(line)

    return speak


async def failure(client: HttpClient, url: str, **more: Any) -> CallError:
    """The error that a request ends in."""
    with pytest.raises(CallError) as caught:
        await answer(client, url, **more)
    return caught.value


class HttpClientContract:
    """Subclasses say `many`, which chooses the transport."""

    many: ClassVar[bool]

    def opened(
        self, speak: Speak, tls: ssl.SSLContext | None = None
    ) -> AbstractAsyncContextManager[tuple[HttpClient, Peer]]:
        """A client and its server; both have nothing open at the end."""
        return opened(speak, many=self.many, tls=tls)

    # Replies, whole and broken.

    @pytest.mark.parametrize(("reply", "body"), COMPLETE)
    @driven
    async def test_a_complete_reply(self, reply: bytes, body: bytes) -> None:
        """However a reply says where it ends, its body arrives whole."""
        async with self.opened(once(reply, then="close")) as (client, peer):
            assert await answer(client, peer.url) == body

    @pytest.mark.parametrize("method", ["POST", "GET"])
    @pytest.mark.parametrize(("reply", "then"), BROKEN)
    @driven
    async def test_what_breaks_after_sending_may_have_been_billed(
        self, reply: bytes, then: str, method: str
    ) -> None:
        """Less than a whole reply, or none in HTTP, is a broken connection that says that it may
        have been billed; it is closed, and what may be billed is not sent again."""
        async with self.opened(once(reply, then=then)) as (client, peer):
            error = await failure(client, peer.url, method=method)
            assert isinstance(error, ConnectionFailed)
            assert error.ambiguous
            assert error.retryable
            await peer.closed()
            assert method == "GET" or len(peer.lines) == 1

    @driven
    async def test_replies_arrive_as_they_are(self) -> None:
        """Names of headers are lower case, all values of a repeated one stay, long ones are read;
        a redirect is handed on and not followed, and no cookie comes back."""
        reply = (
            b"HTTP/1.1 307 No\r\nLocation: http://127.0.0.1:9/\r\nX-A: 1\r\nx-a:  2 \r\n"
            b"set-cookie: a=" + b"b" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n"
        )
        heads: list[str] = []

        async def speak(line: Line) -> None:
            for _ in range(2):
                heads.append((await line.request())[0].lower())
                line.say(reply)
            await line.end()

        async with self.opened(speak) as (client, peer):
            for _ in range(2):
                async with send(client, peer.url, headers={"X-Key": "v"}) as got:
                    assert (got.status, got.headers["location"]) == (
                        307, "http://127.0.0.1:9/",
                    )  # fmt: skip
                    assert got.headers["x-a"] == "1, 2"
                    assert len(got.headers["set-cookie"]) == 20_002
                    assert await got.read() == b""
            assert len(peer.lines) == 1
        assert len(heads) == 2
        assert "cookie" not in heads[1]
        for name in ("host", "user-agent", "accept", "accept-encoding", "content-length", "x-key"):
            assert heads[0].count(f"\r\n{name}: ") == 1
        assert "\r\nuser-agent: llmctl/" in heads[0]
        assert "\r\naccept-encoding: gzip, deflate\r\n" in heads[0]

    # The body of a request.

    @pytest.mark.parametrize("size", [0, 1 << 18, (1 << 18) + 1, 20 << 20])
    @driven
    async def test_a_request_arrives_whole(self, size: int) -> None:
        """However slowly the server reads, all of it comes, in order, without a complaint of the
        client, and the connection is kept."""
        content = (bytes(range(251)) * (size // 251 + 1))[:size]

        async def speak(line: Line) -> None:
            for _ in range(2):
                head = await line.head()
                assert f"content-length: {size}\r\n" in head.lower()
                await asyncio.sleep(0.05)
                assert await line.reader.readexactly(size) == content
                line.say(OK)
            await line.end()

        async with self.opened(speak) as (client, peer):
            for _ in range(2):
                assert await answer(client, peer.url, content) == b"ok"
            assert len(peer.lines) == 1

    @driven
    async def test_headers_that_cannot_be_sent(self) -> None:
        """A key with a line break in it goes nowhere, is not shown, and costs no other call."""
        async with self.opened(always) as (client, peer):
            for bad in ("\r\nx-evil: 1", "\0", "\x7f", "\u20ac"):
                with pytest.raises(InvalidRequest) as caught:
                    await answer(client, peer.url, headers={"authorization": f"Bearer secret{bad}"})
                assert not caught.value.sent
                assert "secret" not in str(caught.value)
            assert not peer.lines
            assert await answer(client, peer.url) == b"ok"

    # Bounds and encodings.

    @pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
    @driven
    async def test_packed_bodies(self, pack: Callable[[bytes], bytes]) -> None:
        """Gzip and deflate are unpacked; damaged bytes are a bad response."""
        name = b"gzip" if pack is gzip.compress else b"deflate"

        for packed, good in ((pack(b"text" * 1000), True), (b"no such thing at all", False)):
            speak = once(
                b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n\r\n%s"
                % (name, len(packed), packed)
            )
            async with self.opened(speak) as (client, peer):
                if good:
                    assert await answer(client, peer.url) == b"text" * 1000
                else:
                    error = await failure(client, peer.url)
                    assert isinstance(error, BadResponse)
                    assert "damaged" in str(error)

    @driven
    async def test_a_gzip_bomb_is_not_unpacked(
        self, sim: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A small body that unpacks beyond the bound is refused there, and one in an encoding that
        nobody asked for is not guessed at."""
        monkeypatch.setattr(http, "MAX_BODY", 64 * 1024)

        client = HttpClient(many=self.many)
        for layers, why in ((1, "larger than"), (2, "encoding")):
            sim.fault = GzipBomb(layers=layers)  # type: ignore[arg-type]
            error = await failure(client, sim.base_url)
            assert isinstance(error, BadResponse)
            assert why in str(error)
        await client.close()

    @pytest.mark.parametrize("packed", [gzip.compress(b"ok"), b""], ids=["gzip", "plain"])
    @driven
    async def test_what_comes_behind_a_body(
        self, packed: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Case 57: what comes is counted as well as what it unpacks to: bytes without end behind a
        small packed body are refused at the bound; a few do no harm."""
        monkeypatch.setattr(http, "MAX_BODY", 64 * 1024)
        head = b"HTTP/1.1 200 OK\r\n" + (b"content-encoding: gzip\r\n" if packed else b"")
        for more, good in ((10, True), (1 << 20, False)):
            body = packed + b"x" * more
            reply = b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body)
            async with self.opened(once(reply)) as (client, peer):
                if good:
                    assert await answer(client, peer.url) == (b"ok" if packed else body)
                else:
                    error = await failure(client, peer.url)
                    assert "larger than" in str(error)

    @driven
    async def test_the_beginning_of_a_body(self) -> None:
        """Case 57: of a body of which only the beginning is wanted no more is read."""

        async def speak(line: Line) -> None:
            await line.request()
            line.say(TO_THE_END)
            for _ in range(100):
                line.say(b"x" * 1000)
            await line.end()  # more would come for ever

        async with self.opened(speak) as (client, peer), send(client, peer.url) as got:
            assert await got.read(64_000) == b"x" * 64_000

    # Connections.

    @driven
    async def test_a_kept_connection_that_ends_as_the_next_request_comes(self) -> None:
        """Case 72: it may have been billed, and says so, and that the connection was a kept one;
        the next requests have connections of their own. A new connection that ends is the usual
        failure."""

        async def speak(line: Line) -> None:
            await line.request()
            if line.number > 2:
                return
            line.say(OK)
            await line.request()  # and away

        async with self.opened(speak) as (client, peer):
            await asyncio.gather(*(answer(client, peer.url) for _ in range(2)))
            kept = await failure(client, peer.url)
            assert isinstance(kept, ConnectionFailed)
            assert (kept.kept_ended, kept.ambiguous) == (True, True)
            assert await answer(client, peer.url) == b"ok"
            assert len(peer.lines) == 3
            new = await failure(client, peer.url)
            assert (new.kept_ended, new.ambiguous) == (False, True)

    @driven
    async def test_many_at_a_time(self) -> None:
        """Nothing but the caller limits how many requests there are at a time."""
        together = asyncio.Event()

        async def speak(line: Line) -> None:
            await line.request()
            if len(peer.lines) == 150:
                together.set()
            await together.wait()
            line.say(OK)
            await line.end()

        async with self.opened(speak) as (client, peer):
            found = await asyncio.gather(*(answer(client, peer.url) for _ in range(150)))
            assert found == [b"ok"] * 150

    @pytest.mark.parametrize("said", [b"", OK, b"HTTP/1.1 408 Too slow\r\n\r\n"])
    @driven
    async def test_an_idle_connection_that_the_server_ends(self, said: bytes) -> None:
        """A server that closes an idle connection, or says something on it, has ended it: what it
        said is not the next call's answer, and that one is not lost."""
        goes_on = asyncio.Event()

        async def speak(line: Line) -> None:
            await line.request()
            line.say(OK)
            if line.number:
                await line.end()
                return
            await goes_on.wait()
            line.say(said)

        async with self.opened(speak) as (client, peer):
            assert await answer(client, peer.url) == b"ok"
            goes_on.set()
            await peer.closed()
            await asyncio.sleep(0.01)
            assert await answer(client, peer.url, first_byte=1) == b"ok"
            assert len(peer.lines) == 2

    @driven
    async def test_a_connection_closed_while_the_loop_was_busy(self, sim: Simulator) -> None:
        """A connection whose end lies unread when a call needs one costs the call nothing."""
        client = HttpClient(many=self.many)
        for _ in range(3):
            assert b"echo: hello" in await answer(client, sim.base_url)
            sim.drop_connections()  # in its own thread, while this one stands still
            sim.wait_until(lambda: not sim.record.snapshot()["open_connections"])
        await client.close()
        assert sim.record.snapshot()["connections"] == 3

    @driven
    async def test_idle_for_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection that has been idle for `KEEP_ALIVE` seconds is not used again."""
        monkeypatch.setattr(http, "KEEP_ALIVE", 0.2)

        async with self.opened(always) as (client, peer):
            await answer(client, peer.url)
            await asyncio.sleep(0.3)
            await answer(client, peer.url)
            assert len(peer.lines) == 2

    # Before a byte has left.

    @pytest.mark.parametrize("proxies", [{}, {"ALL_PROXY": "127.0.0.1:9"}], ids=["", "proxy"])
    @driven
    async def test_a_refused_connection_cannot_have_been_billed(
        self, proxies: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody listens, or no name is found, nothing was sent; the error has the system's
        words."""
        use_proxies(monkeypatch, proxies)
        client = HttpClient(many=self.many)
        url = "http://provider.example/v1" if proxies else "http://127.0.0.1:9/v1"
        error = await failure(client, url)
        assert isinstance(error, ConnectionFailed)
        assert "127.0.0.1:9 (Connection refused)" in str(error)
        assert ("through the proxy" in str(error)) is bool(proxies)
        assert not error.ambiguous
        if not proxies:

            def look(*_: Any, **__: Any) -> Any:
                raise socket.gaierror(-2, "Name or service not known")

            monkeypatch.setattr(socket, "getaddrinfo", look)
            error = await failure(client, FAR)
            assert isinstance(error, ConnectionFailed)
            assert "Name or service not known" in str(error)
            assert not error.ambiguous
        await client.close()

    @driven
    async def test_certificates_are_held_to_the_store(
        self, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`SSL_CERT_FILE` names whom to trust; without it a stranger's certificate ends the call
        before anything was sent, and so does one with another name."""
        async with self.opened(always, tls) as (client, peer):
            assert await answer(client, peer.url) == b"ok"
            there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", peer.port))]
            with monkeypatch.context() as patch:
                patch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
                wrong = await failure(client, f"https://other.example:{peer.port}/v1")
            assert "certificate" in str(wrong)
            assert "other.example" in str(wrong)
            monkeypatch.delenv("SSL_CERT_FILE")
            stranger = HttpClient(many=self.many)
            unknown = await failure(stranger, peer.url)
            assert "certificate" in str(unknown)
            assert not wrong.ambiguous
            assert not unknown.ambiguous
            await stranger.close()

    @driven
    async def test_certificates_that_cannot_be_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A missing `SSL_CERT_FILE` is said, not worked around."""
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
        use_proxies(monkeypatch, {})

        with pytest.raises(ConfigError, match="certificates"):
            await answer(HttpClient(many=self.many), FAR)

    # Proxies.

    @pytest.mark.parametrize("secure", [False, True], ids=["http proxy", "https proxy"])
    @driven
    async def test_through_a_tunnel(
        self, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, *, secure: bool
    ) -> None:
        """TLS runs through a proxy's tunnel, inside of TLS to the proxy itself where it wants that;
        the connection is used again, and the proxy's password goes to the proxy alone. An answer
        that breaks off there may have been billed."""
        heads: list[str] = []

        async def origin(line: Line) -> None:
            for _ in range(2):
                heads.append((await line.request())[0].lower())
                line.say(OK)
            await line.request()

        async with Peer(tunnel_to(tls, origin), tls if secure else None) as peer:
            scheme = "https" if secure else "http"
            use_proxies(monkeypatch, {"HTTPS_PROXY": f"{scheme}://a:b@127.0.0.1:{peer.port}"})
            client = HttpClient(many=self.many)
            for _ in range(2):
                assert await answer(client, FAR) == b"ok"
            assert (await failure(client, FAR)).ambiguous
            await client.close()
            await peer.closed()
            assert len(peer.lines) == 1
        assert all("host: provider.example\r\n" in head for head in heads)
        assert all("proxy" not in head for head in heads)

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno",
            b"",
            b"HTTP/1.1 20",
            b"SSH-2.0\r\n\r\n",
            TUNNEL,
        ],
    )
    @driven
    async def test_a_tunnel_that_does_not_open(
        self, said: bytes, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever a proxy says but yes, or where nobody is behind it: nothing was sent; the error
        names the proxy without its password."""
        del tls

        async def speak(line: Line) -> None:
            await line.head()
            line.say(said)

        async with self.opened(speak) as (client, peer):
            use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://ann:secret@127.0.0.1:{peer.port}"})
            error = await failure(client, FAR)
            assert isinstance(error, ConnectionFailed)
            assert f"through the proxy 127.0.0.1:{peer.port} (" in str(error)
            assert not error.ambiguous
            assert "secret" not in str(error)
            await peer.closed()

    @pytest.mark.parametrize("secure", [False, True], ids=["http proxy", "https proxy"])
    @driven
    async def test_plain_http_goes_through_the_proxy(
        self, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, *, secure: bool
    ) -> None:
        """The proxy is told the whole address, and gets its own password; what breaks after it has
        the request may have been billed, and what `NO_PROXY` names goes past it."""
        heads: list[str] = []

        async def speak(line: Line) -> None:
            heads.append((await line.request())[0])
            line.say(OK)
            await line.request()

        async with Peer(speak, tls if secure else None) as peer:
            scheme, url = "https" if secure else "http", "http://provider.example:81/v1"
            proxies = {"http_proxy": f"{scheme}://ann:p%20w@localhost:{peer.port}"}
            use_proxies(monkeypatch, proxies)
            client = HttpClient(many=self.many)
            assert await answer(client, url) == b"ok"
            assert (await failure(client, url)).ambiguous
            use_proxies(monkeypatch, {**proxies, "NO_PROXY": "127.1.0.0/16,*.example"})
            error = await failure(client, "http://127.1.2.3:9/v1")
            assert "proxy" not in str(error)
            await client.close()
        assert heads[0].startswith(
            "POST http://provider.example:81/v1/chat/completions HTTP/1.1\r\n"
        )
        assert "proxy-authorization: basic yw5uona" in heads[0].lower()

    # Cancellation.

    @pytest.mark.parametrize("where", ["name", "tls", "tunnel"])
    @driven
    async def test_giving_up_before_sending(
        self, where: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call that is cancelled, or late, while it connects has sent nothing and leaves nothing
        open. The limit of connecting covers the name, the proxy and TLS."""
        del tls
        looked = asyncio.Event()

        async def speak(line: Line) -> None:
            if where == "tunnel":
                await line.head()
                line.say(TUNNEL)
            await line.end()

        async def never(*_: Any, **__: Any) -> Any:
            looked.set()
            await asyncio.Event().wait()

        async with self.opened(speak) as (client, peer):
            url = f"https://localhost:{peer.port}/v1"
            if where == "tunnel":
                use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://127.0.0.1:{peer.port}"})
                url = FAR
            if where == "name":
                monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
            for limit in ("connect", "total"):
                error = await failure(client, url, **{limit: 0.2})
                assert isinstance(error, CallTimeout)
                assert f"timeout.{limit}" in str(error)
                assert not error.ambiguous
                await peer.closed()
            await client.close()  # aiohttp remembers that a name is being looked up
            looked.clear()
            before = len(peer.lines)
            call = asyncio.ensure_future(answer(client, url))
            if where == "name":
                await looked.wait()
            else:
                await peer.until(lambda: len(peer.lines) > before)
            call.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await call
            assert not isinstance(caught.value, CancelledAfterSending)
            await peer.closed()

    @pytest.mark.parametrize("said", [b"", OK[:-1]], ids=["before the answer", "within it"])
    @driven
    async def test_giving_up_after_sending(self, said: bytes) -> None:
        """A call that is cancelled once a byte may have left says so, and closes its connection at
        once: the provider need not go on with it."""
        arrived = asyncio.Event()

        async def speak(line: Line) -> None:
            await line.request()
            line.say(said)
            arrived.set()
            await line.end()

        async with self.opened(speak) as (client, peer):
            call = asyncio.ensure_future(answer(client, peer.url))
            await arrived.wait()
            if said:
                await asyncio.sleep(0.02)
            call.cancel()
            with pytest.raises(CancelledAfterSending):
                await call
            await peer.closed()

    # Deadlines.

    @driven
    async def test_silence_ends_at_the_first_byte_limit(self, sim: Simulator) -> None:
        """A server that says nothing is given up after `first_byte`, however long other calls of
        the client may take, and may have billed."""
        sim.fault = Hang()

        client, url = HttpClient(many=self.many), sim.base_url
        patient = asyncio.ensure_future(answer(client, url))
        await asyncio.to_thread(sim.wait_for_calls, 1)
        error = await failure(client, url, first_byte=0.2)
        assert isinstance(error, CallTimeout)
        assert "sent nothing for 0.2 s (`timeout.first_byte`" in str(error)
        assert error.ambiguous
        assert not patient.done()
        patient.cancel()
        with pytest.raises(CancelledAfterSending):
            await patient
        await client.close()

    @pytest.mark.parametrize("slow", ["to connect", "to read"])
    @driven
    async def test_first_byte_counts_from_when_the_request_was_sent(
        self, slow: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither connecting nor sending is part of `first_byte`."""
        use_proxies(monkeypatch, {})
        look = socket.getaddrinfo

        def slowly(host: Any, port: Any, *more: Any, **named: Any) -> Any:
            if host in {"provider.example", b"provider.example"}:
                time.sleep(0.4)
                host = "127.0.0.1"
            return look(host, port, *more, **named)

        async def speak(line: Line) -> None:
            await line.head()
            if slow == "to read":
                line.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(0.6)
                line.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await line.reader.readexactly(size)
            line.say(OK)
            await line.end()

        size = 20 << 20 if slow == "to read" else 10
        monkeypatch.setattr(socket, "getaddrinfo", slowly)

        async with self.opened(speak) as (client, peer):
            url = f"http://provider.example:{peer.port}/v1"
            assert await answer(client, url, b"a" * size, first_byte=0.3) == b"ok"

    @driven
    async def test_an_answer_that_has_begun_has_until_the_total_limit(self, sim: Simulator) -> None:
        """`first_byte` is over with the first byte; a body that keeps coming a byte at a time is
        given up at `total`, a real deadline."""
        sim.fault = Dribble(interval=0.05)

        client, url = HttpClient(many=self.many), sim.base_url
        started = time.monotonic()
        error = await failure(client, url, first_byte=0.4, total=1)
        assert isinstance(error, CallTimeout)
        assert "did not finish its answer within 1 s (`timeout.total`" in str(error)
        assert 0.9 < time.monotonic() - started < 3
        assert error.ambiguous
        await client.close()

    @driven
    async def test_a_deadline_is_not_the_callers_own(self, sim: Simulator) -> None:
        """A `TimeoutError` of whoever reads the reply is his own."""
        del sim

        async with self.opened(always) as (client, peer):
            with pytest.raises(TimeoutError, match="mine"):
                async with send(client, peer.url):
                    raise TimeoutError("mine")
