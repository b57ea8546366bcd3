"""Which rows have which id, in constant memory: duplicates, and the join with the answers.

Rows and answers are spread by a digest of their id over 256 buckets in temporary files; equal
ids meet in the same bucket, and one bucket at a time fits in memory (a partitioned hash join).
An embedded SQL database does the same work, at a fifth of the speed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Self

from llmctl.batch.spool import Entry, Spool

SHOWN = 20
"""Rows that a message names one by one; the rest is counted."""

_BUCKETS = 256
_LAYOUT = "<16s16sQ"
"""Digest of the id, first half of the fingerprint, and a number. Of 128 bits each: no two among
a trillion rows are taken for each other."""


class Rows:
    """A bitmap of row numbers; `count` of them are in it."""

    def __init__(self, size: int) -> None:
        self._bits = bytearray((size >> 3) + 1)
        self.count = 0

    def add(self, index: int) -> None:
        """Put the row in; again: nothing happens."""
        if index not in self:
            self._bits[index >> 3] |= 1 << (index & 7)
            self.count += 1

    def add_all(self, indexes: Iterable[int]) -> None:
        """Put many rows in."""
        bits, new = self._bits, 0
        for index in indexes:
            bit = 1 << (index & 7)
            if not bits[index >> 3] & bit:
                bits[index >> 3] |= bit
                new += 1
        self.count += new

    def __contains__(self, index: object) -> bool:
        assert isinstance(index, int)
        return index >> 3 < len(self._bits) and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def __len__(self) -> int:
        return self.count


@dataclass(slots=True)
class Found:
    """Row numbers that belong in a message: how many, and the first `SHOWN` of them, each with
    another row's number that explains it (0 where there is none)."""

    count: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)

    def add(self, index: int, other: int = 0) -> None:
        """Count a row, and keep it if it is among the first."""
        self.count += 1
        heapq.heappush(self.first, (-index, other))
        if len(self.first) > SHOWN:
            heapq.heappop(self.first)

    def sorted(self) -> list[tuple[int, int]]:
        """The first ones in input order."""
        return sorted((-negative, other) for negative, other in self.first)


@dataclass(slots=True)
class Joined:
    """Rows against answers: which rows are answered as they are asked now, which have an answer
    to another question, and how many answers belong to no row."""

    answered: Rows
    changed: Found = field(default_factory=Found)
    strangers: int = 0


class Index:
    """Ids, each with a fingerprint and a number: a row's index, or where an answer begins."""

    def __init__(self) -> None:
        self._spool = Spool(_BUCKETS, _LAYOUT)
        self._pack = self._spool.layout.pack
        self._open = self._spool.open
        self._full = self._spool.full
        self.size = 0

    def add(self, id: str, fingerprint: bytes, number: int) -> None:
        """Put in an id. Raises `DiskError`."""
        key = blake2b(id.encode(), digest_size=16).digest()
        bucket = key[0]
        chunk = self._open[bucket]
        chunk += self._pack(key, fingerprint, number)
        if len(chunk) >= self._full:
            self._spool.flush(bucket)
        self.size += 1

    def bucket(self, number: int) -> Entry:
        """One bucket's `(id digest, fingerprint, number)`, in the order they were put in."""
        return self._spool.read(number)

    def duplicates(self) -> Found:
        """The rows whose id an earlier row has, each with the first such row."""
        found = Found()
        for bucket in range(_BUCKETS):
            seen: dict[bytes, int] = {}
            for key, _, number in self.bucket(bucket):
                first = seen.setdefault(key, number)
                if first != number:
                    found.add(number, first)
        return found

    def join(self, answers: Index) -> Joined:
        """The rows of this index against the answers of another.

        An id that has answers to the present and to an older question counts as answered.
        """
        joined = Joined(Rows(self.size))
        for bucket in range(_BUCKETS):
            asked = {key: (print_, row) for key, print_, row in self.bucket(bucket)}
            changed: set[int] = set()
            answered: list[int] = []
            for key, print_, _ in answers.bucket(bucket):
                match = asked.get(key)
                if match is None:
                    joined.strangers += 1
                elif match[0] == print_:
                    answered.append(match[1])
                else:
                    changed.add(match[1])
            joined.answered.add_all(answered)
            for row in changed:
                if row not in joined.answered:
                    joined.changed.add(row)
        return joined

    def places(self, answers: Index, length: int) -> Iterator[tuple[int, int]]:
        """The place of each answer in input order, with the byte where it begins.

        `length` is that of the file of answers. Those that belong to no row come after all
        rows, in their own order; places lie below the sum of both sizes.
        """
        for bucket in range(_BUCKETS):
            asked = {key: row for key, _, row in self.bucket(bucket)}
            for key, _, start in answers.bucket(bucket):
                yield asked.get(key, self.size + start * answers.size // length), start

    def close(self) -> None:
        """Give the temporary file back."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
