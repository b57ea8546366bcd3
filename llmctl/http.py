"""HTTP client: requests with deadlines, bounded bodies, and errors mapped by phase.

httpx2's `Request`, `Response`, exceptions and `AsyncBaseTransport` are the seam. One request at a
time goes over httpx2's own transport, many go over aiohttp (`http_aiohttp`), which takes a quarter
of its processor time. Redirects are not followed; there are no cookies and no netrc.

    client = HttpClient()
    request = build("POST", "https://api.example/v1/chat", {"x-a": "b"}, b"{}")
    async with client.send(request, connect=10, first_byte=60, total=300) as reply:
        body = await reply.read()
    await client.close()
"""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import os
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import llmctl
from llmctl.errors import (
    BadResponse,
    CallTimeout,
    ConfigError,
    ConnectionFailed,
    InvalidRequest,
    Overloaded,
)
from llmctl.protocols import FileBody
from llmctl.redact import remember

if TYPE_CHECKING:
    import httpx2

MAX_BODY = 64 * 1024 * 1024  # bytes of a body, decoded and as it came, that are read at most
_PIECE = 256 * 1024  # bytes that are unpacked at a time

# Seconds an idle connection is kept: less than the 5 s after which llama.cpp and uvicorn (which
# serves vLLM) close one, so that a connection is rarely found closed by the server.
KEEP_ALIVE = 4.0

# Seconds for which a server's connections are not kept after it has ended one that was kept as the
# next request came: it will do the same to the others.
_NOT_KEPT = 60.0

_DEFAULT_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"llmctl/{llmctl.__version__}",
}
_DECODED = frozenset({"", "identity", "gzip", "deflate"})
# Headers that say where a request goes and where it ends; no caller may set them.
_RESERVED = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_LOOPBACK = ("127.0.0.0/8", "::1", "0.0.0.0", "::")  # noqa: S104 - nothing is bound
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110, 5.6.2)
_VALUE = re.compile(rb"[\t\x20-\x7e]*")


class CancelledAfterSending(asyncio.CancelledError):
    """A cancelled call that may be billed, after so many `attempts`, of which `uncertain` may have
    been billed without an answer, `limited` met a rate limit and `elsewhere` were made at other
    profiles; `earlier` is what others were billed for (`types.Billed`), `request` the one that was
    asked, where that is not the caller's, `route` the `types.RouteDecision`, where there was a
    choice."""

    def __init__(
        self,
        *,
        attempts: int = 1,
        uncertain: int = 1,
        limited: int = 0,
        earlier: tuple[Any, ...] = (),
    ) -> None:
        super().__init__()
        self.attempts, self.uncertain, self.limited = attempts, uncertain, limited
        self.earlier = earlier
        self.elsewhere = 0
        self.request: Any = None
        self.route: Any = None


def build(
    method: str, url: str, headers: Mapping[str, str], body: bytes | FileBody = b""
) -> httpx2.Request:
    """An HTTP request; name and password in the address become a header. Raises `ConfigError` for
    an address that is none, `InvalidRequest` for headers that HTTP cannot carry or that the client
    sets itself; an error never shows a header's value. A file is read while it is sent, which only
    httpx2's own transport does."""
    import httpx2

    target, fields = _address(url, tuple(headers.items()))
    if isinstance(body, FileBody):
        request = httpx2.Request(method, target, headers=fields, content=_pieces(body))
        request.headers.pop("transfer-encoding", None)  # the length is known
        request.headers["content-length"] = str(len(body.head) + body.size + len(body.tail))
        return request
    # As a stream: httpx2 would look for the same headers again.
    request = httpx2.Request(method, target, headers=fields, stream=httpx2.ByteStream(body))
    if body or method != "GET":
        request.headers["content-length"] = str(len(body))
    request.read()
    return request


async def _pieces(body: FileBody) -> AsyncGenerator[bytes]:
    yield body.head
    with body.open() as file:
        while piece := file.read(_PIECE):
            yield piece
    yield body.tail


@lru_cache(maxsize=64)
def _address(url: str, given: tuple[tuple[str, str], ...]) -> tuple[httpx2.URL, httpx2.Headers]:
    """The address without its login, and the headers: alike for all rows of a batch."""
    import httpx2

    try:
        target = httpx2.URL(url)
        usable = target.scheme in {"http", "https"} and target.host
    except (httpx2.InvalidURL, UnicodeError):
        usable = False
    if not usable:
        raise ConfigError("the address is none of http:// or https:// and a host; check `base_url`")
    headers = {name.lower(): value for name, value in given}
    if bad := _RESERVED & headers.keys():
        raise InvalidRequest(f"the header {min(bad)} is set by the client itself", sent=False)
    fields = {"host": target.netloc.decode(), **_DEFAULT_HEADERS}
    if target.userinfo:
        login = base64.b64encode(f"{target.username}:{target.password}".encode()).decode()
        fields["authorization"] = f"Basic {login}"
        target = target.copy_with(userinfo=b"")
    try:
        return target, httpx2.Headers({**fields, **headers})
    except UnicodeEncodeError:
        raise InvalidRequest("a header is not in ASCII", sent=False) from None


class HttpReply:
    """A reply whose body has not been read. Names of `headers` are lower case; the values of a
    repeated header are joined by commas."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers.raw:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    @property
    def server_time(self) -> float | None:
        """Seconds since the epoch by the server's clock; None where it does not say."""
        return http_date(self.headers.get("date", ""))

    async def chunks(self, most: int | None = None) -> AsyncGenerator[bytes]:
        """The decoded body in pieces, as they arrive. Raises `BadResponse` beyond `most` bytes
        (`MAX_BODY`), decoded or as they came: a megabyte of gzip may unpack to a gigabyte, and
        anything may stand behind its end."""
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding not in _DECODED:
            raise BadResponse(f"the answer came in an encoding nobody asked for: {encoding[:40]!r}")
        most, came, size = most or MAX_BODY, 0, 0
        unpack = _Unpacker() if encoding in {"gzip", "deflate"} else None
        async with aclosing(self._response.aiter_raw()) as body:
            async for packed in body:
                came += len(packed)
                for chunk in (packed,) if unpack is None else unpack(packed):
                    size += len(chunk)
                    if size > most:
                        break
                    yield chunk
                if max(came, size) > most:
                    raise BadResponse(
                        f"the answer is larger than {most >> 20} MiB", retryable=False
                    )

    async def read(self, most: int | None = None) -> bytes:
        """The whole decoded body, or its first `most` bytes. Raises as `chunks` does."""
        found: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                found.append(chunk)
                size += len(chunk)
                if most is not None and size >= most:
                    break
        return b"".join(found)[:most]


class WholeReply(NamedTuple):
    """A reply with its body, decoded, or as much of it as was wanted. Names of `headers` are lower
    case; `server_time` is as in `HttpReply`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    server_time: float | None


async def fetch(
    request: httpx2.Request,
    limit: float,
    most: int | None = None,
    *,
    proxy: str | None = None,
    certificates: str | None = None,
) -> WholeReply:
    """Send one request on a connection of its own: `limit` seconds for everything, and at most the
    first `most` bytes of the body. Raises as `HttpClient.send` and `HttpReply.read` do."""
    client = HttpClient(proxy=proxy, certificates=certificates)
    try:
        async with client.send(request, connect=limit, first_byte=limit, total=limit) as reply:
            body = await reply.read(most)
    finally:
        await client.close()
    return WholeReply(reply.status, reply.headers, body, reply.server_time)


def http_date(text: str) -> float | None:
    """The moment of a header's HTTP date, in seconds since the epoch; None where it is none."""
    from email.utils import parsedate_to_datetime  # dates are rare; this is slow to import

    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


class _Unpacker:
    """Unpacks gzip and deflate (with or without zlib's head) a piece at a time. httpx2's own
    unpacks whatever a piece holds at once, and keeps what comes behind the end."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False

    def __call__(self, packed: bytes) -> Iterator[bytes]:
        """The pieces that `packed` completes; nothing after the end of the packed data. Raises
        `BadResponse` for damage."""
        while packed and not self._zlib.eof:
            try:
                chunk = self._zlib.decompress(packed, _PIECE)
            except zlib.error as error:
                if self._begun:
                    why = f"the answer's compression is damaged ({error})"
                    raise BadResponse(why) from error
                chunk = b""
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
            else:
                packed = self._zlib.unconsumed_tail
            self._begun = True
            if chunk:
                yield chunk


class _Exchange:
    """The phase of one request, as the transport's `trace` events tell it, and its deadline: until
    it is connected, until the first byte after the request was sent, until the end."""

    def __init__(
        self, connect: float, first_byte: float, total: float, lost: Callable[[], float]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._end = now + total
        self._lost, self._lost_before = lost, lost()
        self._counted = self._lost_before
        self._first_byte = first_byte
        self._limit = ("accepted no connection within", connect, "connect")
        self._total = ("did not finish its answer within", total, "total")
        self._answered = False
        self._connecting: Any = None
        self.sent = False  # whether a byte of the request may have left
        self.kept = True  # whether the connection has carried a request before
        self.deadline = asyncio.timeout(None)
        self._when = min(now + connect, self._end)
        self._timer = self._loop.call_at(self._when, self._expire)

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """An event of the transport (httpx2, "Extensions"). A `CONNECT` is none of the request."""
        if event.endswith("send_request_headers.started"):
            if info["request"].method not in {b"CONNECT", "CONNECT"}:
                self.sent = True
                self._move(self._end)
        elif event.endswith("connect_tcp.started"):
            self.kept = False
        elif event.endswith("connect_tcp.complete"):
            self._connecting = info["return_value"]
        elif event.endswith("send_request_body.complete") and self.sent and not self._answered:
            self._limit = ("sent nothing for", self._first_byte, "first_byte")
            self._move(self._loop.time() + self._first_byte)

    def answered(self) -> None:
        """The head of the reply has come."""
        self.sent = self._answered = True
        self._move(self._end)

    @property
    def unheard(self) -> bool:
        """Whether a kept connection carried the request, and nothing of a reply came on it."""
        return self.kept and self.sent and not self._answered

    async def give_up(self) -> None:
        """Close a connection that was given up before a request was sent on it: httpcore2 leaves
        it open where TLS is cancelled."""
        if self._connecting is not None and not self.sent:
            await self._connecting.aclose()

    def close(self) -> None:
        """The exchange is over."""
        self._timer.cancel()

    @property
    def stalled(self) -> bool:
        """Whether the program was stopped meanwhile."""
        return self._lost() > self._lost_before

    def _count(self) -> float:
        """Seconds for which the program was stopped since the last count; the end is later by
        them."""
        lost = self._lost() - self._counted
        self._counted += lost
        self._end += lost
        return lost

    def _move(self, when: float) -> None:
        self._count()
        self._timer.cancel()
        self._when = min(when, self._end)
        self._timer = self._loop.call_at(self._when, self._expire)

    def _expire(self) -> None:
        if lost := self._count():
            self._move(self._when + lost)
            return
        with suppress(RuntimeError):  # the exchange is over
            self.deadline.reschedule(self._loop.time())

    def late(self, where: str) -> CallTimeout:
        """The error of a deadline that has passed."""
        what, seconds, name = self._total if self._when >= self._end else self._limit
        why = f"{where} {what} {seconds:g} s (`timeout.{name}` of the profile)"
        return CallTimeout(why, ambiguous=self.sent)


class HttpClient:
    """Sends HTTP requests; `many` at a time go over aiohttp. `proxy` is the address of the one that
    all go through, None: what the environment says. `lost` are the seconds for which the program
    was stopped so far: deadlines do not count them. `certificates` names a file of those to trust,
    besides the system's. Belongs to the event loop of its first request."""

    def __init__(
        self,
        *,
        many: bool = False,
        proxy: str | None = None,
        lost: Callable[[], float] = lambda: 0.0,
        certificates: str | None = None,
    ) -> None:
        self._many, self._proxy, self._lost = many, proxy, lost
        self._certificates = certificates
        if many:  # a second of a minute's requests would wait for this import
            import llmctl.http_aiohttp  # noqa: F401
        # By origin, and whether connections are kept; and the words for the proxy on the way.
        self._routes: dict[tuple[bytes, bytes, bool], tuple[httpx2.AsyncBaseTransport, str]] = {}
        self._not_kept: dict[bytes, float] = {}  # until when, by host; the loop's time

    @asynccontextmanager
    async def send(
        self, request: httpx2.Request, *, connect: float, first_byte: float, total: float
    ) -> AsyncIterator[HttpReply]:
        """Send a request; its reply can be read while the context is open.

        Seconds: `connect` until there is a connection (name, proxy and TLS included), `first_byte`
        from the end of the request to the beginning of the reply, `total` for everything.
        Raises `ConnectionFailed` and `CallTimeout` (`ambiguous` where a byte of the request may
        have left, `kept_ended` where a kept connection ended instead of a reply, or the program was
        stopped meanwhile), `BadResponse`, `InvalidRequest`, `ConfigError`, and
        `CancelledAfterSending` in the place of a cancellation where a byte may have left.
        """
        import httpx2

        transport, way = self._route(request)
        name = request.url.netloc.decode()
        exchange = _Exchange(connect, first_byte, total, self._lost)
        request.extensions["trace"] = exchange.trace
        try:
            async with exchange.deadline:
                try:
                    response = await transport.handle_async_request(request)
                except BaseException:
                    await exchange.give_up()
                    raise
                exchange.answered()
                try:
                    yield HttpReply(response)
                finally:
                    await response.aclose()
        except asyncio.CancelledError as error:
            if exchange.sent and not isinstance(error, CancelledAfterSending):
                raise CancelledAfterSending from error
            raise
        except TimeoutError as error:
            if not exchange.deadline.expired():
                raise
            raise exchange.late(name) from error
        except httpx2.HTTPError as error:
            reason = _reason(error)
            if not exchange.sent and reason in _NO_FILES:
                raise _no_files(reason) from error
            why = f"the connection to {name} broke ({reason})"
            if not exchange.sent:
                why = f"no connection to {name}{way} ({reason})"
                why += "; check the network and `base_url`"
            failed = ConnectionFailed(why, ambiguous=exchange.sent)
            failed.kept_ended = exchange.unheard or exchange.stalled
            if exchange.unheard:
                self._not_kept[request.url.netloc] = asyncio.get_running_loop().time() + _NOT_KEPT
            raise failed from error
        finally:
            exchange.close()

    def _route(self, request: httpx2.Request) -> tuple[httpx2.AsyncBaseTransport, str]:
        for field in request.headers.raw:
            _check_header(*field)
        now, place = asyncio.get_running_loop().time(), request.url.netloc
        keep = now >= self._not_kept.get(place, now)
        key = (request.url.raw_scheme, place, keep)
        if key not in self._routes:
            self._routes[key] = self._open(request.url, keep=keep)
        return self._routes[key]

    def _open(self, url: httpx2.URL, *, keep: bool) -> tuple[httpx2.AsyncBaseTransport, str]:
        import httpx2

        proxy = httpx2.Proxy(self._proxy) if self._proxy else proxy_for(url)
        https = url.scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        # A context that trusts nobody, where none is needed: loading certificates takes 20 ms.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if https:
            context = _certificates(
                os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), self._certificates
            )
        if proxy is not None and proxy.url.scheme == "https":
            proxy.ssl_context = context
        way = f" through the proxy {proxy.url.netloc.decode()}" if proxy else ""
        if self._many:
            from llmctl.http_aiohttp import AiohttpTransport

            return AiohttpTransport(context, proxy, KEEP_ALIVE if keep else None), way
        limits = httpx2.Limits(
            max_keepalive_connections=None if keep else 0, keepalive_expiry=KEEP_ALIVE
        )
        return httpx2.AsyncHTTPTransport(context, proxy=proxy, limits=limits), way

    async def close(self) -> None:
        """Close all connections."""
        routes, self._routes = self._routes, {}
        for transport, _ in routes.values():
            await transport.aclose()


@lru_cache(maxsize=256)
def _check_header(name: bytes, value: bytes) -> None:
    """Raises `InvalidRequest` for a header that would break the request; its value may be a key
    and is not shown."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest("a header has a name that HTTP does not allow", sent=False)
    if not _VALUE.fullmatch(value):
        raise InvalidRequest(
            f"the header {name.decode()} has a value that HTTP cannot carry (a line break, another "
            "control character, or one that is not ASCII)",
            sent=False,
        )


_NO_FILES = (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE))


def _no_files(reason: str) -> Overloaded:
    """The error where this machine, not the provider, lets no connection be opened: fewer calls at
    a time, and no attempt is lost."""
    error = Overloaded(f"no connection could be opened ({reason}): raise `ulimit -n`", sent=False)
    error.excused, error.exit_code = True, 1
    return error


def _reason(error: BaseException) -> str:
    """The system's words for what went wrong, from the causes of a library's error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return cause.strerror or str(cause)
        if isinstance(cause, OSError) and cause.errno:
            # asyncio and aiohttp put an address in the place of the system's words; a name that
            # is not found has a negative number.
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or str(cause)
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def proxy_for(url: httpx2.URL) -> httpx2.Proxy | None:
    """The proxy that the environment names for an address (`HTTPS_PROXY`, `ALL_PROXY`…), or the
    system. None for loopback, which no proxy can reach, and for what `NO_PROXY` lists: hosts,
    `.domain`, `*.domain`, addresses, networks. Raises `ConfigError`."""
    import urllib.request

    import httpx2

    host, netloc = url.host, url.netloc.decode()
    if host == "localhost" or host.endswith(".localhost") or _in_networks(host, _LOOPBACK):
        return None
    known = urllib.request.getproxies()
    found = known.get(url.scheme) or known.get("all")
    excluded = [entry.strip() for entry in known.get("no", "").lower().split(",")]
    domains = tuple(entry[1:] for entry in excluded if entry.startswith("*."))
    # Names and `.domain` are what the standard library knows.
    if not found or urllib.request.proxy_bypass(netloc) or host.endswith(domains):
        return None
    if _in_networks(host, excluded):
        return None
    try:
        proxy = httpx2.Proxy(found if "://" in found else f"http://{found}")
        usable = proxy.url.scheme in {"http", "https"} and proxy.url.host
        remember(next(filter(None, reversed(proxy.auth or ())), ""))  # the password, or a token
    except (httpx2.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise ConfigError(
            f"the environment's proxy cannot be used: {found.rpartition('@')[2]!r} is not the "
            "address of an HTTP proxy"
        )
    return proxy


def _in_networks(host: str, networks: Iterable[str]) -> bool:
    for network in networks:
        with suppress(ValueError):
            listed = ipaddress.ip_network(re.sub(r"[][]", "", network), strict=False)
            if ipaddress.ip_address(host) in listed:
                return True
    return False


@lru_cache(maxsize=4)
def _certificates(file: str | None, folder: str | None, more: str | None) -> ssl.SSLContext:
    """The certificates to trust, loaded once for `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the
    system's store; and those of the file `more`. Raises `ConfigError`."""
    del file, folder  # httpx2 reads them itself
    import httpx2

    try:
        context = httpx2.create_ssl_context()
        if more:
            context.load_verify_locations(more)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"the certificates cannot be loaded: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context
