"""HTTP/1.1 bytes: a request's head in, an answer's bytes out. Pure functions."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

End = Literal["keep", "close", "cut", "reset", "hang"]
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request; header names are lower case, `length` is the body's in bytes."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is framed: `chunked` sends every piece as one HTTP chunk."""

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """How bytes reach the client: segments `interval` seconds apart, then `end`.

    The first segment is the head. `keep` leaves the connection for the next request, `close` ends
    it as announced, `cut` ends it unannounced (FIN), `reset` with RST, `hang` keeps it open and
    silent.
    """

    segments: tuple[bytes, ...]
    interval: float = 0.0
    end: End = "keep"


@lru_cache(maxsize=1024)  # a client repeats its head with few variations: the content length
def parse_head(raw: bytes) -> Head:
    """Parse a head (without the blank line). ValueError when it is not HTTP/1.x with a length."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(line)
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        message = "send a content-length: chunked requests are not understood"
        raise ValueError(message)
    path, _, query = target.partition("?")
    return Head(
        method=method,
        path=path,
        query=query,
        headers=MappingProxyType(headers),
        length=int(headers.get("content-length", "0")),
        keep_alive=headers.get("connection", "").lower() != "close" and version == "HTTP/1.1",
    )


def render(answer: Answer, extra: Headers = (), *, close: bool = False) -> Delivery:
    """Frame an answer and `extra` headers: the head, then a segment a piece (and a last chunk)."""
    lines = [_status_line(answer.status)]
    lines += [f"{name}: {value}\r\n" for name, value in answer.headers + extra]
    if answer.chunked:
        lines.append("transfer-encoding: chunked\r\n")
        framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in answer.pieces if piece]
        body = (*framed, b"0\r\n\r\n")
    else:
        body = answer.pieces
        lines.append(f"content-length: {sum(map(len, body))}\r\n")
    lines.append("connection: close\r\n\r\n" if close else "\r\n")
    head = "".join(lines).encode("latin-1", "replace")
    return Delivery((head, *body), end="close" if close else "keep")


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n"
