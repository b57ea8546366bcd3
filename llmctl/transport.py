"""The wire: the only file that imports the HTTP client, and maps its errors at the border.

One `HttpTransport` serves one address. Redirects, cookies, netrc, unpacking and the client's own
ideas of proxies and time limits are switched off: the program has its own or wants none.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmctl.deadlines import Deadline, Deadlines
from llmctl.errors import CallError, CallTimeout, ConfigError, ConnectionFailed
from llmctl.network import Proxy, proxy_for, trust
from llmctl.unpacking import MAX_BODY, bounded, decoder, too_large

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp
    from yarl import URL

    from llmctl.protocols import HttpRequest
    from llmctl.settings import Timeouts

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which llama.cpp and uvicorn (which
serves vLLM) close one, so that a connection is rarely found closed by the other side."""

_MAX_HEADER = 64 * 1024
"""Bytes a header may have: gateways and their cookies exceed the client's own 8 KiB."""

_MAX_AT_ONCE = 1 << 20
"""Bytes of request body that are handed to the client in one go; it warns of more."""


@lru_cache(maxsize=16)
def _connecting(seconds: float) -> aiohttp.ClientTimeout:
    """The limit of finding and reaching the host; all others are kept here."""
    import aiohttp

    return aiohttp.ClientTimeout(connect=seconds)


@lru_cache(maxsize=64)
def _url(url: str) -> URL:
    """The address as it is: whoever wrote it has encoded it."""
    from yarl import URL

    return URL(url, encoded=True)


class HttpTransport:
    """Sends requests to one address. Whoever calls limits how many there are at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._where = parts.netloc
        proxy = proxy_for(url)
        self._proxy = Proxy(proxy, tunnel=parts.scheme == "https") if proxy else None
        self._session: aiohttp.ClientSession | None = None
        self._deadlines: Deadlines | None = None
        try:
            self._verify = trust() if parts.scheme == "https" else True
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"the certificates cannot be loaded: {error}") from error

    def _open(self) -> aiohttp.ClientSession:
        """The client, made in the event loop that it belongs to."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE,
                ssl=self._verify,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )
        return self._session

    def ask(self, request: HttpRequest) -> aiohttp.client._RequestContextManager:
        """The client's own context of the request."""
        session, proxy, body = self._session or self._open(), self._proxy, request.body
        return session.request(
            request.method,
            _url(request.url),
            data=(body if len(body) <= _MAX_AT_ONCE else io.BytesIO(body)) if body else None,
            headers={**request.headers, **proxy.to_all} if proxy else request.headers,
            allow_redirects=False,
            timeout=_connecting(request.timeouts.connect),
            proxy=proxy.url if proxy else None,
            proxy_headers=proxy.to_proxy if proxy else None,
        )

    def send(self, request: HttpRequest) -> _Sending:
        """Send, and give the reply; its body is read while the context is open.

        Raises `ConnectionFailed` and `CallTimeout`; the total deadline covers the body too.
        """
        return _Sending(self, request)

    def begin(self, when: float) -> Deadline:
        """A deadline for the running task."""
        if self._deadlines is None:
            self._deadlines = Deadlines()
        return self._deadlines.begin(when)

    def mapped(self, error: aiohttp.ClientError) -> CallError:
        """Our own error; whatever is not known to have happened before the request was sent may
        have been billed."""
        import aiohttp

        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return CallTimeout(
                f"{self._where} accepted no connection in time (`timeout.connect` of the profile)",
                ambiguous=False,
            )
        why = _why(error)
        if isinstance(
            error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.InvalidURL
        ):
            return ConnectionFailed(
                f"no connection to {self._where} ({why}); check the network and `base_url`"
            )
        return ConnectionFailed(f"the connection to {self._where} broke ({why})", ambiguous=True)

    def late(self, limits: Timeouts, *, answered: bool) -> CallTimeout:
        """The error of a call whose time was up before, or after, its answer began."""
        if answered or limits.total <= limits.first_byte:
            what = f"did not finish its answer within {limits.total:g} s (`timeout.total`"
        else:
            what = f"sent nothing for {limits.first_byte:g} s (`timeout.first_byte`"
        return CallTimeout(f"{self._where} {what} of the profile)")

    async def close(self) -> None:
        """Give all connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = self._deadlines = None


def _why(error: aiohttp.ClientError) -> str:
    """What went wrong, without the address, which the sentence around it names."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        proxy = "the proxy: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return proxy + (cause.strerror or str(cause) or type(cause).__name__)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status} {error.message}".rstrip()
    return str(error) or type(error).__name__


class _Sending:
    """The context of one request. A class, because a generator made into a context costs more
    than all that it does here."""

    __slots__ = ("_answered", "_asked", "_deadline", "_request", "_transport")

    def __init__(self, transport: HttpTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request
        self._answered = False

    async def __aenter__(self) -> Reply:
        limits = self._request.timeouts
        started = asyncio.get_running_loop().time()
        self._deadline = self._transport.begin(started + min(limits.first_byte, limits.total))
        try:
            self._asked = self._transport.ask(self._request)
            reply = await self._asked.__aenter__()
        except BaseException as error:
            if (ours := self._ended(error)) is not None:
                raise ours from error
            raise
        self._answered = True
        self._deadline.when = started + limits.total
        return Reply(reply)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._asked.__aexit__(kind, error, trace)
        except BaseException as broken:
            if (ours := self._ended(broken)) is not None:
                raise ours from broken
            raise
        if (ours := self._ended(error)) is not None:
            raise ours from error

    def _ended(self, error: BaseException | None) -> CallError | None:
        """Take the deadline away; our own error in the place of the client's or of one that the
        deadline made, None where `error` may go on as it is."""
        late = self._deadline.end(error)
        if error is None:
            return None
        import aiohttp

        if isinstance(error, aiohttp.ClientError):
            return self._transport.mapped(error)
        if late or isinstance(error, TimeoutError):
            return self._transport.late(self._request.timeouts, answered=self._answered)
        return None


class Reply:
    """A reply whose body has not been read yet."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._content = reply.content
        self.status: int = reply.status
        self.headers: Mapping[str, str] = reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The decoded body as it arrives; `BadResponse` beyond `MAX_BODY` bytes.

        Decoding is done here and not in the client because its output must be bounded:
        ten kilobytes of gzip may unpack to a gigabyte.
        """
        unpacked = bounded(decoder(self.headers.get("content-encoding", "")))
        while raw := await self._content.readany():
            for piece in unpacked(raw):
                yield piece

    async def read(self) -> bytes:
        """The whole decoded body."""
        content, encoding = self._content, self.headers.get("content-encoding", "")
        pieces: list[bytes] = []
        if not encoding:
            # Nothing to unpack: a short answer is one piece, which needs only its length read.
            size = 0
            while not content.at_eof():
                raw = await content.readany()
                size += len(raw)
                if size > MAX_BODY:
                    raise too_large()
                pieces.append(raw)
        else:
            unpacked = bounded(decoder(encoding))
            while raw := await content.readany():
                pieces += unpacked(raw)
        return b"".join(pieces)
