"""Fixed-size entries in numbered buckets on disk: what would not fit in memory."""

from __future__ import annotations

import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from llmctl.storage.files import disk

_CHUNK = 2048
"""Bytes of a bucket that wait in memory: small beside the program, large beside an entry."""

Entry = Iterator[tuple[Any, ...]]


class Spool:
    """Buckets in one temporary file without a name, which ends with the process.

    Only the last chunk of each bucket is in memory. `open` and `full` are public because
    `Index.add` appends to the chunks itself: a call for every row of a million would cost more
    than the work.
    """

    def __init__(self, buckets: int, layout: str) -> None:
        self.layout = struct.Struct(layout)
        self.full = max(1, _CHUNK // self.layout.size) * self.layout.size
        self.open = [bytearray() for _ in range(buckets)]
        self._chunks = [array("Q") for _ in range(buckets)]
        self._length = 0
        with _disk():
            self._file: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see close

    def add(self, bucket: int, *values: Any) -> None:
        """Keep an entry. Raises `DiskError`."""
        chunk = self.open[bucket]
        chunk += self.layout.pack(*values)
        if len(chunk) >= self.full:
            self.flush(bucket)

    def flush(self, bucket: int) -> None:
        """Move the bucket's full chunk to the file. Raises `DiskError`."""
        chunk = bytes(self.open[bucket])
        with _disk():
            self._file.seek(self._length)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._chunks[bucket].append(self._length)
        self._length += len(chunk)
        self.open[bucket].clear()

    def read(self, bucket: int) -> Entry:
        """The bucket's entries in the order they were added, one chunk in memory at a time."""
        for start in self._chunks[bucket]:
            with _disk():
                self._file.seek(start)
                chunk = self._file.read(self.full)
            yield from self.layout.iter_unpack(chunk)
        yield from self.layout.iter_unpack(bytes(self.open[bucket]))

    def close(self) -> None:
        """Let the file vanish."""
        self._file.close()


def _disk() -> AbstractContextManager[None]:
    return disk("use a temporary file in", tempfile.gettempdir())
