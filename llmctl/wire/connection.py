"""One connection that speaks HTTP/1.1, one exchange after the other.

llhttp (the parser of Node.js, through httptools) reads the replies; what is here decides when an
exchange is over, and whether another may follow on the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llmctl.wire.failures import Broken, reason

_MAX_FIELD = 64 * 1024
"""Bytes of one header: gateways and their cookies exceed the usual 8 KiB."""

_MAX_SILENCE = 256 * 1024
"""Bytes that may come without one of them being the body's: heads, interim replies, trailers and
what is between chunks. Four of the largest headers; whoever sends more means harm."""

_MAX_UNREAD = 256 * 1024
"""Bytes of body that wait to be read before the other side is told to wait, too: what the event
loop reads at most in one go."""

_PIECE = 256 * 1024
"""Bytes of a request's body that are handed to the event loop at a time, which would otherwise
copy all of a large one."""

_IDLE, _ASKED, _ANSWERING, _DONE, _CLOSED = range(5)


@lru_cache(maxsize=512)
def _name(raw: bytes) -> str:
    """The name of a header; the same few come with every reply."""
    return raw.decode("latin-1").lower()


class Connection(asyncio.Protocol):
    """Made by the event loop. `ask`, wait for `answered`, read the body by `piece` or `whole`,
    then `free`; `abort` at any time. `status` and `headers` are those of the last reply."""

    __slots__ = (
        "_blocked", "_error", "_gone", "_keep", "_loop", "_more", "_parser", "_paused", "_pieces",
        "_rest", "_silent", "_state", "_transport", "_unread", "headers", "since", "status",
    )  # fmt: skip

    def __init__(self, gone: Callable[[Connection], None]) -> None:
        """`gone` is called once, when it is closed."""
        self._loop = asyncio.get_running_loop()
        self._gone = gone
        self._transport: asyncio.Transport
        self._parser = HttpResponseParser(self)
        # Old gateways end lines with LF alone, or pad the sizes of chunks: neither is ambiguous.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._state = _IDLE
        self._error: Broken | None = None
        self._more: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._unread = self._silent = 0
        self._rest = memoryview(b"")
        self._blocked = self._paused = self._keep = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.since = 0.0
        """When it became idle, in the event loop's time."""

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return self._state == _IDLE

    @property
    def asked(self) -> bool:
        """Whether a request is, or may be, under way."""
        return _ASKED <= self._state <= _ANSWERING

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request; `answered` must follow. Only where it is `usable`."""
        self._state, self._silent = _ASKED, 0
        if len(body) <= _PIECE:
            self._transport.write(head + body)
        else:
            self._rest = memoryview(body)
            self._transport.write(head)
            self._push()

    async def answered(self) -> None:
        """Wait for the head of the reply. Raises `Broken`."""
        while self._state == _ASKED:
            await self._news()
        if self._state == _CLOSED:
            raise self._error or Broken("it was closed here")

    def whole(self) -> bytes | None:
        """The rest of the body if all of it is there; None: it has to be waited for."""
        return self._take() if self._state == _DONE else None

    async def piece(self) -> bytes:
        """The next piece of the body; nothing at its end. Raises `Broken`."""
        while not self._pieces:
            if self._state == _DONE:
                return b""
            if self._state == _CLOSED:
                raise self._error or Broken("it was closed here")
            await self._news()
        return self._take()

    def free(self, now: float) -> bool:
        """The exchange is over: True where another one may follow; what has not been read of a
        complete reply is dropped. Otherwise the connection is closed, at once."""
        unsent = self._rest or self._blocked
        if (
            self._state != _DONE
            or not self._keep
            or unsent
            or self._transport.get_write_buffer_size()
        ):
            self.abort()
            return False
        if self._unread:
            self._take()
        self._state, self.since = _IDLE, now
        return True

    def abort(self) -> None:
        """Close it at once: what is being answered will not be paid for longer than that."""
        if self._state != _DONE:  # then it can still be read
            self._state = _CLOSED
            self._wake()
        self._keep = False
        self._transport.abort()

    def _news(self) -> asyncio.Future[None]:
        """Done when something has changed."""
        self._more = self._loop.create_future()
        return self._more

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _take(self) -> bytes:
        pieces, self._pieces, self._unread = self._pieces, [], 0
        if self._paused:
            self._paused = False
            if self._state != _CLOSED:
                self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _break(self, why: str) -> None:
        if self.asked:
            self._error = Broken(why)
        self.abort()

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if not _ASKED <= self._state <= _ANSWERING:
            # Nobody asked for this. Whatever it is, it is not to become the next one's answer.
            self.abort()
            return
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._state == _DONE:
                self._keep = False  # more than the reply came
                return
            cause = error.__context__ if isinstance(error.__context__, Broken) else error
            self._break(f"the answer is not HTTP: {cause}")
            return
        if self._silent > _MAX_SILENCE:
            self._break("the answer's head does not end")

    def eof_received(self) -> None:
        """The other side says no more. That ends a reply that says nothing else of its end."""
        if self._state == _ANSWERING and self._until_the_end():
            self._state = _DONE
            self._wake()
        self._break("the server closed it before the answer was complete")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        why = reason(exc) if isinstance(exc, OSError) else "the server closed it"
        self._break(why)
        self._gone(self)
        del self._parser  # which knows this object, too

    def pause_writing(self) -> None:
        """The other side does not read as fast as we send."""
        self._blocked = True

    def resume_writing(self) -> None:
        """It has read."""
        self._blocked = False
        self._push()

    def _push(self) -> None:
        """Send on what is left of a large body. The reply may come in the meantime."""
        while self._rest and not self._blocked and self._state != _CLOSED:
            piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
            self._transport.write(piece)

    def _until_the_end(self) -> bool:
        """Whether the end of the connection is that of the body (RFC 9112, 6.3)."""
        coding = self.headers.get("transfer-encoding")
        if coding is None:
            return "content-length" not in self.headers
        return coding.rpartition(",")[2].strip().lower() != "chunked"

    # What the parser says.

    def on_message_begin(self) -> None:
        """A reply, or an interim one before it."""
        if self._state != _ASKED:
            raise Broken("more than one reply came")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which nobody needs."""
        if self._state != _ASKED:
            return
        key, text, headers = _name(name), value.decode("latin-1").strip(" \t"), self.headers
        if key in headers:
            text = f"{headers[key]}, {text}"
        if len(text) > _MAX_FIELD:
            raise Broken(f"a header is larger than {_MAX_FIELD >> 10} KiB")
        headers[key] = text

    def on_headers_complete(self) -> None:
        """The head is there."""
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise Broken("the server changed the protocol")
            return
        self.status = status
        self._keep = self._parser.should_keep_alive()
        self._state = _ANSWERING
        self._wake()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._silent = 0
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > _MAX_UNREAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._more is not None:
            self._wake()

    def on_message_complete(self) -> None:
        """The reply is complete, or an interim one."""
        if self._state == _ANSWERING:
            self._state = _DONE
            self._wake()
