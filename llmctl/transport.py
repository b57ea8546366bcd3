"""The wire as the program sees it: deadlines, bounded bodies, and its errors, mapped at the border.

One `HttpTransport` serves one address. There are no redirects, cookies or netrc: the program
wants none.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from llmctl.deadlines import Deadline, Deadlines
from llmctl.errors import CallError, CallTimeout, ConfigError, ConnectionFailed, InvalidRequest
from llmctl.network import Proxy, proxy_for, trust
from llmctl.unpacking import MAX_BODY, bounded, decoder, too_large
from llmctl.wire.connection import Connection
from llmctl.wire.failures import Broken, Late, Unreached, Unsendable
from llmctl.wire.head import Heads, Origin
from llmctl.wire.pool import Pool
from llmctl.wire.route import Route

if TYPE_CHECKING:
    from types import TracebackType

    from llmctl.config.settings import Timeouts
    from llmctl.protocols import HttpRequest


class HttpTransport:
    """Sends requests to one address. Whoever calls limits how many there are at a time."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigError` where address, proxy or certificates cannot be used."""
        try:
            origin = Origin.of(url)
        except Unsendable as error:
            raise ConfigError(f"{error}; check `base_url`") from error
        found = proxy_for(url)
        secure = origin.scheme == "https"
        self._origin, self._where = origin, origin.netloc
        self._proxy = Proxy(found, tunnel=secure) if found else None
        whole = self._proxy is not None and not secure
        self.heads = Heads(origin, self._proxy.to_all if self._proxy and whole else None)
        self._trusted: ssl.SSLContext | None = None
        self._pool: Pool | None = None
        self._deadlines: Deadlines | None = None
        if secure or (self._proxy is not None and self._proxy.url.startswith("https:")):
            try:
                self._trusted = trust()
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(f"the certificates cannot be loaded: {error}") from error

    def pool(self) -> Pool:
        """The connections, made in the event loop that they belong to."""
        if self._pool is None:
            self._pool = Pool(Route(self._origin, self._trusted, self._proxy))
        return self._pool

    def send(self, request: HttpRequest) -> _Sending:
        """Send, and give the reply; its body is read while the context is open.

        Raises `ConnectionFailed`, `CallTimeout` and, for what HTTP cannot carry, `InvalidRequest`;
        the total deadline covers the body too.
        """
        return _Sending(self, request)

    def begin(self, when: float) -> Deadline:
        """A deadline for the running task."""
        if self._deadlines is None:
            self._deadlines = Deadlines()
        return self._deadlines.begin(when)

    def mapped(self, error: BaseException) -> CallError | None:
        """Our own error in the place of the wire's, None for any other; whatever is not known to
        have happened before the request was sent may have been billed."""
        if isinstance(error, Broken):
            return ConnectionFailed(
                f"the connection to {self._where} broke ({error})", ambiguous=True
            )
        if isinstance(error, Late):
            return CallTimeout(
                f"{self._where} accepted no connection in time (`timeout.connect` of the profile)",
                ambiguous=False,
            )
        if isinstance(error, Unreached):
            return ConnectionFailed(
                f"no connection to {self._where} ({error}); check the network and `base_url`"
            )
        if isinstance(error, Unsendable):
            return InvalidRequest(f"cannot be sent to {self._where}: {error}", sent=False)
        return None

    def late(self, limits: Timeouts, *, sent: bool, answered: bool) -> CallTimeout:
        """The error of a call whose time was up before, or after, its answer began."""
        if answered or limits.total <= limits.first_byte:
            what = f"did not finish its answer within {limits.total:g} s (`timeout.total`"
        else:
            what = f"sent nothing for {limits.first_byte:g} s (`timeout.first_byte`"
        return CallTimeout(f"{self._where} {what} of the profile)", ambiguous=sent)

    async def close(self) -> None:
        """Give all connections back."""
        pool, self._pool, self._deadlines = self._pool, None, None
        if pool is not None:
            await pool.close()


class _Sending:
    """The context of one request. A class, because a generator made into a context costs more
    than all that it does here."""

    __slots__ = (
        "_answered",
        "_connection",
        "_deadline",
        "_pool",
        "_reply",
        "_request",
        "_transport",
    )

    def __init__(self, transport: HttpTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request
        self._connection: Connection | None = None
        self._answered = False

    async def __aenter__(self) -> Reply:
        transport, request = self._transport, self._request
        limits = request.timeouts
        self._pool = pool = transport.pool()
        started = pool.loop.time()
        self._deadline = transport.begin(started + min(limits.first_byte, limits.total))
        try:
            body = request.body
            head = transport.heads.of(request.method, request.url, request.headers, len(body))
            connection = pool.take(started) or await pool.fetch(limits.connect)
            self._connection = connection
            connection.ask(head, body)
            await connection.answered()
        except BaseException as error:
            if (ours := self._ended(error)) is not None:
                raise ours from error
            raise
        self._answered = True
        self._deadline.when = started + limits.total
        self._reply = reply = Reply(connection)
        return reply

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._reply.connection  # the next exchange's answer is not for whoever kept the reply
        if (ours := self._ended(error)) is not None:
            raise ours from error

    def _ended(self, error: BaseException | None) -> CallError | None:
        """Take the deadline away and give the connection back; our own error in the place of the
        wire's or of one that the deadline made, None where `error` may go on as it is."""
        late = self._deadline.end(error)
        sent = self._connection is not None
        if self._connection is not None:
            self._pool.give(self._connection)
        if error is None:
            return None
        if late:
            return self._transport.late(self._request.timeouts, sent=sent, answered=self._answered)
        return self._transport.mapped(error)


class Reply:
    """A reply whose body has not been read yet."""

    __slots__ = ("connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The decoded body as it arrives; `BadResponse` beyond `MAX_BODY` bytes.

        Decoding is bounded: ten kilobytes of gzip may unpack to a gigabyte.
        """
        unpacked = bounded(decoder(self.headers.get("content-encoding", "")))
        while raw := await self.connection.piece():
            for piece in unpacked(raw):
                yield piece

    async def read(self) -> bytes:
        """The whole decoded body."""
        encoding = self.headers.get("content-encoding", "")
        pieces: list[bytes] = []
        if encoding:
            unpacked = bounded(decoder(encoding))
            while raw := await self.connection.piece():
                pieces += unpacked(raw)
            return b"".join(pieces)
        # Nothing to unpack: a short answer is there already, and needs only its length read.
        if (whole := self.connection.whole()) is not None and len(whole) <= MAX_BODY:
            return whole
        size = len(whole or b"")
        while size <= MAX_BODY and (raw := await self.connection.piece()):
            size += len(raw)
            pieces.append(raw)
        if size > MAX_BODY:
            raise too_large()
        return b"".join(pieces)
