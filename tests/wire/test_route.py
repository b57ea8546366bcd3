"""Ways to an origin: names, addresses, TLS and proxies, and how long all of it may take."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from llmctl.config.settings import Timeouts
from llmctl.errors import CallTimeout, ConnectionFailed
from llmctl.transport import HttpTransport
from llmctl.wire import dial
from tests.test_transport import certificate, tls_of, use_proxies
from tests.wire.peer import OK, Line, Peer, Speak, always, answer, asked, opened, run, until

__all__ = ["certificate"]

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS, whose certificate is trusted; no proxy."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    use_proxies(monkeypatch, {})
    return tls_of(certificate)


def tunnel_to(context: ssl.SSLContext, then: Speak = always) -> Speak:
    """A proxy that says yes, and is the origin itself."""

    async def speak(line: Line) -> None:
        assert (await line.head()).startswith("CONNECT provider.example:443 HTTP/1.1\r\n")
        line.say(b"HTTP/1.1 200 yes\r\nx: y\r\n\r\n")
        await line.writer.start_tls(context)
        await then(line)

    return speak


def saying(reply: bytes, *, close: bool = True) -> Speak:
    """A server that says this to whatever it reads first."""

    async def speak(line: Line) -> None:
        await line.head()
        line.say(reply)
        if not close:
            await line.end()

    return speak


async def silent(line: Line) -> None:
    """Accept, and say nothing."""
    await line.end()


def test_straight_with_tls(tls: ssl.SSLContext) -> None:
    """TLS is asked for HTTP/1.1; one connection serves many calls, of many MB too, and is given
    up with a call."""
    tls.set_alpn_protocols(["h2", "http/1.1"])
    content = b"a" * (5 << 20)

    async def speak(line: Line) -> None:
        assert line.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            _, body = await line.request()
            line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await line.end()

    async def body() -> None:
        async with opened(speak, tls) as (client, peer):
            for sent in (b"ok", content, b""):
                assert await answer(client, asked(peer.url, sent)) == sent
            call = asyncio.ensure_future(answer(client, asked(peer.url)))
            await asyncio.sleep(0.1)
            assert len(peer.lines) == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await peer.closed()

    run(body())


def test_a_body_that_ends_with_the_connection_under_tls(tls: ssl.SSLContext) -> None:
    """Over TLS, too, the end of the connection may be that of the body."""

    async def speak(line: Line) -> None:
        await line.request()
        line.say(b"HTTP/1.1 200 OK\r\n\r\nok")
        line.writer.close()
        await line.writer.wait_closed()

    async def body() -> None:
        async with opened(speak, tls) as (client, peer):
            assert await answer(client, asked(peer.url)) == b"ok"

    run(body())


def test_the_wrong_name(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for somebody else is none; nothing was sent."""

    async def body() -> None:
        async with Peer(always, tls) as peer:
            url = peer.url.replace("127.0.0.1", "127.0.0.2")
            monkeypatch.setattr(dial.Names, "addresses", at((V4, ("127.0.0.1", peer.port))))
            client = HttpTransport(url)
            with pytest.raises(ConnectionFailed, match=r"certificate.*127\.0\.0\.2") as caught:
                await answer(client, asked(url))
            assert not caught.value.ambiguous
            await client.close()

    run(body())


def test_no_tls_there(tls: ssl.SSLContext) -> None:
    """A server that speaks no TLS was sent nothing."""
    del tls

    async def speak(line: Line) -> None:
        await line.reader.read(1)
        line.say(OK)

    async def body() -> None:
        async with opened(speak) as (plain, peer):
            await plain.close()
            url = peer.url.replace("http:", "https:")
            client = HttpTransport(url)
            with pytest.raises(ConnectionFailed, match="no connection") as caught:
                await answer(client, asked(url))
            assert not caught.value.ambiguous
            await client.close()

    run(body())


@pytest.mark.parametrize("secure", [False, True], ids=["http proxy", "https proxy"])
def test_through_a_tunnel(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, *, secure: bool
) -> None:
    """TLS runs through a proxy's tunnel, inside of TLS to the proxy itself where it wants that;
    the connection is used again, and the proxy's password goes to the proxy alone."""
    heads: list[str] = []

    async def origin(line: Line) -> None:
        for _ in range(2):
            head, _ = await line.request()
            heads.append(head)
            line.say(OK)
        await line.end()

    async def body() -> None:
        async with Peer(tunnel_to(tls, origin), tls if secure else None) as peer:
            scheme = "https" if secure else "http"
            use_proxies(monkeypatch, {"HTTPS_PROXY": f"{scheme}://a:b@127.0.0.1:{peer.port}"})
            client = HttpTransport("https://provider.example/v1")
            for _ in range(2):
                assert await answer(client, asked("https://provider.example/v1")) == b"ok"
            await client.close()
            await peer.closed()
            assert len(peer.lines) == 1
        assert all("host: provider.example\r\n" in head for head in heads)
        assert all("proxy" not in head.lower() for head in heads)

    run(body())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 Proxy Auth"),
        (b"HTTP/1.1 503\r\ncontent-length: 2\r\n\r\nno", "answered 503"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 20", "no answer that is HTTP"),
        (b"SSH-2.0\r\n\r\n", "no answer that is HTTP"),
        (b"HTTP/1.1 200 yes\r\n\r\nmore", "more than"),
        (b"HTTP/1.1 200 yes\r\nx: " + b"a" * 100_000, "no answer that is HTTP"),
        (b"HTTP/1.1 200 yes\r\n\r\n", "no connection"),
    ],
)
def test_a_tunnel_that_does_not_open(
    said: bytes, why: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a proxy says but yes, or where nobody is behind it: nothing was sent, and it is
    said what is wrong."""
    del tls

    async def body() -> None:
        async with Peer(saying(said)) as peer:
            use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://ann:secret@127.0.0.1:{peer.port}"})
            client = HttpTransport("https://provider.example/v1")
            with pytest.raises(ConnectionFailed, match=why) as caught:
                await answer(client, asked("https://provider.example/v1"))
            assert ("the proxy" in str(caught.value)) is (why != "no connection")
            assert not caught.value.ambiguous
            assert "secret" not in str(caught.value)
            await client.close()
            await peer.closed()

    run(body())


def test_plain_http_through_a_proxy_with_tls(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is spoken to in TLS is told the whole address of a plain request."""
    heads: list[str] = []

    async def speak(line: Line) -> None:
        heads.append((await line.request())[0])
        line.say(OK)
        await line.end()

    async def body() -> None:
        async with Peer(speak, tls) as peer:
            use_proxies(monkeypatch, {"HTTP_PROXY": f"https://localhost:{peer.port}"})
            client = HttpTransport("http://provider.example:81/v1")
            assert await answer(client, asked("http://provider.example:81/v1")) == b"ok"
            await client.close()
        assert heads[0].startswith("POST http://provider.example:81/v1/x HTTP/1.1\r\n")

    run(body())


@pytest.mark.parametrize("where", ["tls", "proxy", "tunnel", "name"])
def test_connecting_takes_its_time(
    where: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of connecting covers the name, the proxy and TLS on either side of it; nothing
    was sent, and nothing stays open. So it is with a call that is given up there."""
    del tls
    speak = saying(b"HTTP/1.1 200 yes\r\n\r\n", close=False) if where == "tunnel" else silent

    async def never(_: dial.Names) -> Any:
        await asyncio.Event().wait()

    async def body() -> None:
        async with Peer(speak) as peer:
            url = f"https://localhost:{peer.port}/v1"
            if where in {"proxy", "tunnel"}:
                use_proxies(monkeypatch, {"HTTPS_PROXY": f"http://127.0.0.1:{peer.port}"})
                url = "https://provider.example/v1"
            if where == "name":
                monkeypatch.setattr(dial.Names, "addresses", never)
            client = HttpTransport(url)
            with pytest.raises(CallTimeout, match=r"timeout\.connect") as caught:
                await answer(client, asked(url, timeouts=Timeouts(connect=0.2)))
            assert not caught.value.ambiguous
            with pytest.raises(CallTimeout, match=r"timeout\.total") as caught:
                await answer(client, asked(url, timeouts=Timeouts(total=0.2)))
            assert not caught.value.ambiguous
            await peer.closed()
            call = asyncio.ensure_future(answer(client, asked(url)))
            if where == "name":
                await asyncio.sleep(0.05)
            else:
                await until(lambda: len(peer.lines) == 3)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await peer.closed()
            await client.close()

    run(body())


def at(*addresses: tuple[socket.AddressFamily, Any]) -> Any:
    """What a name stands for."""

    async def found(_: dial.Names) -> Any:
        return addresses

    return found


@pytest.mark.parametrize("stuck", [True, False], ids=["silent", "refused"])
def test_one_address_that_is_out_of_order(monkeypatch: pytest.MonkeyPatch, *, stuck: bool) -> None:
    """Where the first address does not answer, or says no, the next one is tried soon."""
    lists: list[socket.socket] = []

    async def body() -> None:
        async with Peer(always) as peer:
            if stuck:  # nobody accepts, and nobody else may wait
                full = socket.create_server(("127.0.0.1", 0), backlog=0)
                first = full.getsockname()
                lists.append(full)
                for _ in range(3):
                    waiting = socket.socket()
                    waiting.setblocking(False)  # noqa: FBT003
                    waiting.connect_ex(first)
                    lists.append(waiting)
            else:
                first = ("127.0.0.1", 9)
            found = at((V4, first), (V4, ("127.0.0.1", peer.port)), (V4, ("127.0.0.1", 9)))
            monkeypatch.setattr(dial.Names, "addresses", found)
            client = HttpTransport("http://provider.example/v1")
            started = time.monotonic()
            assert await answer(client, asked("http://provider.example/v1")) == b"ok"
            took = time.monotonic() - started
            assert (took > 0.2) is stuck
            assert took < 2
            await client.close()

    run(body())
    for made in lists:
        made.close()


def test_no_address_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all addresses say no it is said what they said."""
    refused = (V4, ("127.0.0.1", 9))
    monkeypatch.setattr(dial.Names, "addresses", at(refused, refused))

    async def body() -> None:
        client = HttpTransport("http://provider.example/v1")
        with pytest.raises(ConnectionFailed, match="Connection refused"):
            await answer(client, asked("http://provider.example/v1"))
        await client.close()

    run(body())


def test_two_addresses_that_both_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are connected at the same moment one is used and one closed, also when the call
    is given up just then."""
    monkeypatch.setattr(dial, "_DELAY", 0.0)

    async def body() -> None:
        async with Peer(always) as peer:
            there = (V4, ("127.0.0.1", peer.port))
            monkeypatch.setattr(dial.Names, "addresses", at(there, there, there))
            client = HttpTransport("http://provider.example/v1")
            for turns in range(40):
                call = asyncio.ensure_future(answer(client, asked("http://provider.example/v1")))
                for _ in range(turns // 2):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait({call})
                await client.close()
            await peer.closed()

    run(body())


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls begin together, one look-up serves them, and who gives up does not spoil
    it for the others; a failure is told to all who wait, and not remembered."""
    asked_for: list[str] = []
    answers = asyncio.Event()
    fails = False

    async def body() -> None:
        async with Peer(always) as peer:

            async def look(*where: Any, **how: Any) -> Any:
                asked_for.append(where[0])
                del how
                await answers.wait()
                if fails:
                    raise socket.gaierror(-2, "Name or service not known")
                return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", peer.port))]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look)
            url = "http://provider.example/v1"
            client = HttpTransport(url)
            nonlocal fails
            for fails in (True, False):
                answers.clear()
                calls = [asyncio.ensure_future(answer(client, asked(url))) for _ in range(20)]
                await asyncio.sleep(0.02)
                calls[0].cancel()
                answers.set()
                first, *others = await asyncio.gather(*calls, return_exceptions=True)
                assert isinstance(first, asyncio.CancelledError)
                if fails:
                    for error in others:
                        assert isinstance(error, ConnectionFailed)
                        assert "Name or service not known" in str(error)
                        assert not error.ambiguous
                else:
                    assert others == [b"ok"] * 19
            assert len([name for name in asked_for if name == "provider.example"]) == 2
            await client.close()

    run(body())


def test_families_in_turn() -> None:
    """The system's order holds, but the second address is one of the other family."""
    found = [(V6, n) for n in range(3)] + [(V4, n) for n in range(2)]
    turn = dial._in_turn(found)
    assert turn == [(V6, 0), (V4, 0), (V6, 1), (V4, 1), (V6, 2)]
    assert dial._in_turn(found[:2]) == found[:2]
