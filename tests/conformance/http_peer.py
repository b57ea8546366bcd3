"""A server on loopback that does to a connection what a test says, and a client that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from llmctl.http import HttpClient, HttpReply, build

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'

Speak = Callable[["Line"], Awaitable[None]]


class Line:
    """One connection, from the server's side. `number`: connections before this one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.number = 0

    async def head(self) -> str:
        """The head of the next request."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def request(self) -> tuple[str, bytes]:
        """The next request, whole."""
        head = await self.head()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        return head, await self.reader.readexactly(int(fields.get("content-length", "0")))

    def say(self, data: bytes) -> None:
        """Send."""
        self.writer.write(data)

    def reset(self) -> None:
        """End the connection by a reset, which means trouble."""
        taken = self.writer.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def end(self) -> None:
        """Wait until the client closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class Peer:
    """Listens while it is open. `speak` has a connection to itself, which is closed after it."""

    def __init__(self, speak: Speak, tls: ssl.SSLContext | None = None) -> None:
        self._speak, self._tls = speak, tls
        self.lines: list[Line] = []
        self.open = 0
        self.port = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: list[BaseException] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        line.number = len(self.lines)
        self.lines.append(line)
        self.open += 1
        self._changed.set()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._speak(line)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        except AssertionError as error:
            self._failed.append(error)
        finally:
            self.open -= 1
            self._changed.set()
            self._tasks.discard(task)
            line.writer.transport.abort()
            with contextlib.suppress(OSError):  # which would be reported as seen by nobody
                await line.writer.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what depends on the number of connections holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def closed(self, count: int = 0) -> None:
        """Wait until only so many connections are open."""
        await self.until(lambda: self.open <= count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1000
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not self._failed, self._failed


async def always(line: Line) -> None:
    """Answer every request."""
    while True:
        await line.request()
        line.say(OK)


def once(reply: bytes, *, then: str = "wait") -> Speak:
    """Answer one request with these bytes; then `wait` for the client to close, `close` or
    `reset`."""

    async def speak(line: Line) -> None:
        await line.request()
        line.say(reply)
        if then == "wait":
            await line.end()
        elif then == "close":
            line.writer.close()
            await line.writer.wait_closed()
        else:
            line.reset()

    return speak


def send(
    client: HttpClient,
    url: str,
    body: bytes = BODY,
    *,
    method: str = "POST",
    path: str = "/chat/completions",
    connect: float = 10,
    first_byte: float = 10,
    total: float = 20,
    headers: Mapping[str, str] | None = None,
) -> AbstractAsyncContextManager[HttpReply]:
    """A request below the address."""
    request = build(method, url + path, {"x-a": "b", **(headers or {})}, body)
    return client.send(request, connect=connect, first_byte=first_byte, total=total)


async def answer(client: HttpClient, url: str, body: bytes = BODY, **more: Any) -> bytes:
    """The body that comes back."""
    async with send(client, url, body, **more) as reply:
        return await reply.read()


@contextlib.asynccontextmanager
async def opened(
    speak: Speak, *, many: bool, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[HttpClient, Peer]]:
    """A client and its server; both have nothing open at the end."""
    async with Peer(speak, tls) as peer:
        client = HttpClient(many=many)
        try:
            yield client, peer
        finally:
            await client.close()
        await peer.closed()


def driven(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test in an event loop of its own: what hangs fails, what was left open warns, and nothing
    else may go wrong unseen."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        unseen: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: unseen.append(what))
            await asyncio.wait_for(test(*args, **named), 20)

        asyncio.run(watched())
        gc.collect()
        assert not unseen, unseen

    return run
