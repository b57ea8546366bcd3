"""Looking into the cache and the ledger without writing to them: for plans."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from llmctl.storage.answers import short
from llmctl.storage.report import recent
from llmctl.storage.sqlite import FOREIGN, connect

T = TypeVar("T")


class Peek:
    """A database file that is read, if it is there; one that cannot be read is as if it were
    not (the run itself will say what is wrong with it)."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            with contextlib.suppress(*FOREIGN):
                self._connection = connect(path, synchronous="FULL", read_only=True)

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `work` returns, or None."""
        if self._connection is not None:
            with contextlib.suppress(*FOREIGN):
                return work(self._connection)
        return None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CachePeek(Peek):
    """Which answers a cache would give at the time `now` (seconds since the epoch), if those
    older than `ttl` seconds do not count."""

    def __init__(self, path: Path, ttl: float | None, now: float) -> None:
        super().__init__(path)
        self._oldest = -1.0 if ttl is None else now - ttl

    def has(self, key: str) -> bool:
        """Whether there is an answer to the request of this fingerprint."""
        asked = (
            "SELECT t.stored FROM keys AS k JOIN texts AS t ON t.id = k.id "
            "WHERE k.short = ? AND t.key = ?"
        )
        binary = bytes.fromhex(key)
        found = self.ask(lambda c: c.execute(asked, (short(binary), binary)).fetchone())
        return found is not None and found[0] >= self._oldest


class LedgerPeek(Peek):
    """What earlier calls were like."""

    def recent(self, profile: str, model: str) -> list[tuple[int, int]]:
        """Output tokens and latency (in milliseconds) of the last answers of a model."""
        return self.ask(lambda connection: recent(connection, profile, model)) or []
