"""One exchange on a connection: every way that a reply can come, end, or break off."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import CallError, ConnectionFailed
from llmctl.protocols import HttpRequest
from llmctl.transport import HttpTransport
from llmctl.wire import connection as module
from llmctl.wire.connection import Connection
from tests.wire.peer import OK, Line, answer, asked, once, opened, run, until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-length: 9\r\n\r\n"
)


class Wire(asyncio.Transport):
    """Takes what is sent, and knows what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.sent += data

    def abort(self) -> None:
        """Say so."""
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        """All has been sent."""
        return 0

    def pause_reading(self) -> None:
        """Say so."""
        self.paused = True

    def resume_reading(self) -> None:
        """Say so."""
        self.paused = False


class Slow(Wire):
    """Has not sent all of it yet."""

    def get_write_buffer_size(self) -> int:
        """Some is left where nobody was told to wait."""
        return len(self.sent) - 4


REPLIES = [
    (OK, b"ok", True),
    (INTERIM + OK, b"ok", True),
    (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok", True),
    (CHUNKED + b"1;a=b\r\no\r\n001\r\nk\r\n0\r\ntrailer: x\r\n\r\n", b"ok", True),
    (CHUNKED + b"2 \r\nok\r\n0 \r\n\r\n", b"ok", True),
    (CLOSING + b"content-length: 2\r\n\r\nok", b"ok", False),
    (OK.replace(b"1.1", b"1.0"), b"ok", False),
    (OK.replace(b"\r\n", b"\n"), b"ok", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    (b"HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n", b"", True),
    (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", b"", True),
    (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", b"", True),
    (b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nok",
     b"ok", True),
    (OK + b"more", b"ok", False),
    (OK + b"HT", b"ok", False),
    (OK + OK, b"ok", False),
]  # fmt: skip


@given(st.sampled_from(REPLIES), st.data())
def test_however_it_is_cut(reply: tuple[bytes, bytes, bool], data: st.DataObject) -> None:
    """A reply that arrives in any pieces is the same reply, and so is the next one on the same
    connection; where bytes follow it, or it says so, there is no next one."""
    raw, body, kept = reply
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    async def exchange() -> None:
        lost: list[Connection] = []
        connection, wire = Connection(lost.append), Wire()
        connection.connection_made(wire)
        for again in range(2):
            assert connection.usable
            connection.ask(b"head", b"body")
            for piece in pieces:
                connection.data_received(piece)
            await connection.answered()
            assert connection.status == int(raw.removeprefix(INTERIM)[9:12])
            assert "link" not in connection.headers
            assert "trailer" not in connection.headers
            got = b""
            while more := await connection.piece():
                got += more
            assert got == body
            assert connection.free(0) is kept
            assert wire.aborted is not kept
            if not kept:
                break
            assert wire.sent == b"headbody" * (again + 1)
        connection.connection_lost(None)
        assert lost == [connection]

    run(exchange())


@pytest.mark.parametrize(
    ("reply", "then", "body"),
    [
        (TO_THE_END + b"all of it", "close", b"all of it"),
        (TO_THE_END, "close", b""),
        (CLOSING + b"transfer-encoding: gzip\r\n\r\nok", "close", b"ok"),
        (CLOSING + b"content-length: 2\r\n\r\nok", "close", b"ok"),
        (OK, "close", b"ok"),
    ],
)
def test_the_end_of_the_connection_may_be_that_of_the_body(
    reply: bytes, then: str, body: bytes
) -> None:
    """A body without a length ends with the connection; one with a length does not need to."""

    async def body_() -> None:
        async with opened(once(reply, then=then)) as (client, peer):
            assert await answer(client, asked(peer.url)) == body

    run(body_())


@pytest.mark.parametrize(
    ("reply", "then"),
    [
        (b"", "close"),
        (b"", "reset"),
        (INTERIM, "close"),
        (OK[:20], "close"),
        (OK[:-1], "close"),
        (OK[:-1], "reset"),
        (CHUNKED, "close"),
        (CHUNKED + b"2\r\no", "close"),
        (CHUNKED + b"2\r\nok\r\n", "close"),
        (CHUNKED + b"2\r\nok\r\n0\r\n", "close"),
        (CHUNKED + b"2\r\nok\r\n0\r\n", "reset"),
        (TO_THE_END + b"o", "reset"),
        (CHUNKED + b"ok", "wait"),
        (CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", "wait"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "wait"),
        (b"HTTP/1.1 ok\r\n\r\n", "wait"),
        (b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "wait"),
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", "wait"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok", "wait"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", "wait"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok", "wait"),
        (b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nok", "wait"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", "wait"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000, "wait"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: aaaaaaaaaaaaaaaaaaaa\r\n" * 20_000, "wait"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(40_000)), "wait"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 20_000, "wait"),
        (CHUNKED + b"1\r\na\r\n0\r\nx: " + b"a" * 600_000, "wait"),
        (CHUNKED + b"1;" + b"a" * 600_000, "wait"),
    ],
)
def test_what_breaks_off_is_no_answer(reply: bytes, then: str) -> None:
    """Anything less than a whole reply, or none in HTTP, or more head than anybody needs, is a
    broken connection: perhaps billed, closed at once."""

    async def body() -> None:
        async with opened(once(reply, then=then)) as (client, peer):
            with pytest.raises(ConnectionFailed, match="broke") as caught:
                await answer(client, asked(peer.url))
            assert caught.value.ambiguous
            await peer.closed()

    run(body())


def test_repeated_headers() -> None:
    """Names are lower case; of a repeated header all values stay."""
    reply = (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-b:\r\nx-a:  2 \r\nX-C: \xe9\r\ncontent-length: 0\r\n\r\n"
    )

    async def body() -> None:
        async with opened(once(reply)) as (client, peer), client.send(asked(peer.url)) as answered:
            assert answered.headers == {
                "x-a": "1, 2", "x-b": "", "x-c": "\xe9", "content-length": "0",
            }  # fmt: skip

    run(body())


def test_what_came_before_it_broke_is_given() -> None:
    """Text that arrived is handed on before the error that followed it."""

    async def body() -> None:
        got: list[bytes] = []

        async def read(client: HttpTransport, request: HttpRequest, got: list[bytes]) -> None:
            async with client.send(request) as reply:
                (connection,) = client.pool()._all
                await until(lambda: not connection.asked)  # the end has been seen, too
                async for piece in reply.chunks():
                    got.append(piece)  # noqa: PERF401  (what came before the error stays)

        speak = once(CHUNKED + b"2\r\nok\r\n", then="close")
        async with opened(speak) as (client, peer):
            with pytest.raises(ConnectionFailed):
                await read(client, asked(peer.url), got)
        assert got == [b"ok"]

    run(body())


def test_pieces_as_they_come() -> None:
    """Each piece of a stream can be read before the server sends the next one."""
    goes_on = asyncio.Event()

    async def speak(line: Line) -> None:
        await line.request()
        line.say(CHUNKED)
        for _ in range(5):
            line.say(b"3\r\nabc\r\n")
            await goes_on.wait()
            goes_on.clear()
        line.say(b"0\r\n\r\n")
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer), client.send(asked(peer.url)) as reply:
            count = 0
            async for piece in reply.chunks():
                assert piece == b"abc"
                count += 1
                goes_on.set()
            assert count == 5

    run(body())


@pytest.mark.parametrize("whole", [True, False], ids=["read", "left"])
def test_a_server_that_sends_too_fast_waits(*, whole: bool) -> None:
    """Of a large body that nobody reads yet only a little is taken; then all of it, or the
    connection is closed."""
    size = 30 << 20
    sent = 0

    async def speak(line: Line) -> None:
        nonlocal sent
        await line.request()
        line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            line.say(b"a" * (1 << 20))
            await line.writer.drain()
            sent += 1 << 20
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            async with client.send(asked(peer.url)) as reply:
                (connection,) = client.pool()._all
                before = -1
                while before != sent:
                    before = sent
                    await asyncio.sleep(0.1)
                assert sent < size
                assert connection._unread < 1 << 20
                if whole:
                    assert len(await reply.read()) == size
            assert bool(client.pool()._idle) is whole
            if not whole:
                await peer.closed()

    run(body())


@pytest.mark.parametrize("size", [module._PIECE, module._PIECE + 1, 20 << 20])
def test_a_large_request_arrives_whole(size: int) -> None:
    """However slowly the server reads, all of it comes, in order, and the connection is kept."""
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]

    async def speak(line: Line) -> None:
        for _ in range(2):
            await line.head()
            await asyncio.sleep(0.05)
            assert await line.reader.readexactly(size) == content
            line.say(OK)
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            for _ in range(2):
                assert await answer(client, asked(peer.url, content)) == b"ok"
            assert len(peer.lines) == 1

    run(body())


@pytest.mark.parametrize("then", ["reset", "wait", "read"])
def test_an_answer_before_the_question_is_over(then: str) -> None:
    """A server may refuse 20 MB before it has read them: its answer counts, and the connection,
    on which the rest would still have to be sent, is not used again unless it was read."""
    content = b"a" * (20 << 20)
    refusal = b"HTTP/1.1 413 Too large\r\ncontent-length: 2\r\n\r\nno"

    async def speak(line: Line) -> None:
        if line.number:
            await line.request()
            line.say(OK)
            return
        await line.head()
        line.say(refusal[:-1])
        if then == "read":
            await line.reader.readexactly(len(content))
        line.say(refusal[-1:])
        if then == "reset":
            await asyncio.sleep(0.1)
            line.reset()
        elif then == "wait":
            await line.reader.read(1)
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
        else:
            await line.request()
            line.say(OK)

    async def body() -> None:
        async with opened(speak) as (client, peer):
            async with client.send(asked(peer.url, content)) as reply:
                assert reply.status == 413
                assert await reply.read() == b"no"
            assert await answer(client, asked(peer.url)) == b"ok"
            assert len(peer.lines) == (1 if then == "read" else 2)

    run(body())


@pytest.mark.parametrize("told", [True, False], ids=["told to wait", "told nothing"])
def test_what_is_left_to_send(*, told: bool) -> None:
    """A reply that is complete before its request was sent ends the connection, whether the rest
    waits here or in the event loop; nothing more is sent than the other side takes."""

    async def body() -> None:
        connection, wire = Connection(lambda _: None), Slow()
        connection.connection_made(wire)
        if told:
            connection.pause_writing()
        connection.ask(b"head", b"a" * (1 << 20))
        assert len(wire.sent) == (4 if told else 4 + (1 << 20))
        connection.data_received(OK)
        await connection.answered()
        assert connection.whole() == b"ok"
        assert not connection.free(0)
        assert wire.aborted

    run(body())


def test_a_body_that_was_not_read() -> None:
    """A complete reply that nobody read costs nothing; of one under way the rest is not waited
    for. A reply that is kept when all is over reads nobody else's."""

    async def speak(line: Line) -> None:
        for reply in (OK, OK, CHUNKED + b"2\r\nok\r\n"):
            await line.request()
            line.say(reply)
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            async with client.send(asked(peer.url)) as kept:
                assert kept.status == 200
            async with client.send(asked(peer.url)) as reply:
                with pytest.raises(AttributeError):
                    await kept.read()  # its time is over
                assert await reply.read() == b"ok"
            assert len(peer.lines) == 1
            async with client.send(asked(peer.url)):
                pass
            await peer.closed()

    run(body())


def test_headers_that_cannot_be_sent() -> None:
    """A key with a line break in it goes nowhere, is not shown, and costs no other call."""

    async def body() -> None:
        async with opened(once(OK)) as (client, peer):
            with pytest.raises(CallError, match="authorization") as caught:
                await answer(client, asked(peer.url, authorization="Bearer secret\r\nx: y"))
            assert not caught.value.sent
            assert not caught.value.ambiguous
            assert not caught.value.retryable
            assert "secret" not in str(caught.value)
            assert await answer(client, asked(peer.url)) == b"ok"
            assert len(peer.lines) == 1

    run(body())
