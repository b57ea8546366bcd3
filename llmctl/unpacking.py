"""Bodies as they were before they were packed, in pieces of a bounded size; pure.

Ten kilobytes of gzip may unpack to a gigabyte.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from llmctl.errors import BadResponse

MAX_BODY = 64 * 1024 * 1024
"""Bytes of decoded body that are read at most: far above any answer, far below the memory."""

_MAX_PIECE = 1024 * 1024
_ZLIB_BITS = {"gzip": 31, "deflate": 15}

ACCEPT_ENCODING = "gzip, deflate"
"""What `Reply` can decode in bounded pieces."""

Decode = Callable[[bytes], Iterable[bytes]]
"""From packed bytes to what comes out of them."""


def bounded(decode: Decode) -> Decode:
    """The same; `BadResponse` once more than `MAX_BODY` bytes have come out."""
    size = 0

    def counted(raw: bytes) -> Iterator[bytes]:
        nonlocal size
        for piece in decode(raw):
            size += len(piece)
            if size > MAX_BODY:
                raise too_large()
            yield piece

    return counted


def too_large() -> BadResponse:
    """The error for a body that is larger than `MAX_BODY`."""
    return BadResponse(f"the answer is larger than {MAX_BODY >> 20} MiB", retryable=False)


def decoder(encoding: str) -> Decode:
    """Unpacks what a `content-encoding` header names. Raises `BadResponse`, as what it gives does
    for damaged bytes."""
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
