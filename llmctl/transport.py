"""The wire: the only file that imports the HTTP client, and maps its errors at the border.

One `HttpTransport` serves one address. It uses the client's transport directly: redirects,
cookies, netrc and client-side retries are not wanted here, so the layer that offers them is
left out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmctl.errors import BadResponse, CallError, CallTimeout, ConfigError, ConnectionFailed

if TYPE_CHECKING:
    import httpx2

    from llmctl.protocols import HttpRequest

MAX_BODY = 64 * 1024 * 1024
"""Bytes of decoded body that are read at most: far above any answer, far below the memory."""

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which llama.cpp and uvicorn (which
serves vLLM) close one, so that a connection is rarely found closed by the other side."""

_MAX_PIECE = 1024 * 1024
_ZLIB_BITS = {"gzip": 31, "deflate": 15}

ACCEPT_ENCODING = "gzip, deflate"
"""What `Reply` can decode in bounded pieces."""


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`…) names for `url`.

    Never one for this machine itself: what listens on loopback cannot be reached through it.
    """
    parts = urlsplit(url)
    if not parts.hostname or _is_loopback(parts.hostname):
        return None
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class HttpTransport:
    """Sends requests to one address, each over a connection of its own while it lasts.

    The client's own pool looks at all its connections for every request, which at 50 of them
    takes longer than all the rest; so each connection is a pool of one, and the pool of those
    is a stack. Whoever calls limits how many there are at a time.
    """

    def __init__(self, url: str) -> None:
        import httpx2

        parts = urlsplit(url)
        self._where = parts.netloc
        self._proxy = proxy_for(url)
        self._limits = httpx2.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE
        )
        self._idle: list[httpx2.AsyncHTTPTransport] = []
        self._all: list[httpx2.AsyncHTTPTransport] = []
        try:
            # Loaded once: the system's certificates take longer than a request.
            self._verify = httpx2.create_ssl_context() if parts.scheme == "https" else False
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"the certificates cannot be loaded: {error}") from error

    def _connection(self) -> httpx2.AsyncHTTPTransport:
        import httpx2

        if self._idle:
            return self._idle.pop()
        try:
            made = httpx2.AsyncHTTPTransport(
                verify=self._verify, limits=self._limits, proxy=self._proxy
            )
        except (ValueError, ImportError) as error:
            raise ConfigError(f"the environment's proxy cannot be used: {error}") from error
        self._all.append(made)
        return made

    @asynccontextmanager
    async def send(self, request: HttpRequest) -> AsyncIterator[Reply]:
        """Send, and give the reply; its body is read while the context is open.

        Raises `ConnectionFailed` and `CallTimeout`; the total deadline covers the body too.
        """
        import httpx2

        limits = request.timeouts
        outgoing = httpx2.Request(
            request.method,
            request.url,
            headers=dict(request.headers),
            content=request.body,
            extensions={"timeout": {"connect": limits.connect}},
        )
        connection = self._connection()
        try:
            async with asyncio.timeout(limits.total):
                reply = await self._first_byte(connection, outgoing, limits.first_byte)
                try:
                    yield Reply(reply)
                finally:
                    await reply.aclose()
        except TimeoutError as error:
            raise CallTimeout(
                f"{self._where} did not finish its answer within {limits.total:g} s "
                "(`timeout.total` of the profile)"
            ) from error
        except httpx2.TransportError as error:
            raise self._mapped(error) from error
        finally:
            self._idle.append(connection)

    async def _first_byte(
        self, connection: httpx2.AsyncHTTPTransport, outgoing: httpx2.Request, seconds: float
    ) -> httpx2.Response:
        waiting = asyncio.timeout(seconds)
        try:
            async with waiting:
                return await connection.handle_async_request(outgoing)
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise CallTimeout(
                f"{self._where} sent nothing for {seconds:g} s "
                "(`timeout.first_byte` of the profile)"
            ) from error

    def _mapped(self, error: httpx2.TransportError) -> CallError:
        import httpx2

        why = str(error) or type(error).__name__
        if isinstance(error, httpx2.ConnectTimeout):
            return CallTimeout(
                f"{self._where} accepted no connection in time (`timeout.connect` of the profile)",
                ambiguous=False,
            )
        if isinstance(error, httpx2.ConnectError | httpx2.ProxyError | httpx2.UnsupportedProtocol):
            return ConnectionFailed(
                f"no connection to {self._where} ({why}); check the network and `base_url`"
            )
        return ConnectionFailed(f"the connection to {self._where} broke ({why})", ambiguous=True)

    async def close(self) -> None:
        """Give all connections back."""
        for connection in self._all:
            await connection.aclose()


class Reply:
    """A reply whose body has not been read yet."""

    def __init__(self, reply: httpx2.Response) -> None:
        self._reply = reply
        self.status: int = reply.status_code
        self.headers: Mapping[str, str] = reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The decoded body as it arrives; `BadResponse` beyond `MAX_BODY` bytes.

        Decoding is done here and not in the client because its output must be bounded:
        ten kilobytes of gzip may unpack to a gigabyte.
        """
        decode = _decoder(self._reply.headers.get("content-encoding", ""))
        size = 0
        async for raw in self._reply.aiter_raw():
            for piece in decode(raw):
                size += len(piece)
                if size > MAX_BODY:
                    raise BadResponse(
                        f"the answer is larger than {MAX_BODY >> 20} MiB", retryable=False
                    )
                yield piece

    async def read(self) -> bytes:
        """The whole decoded body."""
        return b"".join([piece async for piece in self.chunks()])


def _decoder(encoding: str) -> Callable[[bytes], Iterable[bytes]]:
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return lambda raw: (raw,)
    if name not in _ZLIB_BITS:
        raise BadResponse(f"the answer came in an encoding nobody asked for: {name!r}")
    unpack = zlib.decompressobj(_ZLIB_BITS[name])

    def inflate(raw: bytes) -> Iterator[bytes]:
        try:
            while raw:
                yield unpack.decompress(raw, _MAX_PIECE)
                raw = unpack.unconsumed_tail
        except zlib.error as error:
            raise BadResponse(f"the answer's compression is damaged ({error})") from error

    return inflate
