"""Cached answers as bytes, and back; pure."""

from __future__ import annotations

import struct
import zlib
from decimal import Decimal

import orjson

from llmctl.protocols import CachedAnswer
from llmctl.types import Usage

_LENGTHS = struct.Struct(">BII")  # whether there is a body; bytes of the head and of the text
_WORTH_TRYING = 1024  # bytes; below, unpacking takes more time than a disk block is worth
_PAYS = 0.9


def pack(answer: CachedAnswer) -> tuple[bytes, bool]:
    """All of the answer but when it was stored; True when the bytes are compressed, which they
    are when that saves a tenth."""
    usage = answer.usage
    head = orjson.dumps(
        [
            answer.finish,
            answer.model,
            None if answer.cost is None else str(answer.cost),
            usage.input,
            usage.output,
            usage.cached_input,
            usage.cache_write,
            usage.reasoning,
            usage.estimated,
            usage.cache_write_1h,
        ]
    )
    # JSON may carry half of a surrogate pair, which is no UTF-8 by itself.
    text = answer.text.encode("utf-8", "surrogatepass")
    body = answer.body
    lengths = _LENGTHS.pack(body is not None, len(head), len(text))
    plain = b"".join((lengths, head, text, body or b""))
    if len(plain) >= _WORTH_TRYING:
        # Text and body hold the same words: even quick compression finds that.
        small = zlib.compress(plain, 1)
        if len(small) < _PAYS * len(plain):
            return small, True
    return plain, False


def unpack(value: bytes, *, compressed: bool, stored: float) -> CachedAnswer:
    """The answer that was packed. Raises `ValueError`, `struct.error` or `zlib.error` for bytes
    that `pack` did not make."""
    plain = zlib.decompress(value) if compressed else value
    has_body, head_length, text_length = _LENGTHS.unpack_from(plain)
    text_start = _LENGTHS.size + head_length
    body_start = text_start + text_length
    finish, model, cost, *usage = orjson.loads(plain[_LENGTHS.size : text_start])
    return CachedAnswer(
        text=plain[text_start:body_start].decode("utf-8", "surrogatepass"),
        finish=finish,
        model=model,
        usage=Usage(*usage),
        cost=None if cost is None else Decimal(cost),
        body=plain[body_start:] if has_body else None,
        stored=stored,
    )


def short(key: bytes) -> int:
    """The last 64 bits of a key, as SQLite's integer: a third of the key's size, so that more
    of them lie on a page. Where two keys have the same one, one of their answers is kept."""
    return int.from_bytes(key[-8:], "big", signed=True)


def verify(key: bytes, value: bytes, stored: float, expected: int) -> None:
    """Raise `ValueError` when the entry is not the one of which `expected` is the checksum."""
    if checksum(key, value, stored) != expected:
        raise ValueError("an answer is not what was stored")


def checksum(key: bytes, value: bytes, stored: float) -> int:
    """Tells a damaged entry from a sound one: SQLite does not notice a flipped bit in a value,
    and a wrong answer is worse than none."""
    return zlib.crc32(value, zlib.crc32(struct.pack(">d", stored), zlib.crc32(key)))
