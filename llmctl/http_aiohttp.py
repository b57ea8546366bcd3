"""aiohttp as a transport of httpx2, for many requests at a time.

It reports the same `trace` events as httpx2's own transport: one when a connection is made, one
just before a byte of the request leaves, another when all of it is handed to the system.
httpx-aiohttp reports a refused
connection and one that broke after sending alike, which makes a wrong bill.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx2
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

_MAX_HEADER = 64 * 1024  # bytes: gateways and their cookies exceed aiohttp's 8 KiB
_PIECE = 256 * 1024  # bytes of a request's body that are handed to the event loop at a time


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests to any origin, by way of the proxy if there is one. `keep_alive` is the
    seconds that an idle connection is kept; None: a connection carries one request. Belongs to the
    event loop of its first request."""

    def __init__(
        self, context: ssl.SSLContext, proxy: httpx2.Proxy | None, keep_alive: float | None
    ) -> None:
        self._context = context
        self._keep_alive = keep_alive
        self._session: aiohttp.ClientSession | None = None
        self._proxy = URL(str(proxy.url)) if proxy else None
        self._proxy_headers: Mapping[str, str] = {}
        if proxy is not None and (login := proxy.raw_auth):
            basic = base64.b64encode(b":".join(login)).decode()
            self._proxy_headers = {"Proxy-Authorization": f"Basic {basic}"}

    def _open(self) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_start.append(_connects)
        kept: dict[str, Any] = {"keepalive_timeout": self._keep_alive}
        if self._keep_alive is None:
            kept = {"force_close": True}
        return aiohttp.ClientSession(
            trace_configs=[tracing],
            connector=aiohttp.TCPConnector(
                ssl=self._context,
                limit=0,
                **kept,
                resolver=aiohttp.ThreadedResolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # deadlines are those of `HttpClient`
            auto_decompress=False,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises `ConnectError` before a byte of it has left, `ReadError` after."""
        if self._session is None:
            self._session = self._open()
        # Let the event loop read what it has not yet: a request sent on a connection that the
        # server has closed is lost, and nobody could tell whether it was read.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        body = _Body(request)
        headers = CIMultiDict(
            [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in request.headers.raw
            ]
        )
        tunnelled = request.url.scheme == "https"
        if self._proxy is not None and not tunnelled:
            headers.update(self._proxy_headers)
        try:
            answer = await self._session.request(
                request.method,
                _url(str(request.url)),
                headers=headers,
                data=body,
                trace_request_ctx=request.extensions["trace"],
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers if self._proxy and tunnelled else None,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise (httpx2.ReadError if body.begun else httpx2.ConnectError)(str(error)) from error
        return httpx2.Response(answer.status, headers=answer.raw_headers, stream=_Stream(answer))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


async def _connects(_session: object, context: SimpleNamespace, _params: object) -> None:
    await context.trace_request_ctx("connection.connect_tcp.started", {})


@lru_cache(maxsize=64)
def _url(url: str) -> URL:
    return URL(url, encoded=True)


class _Body(aiohttp.Payload):
    """The body of a request, and its `trace` events. aiohttp sends the head together with the
    first piece of the body, so nothing has left before that."""

    def __init__(self, request: httpx2.Request) -> None:
        super().__init__(request.content, content_type="application/json")
        self._size = len(request.content)
        self._trace = request.extensions["trace"]
        self._info = {"request": request}
        self.begun = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body."""
        await self._trace("http11.send_request_headers.started", self._info)
        self.begun = True
        whole: bytes = self._value
        if len(whole) <= _PIECE:
            await writer.write(whole)
        else:
            for at in range(0, len(whole), _PIECE):
                await writer.write(memoryview(whole)[at : at + _PIECE])
        await self._trace("http11.send_request_body.complete", self._info)


class _Stream(httpx2.AsyncByteStream):
    """The body of a reply as it comes, still encoded. Closing it closes the connection, unless the
    reply is complete."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._answer.content.readany():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(str(error)) from error

    async def aclose(self) -> None:
        self._answer.close()
