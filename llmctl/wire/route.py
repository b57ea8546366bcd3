"""The way to an origin: straight or through a proxy, with TLS where the address says so."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from llmctl.network import Proxy
from llmctl.wire.connection import Connection
from llmctl.wire.dial import Names, reach
from llmctl.wire.failures import Unreached, reason
from llmctl.wire.head import Origin, lines

_MAX_HEAD = 64 * 1024
"""Bytes that a proxy may say before its tunnel is open."""

_HANDSHAKE = 3600.0
"""Seconds for a handshake of TLS: no limit of its own, that of connecting covers it."""

P = TypeVar("P", bound=asyncio.Protocol)


class Route:
    """Makes connections to one origin, in the event loop it was made in."""

    def __init__(self, origin: Origin, context: ssl.SSLContext | None, proxy: Proxy | None) -> None:
        """`context`: whom to trust; needed where the origin or the proxy is https."""
        self._origin, self._context, self._proxy = origin, context, proxy
        self._next = Origin.of(proxy.url) if proxy else origin
        self._names = Names(self._next.host, self._next.port)

    async def open(self, make: Callable[[], Connection]) -> Connection:
        """A connection that requests can be sent on. Raises `Unreached`."""
        proxy, asked = self._proxy, None
        try:
            if proxy is None or self._origin.scheme == "http":
                return (await self._reach(make))[1]
            transport, asked = await self._reach(_Tunnel)
            return await self._secured(transport, asked, make(), proxy)
        except OSError as error:
            # An origin's certificate is no matter of the proxy, which has let us through.
            whose = "" if proxy is None or (asked and asked.opened) else "the proxy: "
            raise Unreached(f"{whose}{reason(error)}") from error

    async def _reach(self, make: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connected to the origin or to the proxy, whichever comes first on the way."""
        sock = await reach(await self._names.addresses())
        secure = {"ssl": self._context, **self._checked(self._next)}
        options: dict[str, Any] = secure if self._next.scheme == "https" else {}
        loop = asyncio.get_running_loop()
        try:
            transport, made = await loop.create_connection(make, sock=sock, **options)
        except BaseException:
            sock.close()
            raise
        return transport, made

    async def _secured(
        self, transport: asyncio.Transport, asked: _Tunnel, connection: Connection, proxy: Proxy
    ) -> Connection:
        """The connection, with TLS to the origin through a tunnel of the proxy's."""
        where = self._origin.authority
        head = lines(f"CONNECT {where} HTTP/1.1", {"host": where, **proxy.to_proxy}) + b"\r\n"
        loop = asyncio.get_running_loop()
        try:
            transport.write(head)
            await asked.answered
            asked.check()
            assert self._context is not None
            connection.connection_made(transport)  # it may be lost before TLS has begun
            secure = await loop.start_tls(
                transport, connection, self._context, **self._checked(self._origin)
            )
        except BaseException:
            transport.abort()
            raise
        if secure is None:  # typeshed: where the transport had been closed
            raise Unreached("the connection was closed")
        connection.connection_made(secure)
        return connection

    def _checked(self, origin: Origin) -> dict[str, Any]:
        return {"server_hostname": origin.name, "ssl_handshake_timeout": _HANDSHAKE}

    def close(self) -> None:
        """Give up what is under way."""
        self._names.close()


class _Tunnel(asyncio.Protocol):
    """Waits for what a proxy says to `CONNECT`. Of a reply that opens the tunnel nothing may be
    left over: what comes next is the origin's, and it does not speak first."""

    def __init__(self) -> None:
        self.answered = asyncio.get_running_loop().create_future()
        self.opened = False
        self._said = bytearray()

    def data_received(self, data: bytes) -> None:
        """Wait for the empty line."""
        self._said += data
        if b"\r\n\r\n" in self._said or len(self._said) > _MAX_HEAD:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The proxy went away."""
        del exc
        self._end()

    def _end(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def check(self) -> None:
        """Returns when the tunnel is open. Raises `Unreached`."""
        head, end, rest = bytes(self._said).partition(b"\r\n\r\n")
        version, _, status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        code = status[:3]
        if not end or not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
            why = "gave no answer that is HTTP" if self._said else "closed the connection"
            raise Unreached(f"the proxy {why}")
        if code[0] != "2":
            raise Unreached(f"the proxy answered {status[:200]}".rstrip())
        if rest:
            raise Unreached("the proxy said more than that its tunnel is open")
        self.opened = True
