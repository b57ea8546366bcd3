"""Faults of a connection or a body; all but `Hang` and `Disconnect` spoil a billed answer."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .fault import Fault
from .http1 import Answer, Delivery, End
from .reply import Finish, Reply
from .wires.wire import Wire


@dataclass(frozen=True, kw_only=True)
class Disconnect(Fault):
    """The connection ends (FIN, or RST with `reset`) before any byte of the answer."""

    billed: bool = False
    reset: bool = False

    def deliver(self, delivery: Delivery) -> Delivery:  # noqa: ARG002  (the seam passes it)
        """Send nothing and end."""
        return Delivery((), end=_end(reset=self.reset))


@dataclass(frozen=True, kw_only=True)
class CutBody(Fault):
    """The connection ends after this `fraction` of the body's bytes."""

    fraction: float = 0.5
    reset: bool = False

    def deliver(self, delivery: Delivery) -> Delivery:
        """Send the head, a part of the body, and end."""
        head, *rest = delivery.segments
        body = b"".join(rest)
        return Delivery((head, body[: int(len(body) * self.fraction)]), end=_end(reset=self.reset))


@dataclass(frozen=True, kw_only=True)
class Hang(Fault):
    """Silence for ever, from the start or after the head and `pieces` SSE events."""

    billed: bool = False
    pieces: int | None = None

    def deliver(self, delivery: Delivery) -> Delivery:
        """Send nothing, or the beginning, and keep the connection open."""
        count = 0 if self.pieces is None else self.pieces + 1
        return replace(delivery, segments=delivery.segments[:count], end="hang")


@dataclass(frozen=True, kw_only=True)
class Dribble(Fault):
    """One byte of the body every `interval` seconds."""

    interval: float = 5.0

    def deliver(self, delivery: Delivery) -> Delivery:
        """Send byte by byte."""
        head, *rest = delivery.segments
        body = b"".join(rest)
        pieces = (body[i : i + 1] for i in range(len(body)))
        return replace(delivery, segments=(head, *pieces), interval=self.interval)


@dataclass(frozen=True, kw_only=True)
class Body(Fault):
    """Another body with a status of its own: `Body(body=b"")`, an HTML page, anything."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Give this body."""
        return Answer(self.status, (("content-type", self.content_type),), (self.body,))


@dataclass(frozen=True, kw_only=True)
class Malformed(Fault):
    """JSON that breaks off in the middle, with a content length that fits; so in every event."""

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Cut the payload's JSON."""
        tail = b"\n\n" if answer.chunked else b""
        cut = tuple(piece[: len(piece) // 2] + tail for piece in answer.pieces)
        return replace(answer, pieces=cut)


@dataclass(frozen=True, kw_only=True)
class GzipBomb(Fault):
    """A body of zeros that unpacks to `size` bytes.

    gzip packs 1 to 1,030 at best, so one layer of a GiB is 1 MiB; with two (`content-encoding:
    gzip, gzip`) it is under 10 KiB.
    """

    size: int = 1 << 30
    layers: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        """Pack it now: a GiB takes a second, which must not stall the server."""
        _bomb(self.size, self.layers)

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Give the bomb in place of the body."""
        encoding = ("content-encoding", ", ".join(["gzip"] * self.layers))
        return Answer(answer.status, (*answer.headers, encoding), (_bomb(self.size, self.layers),))


@dataclass(frozen=True, kw_only=True)
class Ending(Fault):
    """The model ends for this reason (`length`, `content_filter`, …), cut to `text` if given."""

    finish: Finish
    text: str | None = None

    def reply(self, reply: Reply) -> Reply:
        """Change the finish reason."""
        text = reply.text if self.text is None else self.text
        return replace(reply, text=text, finish=self.finish)


@dataclass(frozen=True, kw_only=True)
class Refusal(Fault):
    """The model refuses: no text, a `refusal` in its place."""

    refusal: str = "I'm sorry, I cannot help with that."

    def reply(self, reply: Reply) -> Reply:
        """Refuse."""
        return replace(reply, text="", refusal=self.refusal)


def html(code: int = 200, *, billed: bool = False) -> Body:
    """Give a proxy's HTML page where JSON should be."""
    page = b"<!doctype html><html><title>Gateway</title><body>Bad gateway</body></html>"
    return Body(body=page, status=code, content_type="text/html; charset=utf-8", billed=billed)


def empty() -> Body:
    """Give a 200 with an empty body."""
    return Body(body=b"")


def _end(*, reset: bool) -> End:
    return "reset" if reset else "cut"


@lru_cache(maxsize=8)
def _bomb(size: int, layers: int) -> bytes:
    if layers > 1:
        return gzip.compress(_bomb(size, layers - 1), mtime=0)
    block, rest = bytes(1 << 20), bytes(size % (1 << 20))
    full = size >> 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A full flush ends on a byte and forgets the past: one packed block may be repeated.
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = last.compress(rest) + last.flush()
    crc = 0
    for _ in range(full):
        crc = zlib.crc32(block, crc)
    head = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
    check = struct.pack("<II", zlib.crc32(rest, crc), size & 0xFFFFFFFF)
    return head + packed * full + tail + check
