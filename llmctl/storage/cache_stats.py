"""What the cache holds, and what it has saved."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmctl.storage.cache_tables import REMEDY, cache_database
from llmctl.storage.ledger import REMEDY as LEDGER_REMEDY
from llmctl.storage.rows import from_pico
from llmctl.storage.sqlite import FOREIGN, connect, translate

_ENTRIES = (
    "SELECT m.answered, count(*), sum(a.bytes) FROM answers AS a "
    "JOIN models AS m ON m.id = a.model GROUP BY m.answered"
)
_CALLS = (
    "SELECT model, sum(cache IN ('hit', 'shared')), sum(cache = 'miss'), "
    "sum(saved_pico), sum(cache IN ('hit', 'shared') AND saved_pico IS NULL) "
    "FROM calls WHERE cache IN ('hit', 'shared', 'miss') GROUP BY model"
)


@dataclass(slots=True)
class Figures:
    """Of one model, as it named itself when it answered, or of all.

    `entries` and their `bytes` are in the cache now. `hits` were answered without a call,
    `misses` asked the cache first and then the provider, since the ledger began. `saved` is in
    US dollars, of all hits but the `unpriced` ones, whose price nobody knows.
    """

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    saved: Decimal = Decimal(0)
    unpriced: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Hits as a share of what asked the cache; None when nothing did."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def add(self, other: Figures) -> None:
        """Count the other's figures, too."""
        self.entries += other.entries
        self.bytes += other.bytes
        self.hits += other.hits
        self.misses += other.misses
        self.saved += other.saved
        self.unpriced += other.unpriced


@dataclass(slots=True)
class Stats:
    """`file_bytes`: the database with its WAL, more than the answers alone."""

    models: dict[str, Figures] = field(default_factory=dict)
    file_bytes: int = 0

    @property
    def total(self) -> Figures:
        """All models together."""
        total = Figures()
        for figures in self.models.values():
            total.add(figures)
        return total


def cache_stats(cache: Path, ledger: Path) -> Stats:
    """The figures of both files; one that is not there counts as empty, and is not made.

    Raises `DamagedError`, `DiskError` and `BusyError`.
    """
    stats = Stats()
    if cache.exists():
        cache_database(cache).close()  # brings an older file up to date
        for model, entries, size in _read(cache, _ENTRIES, REMEDY):
            of = stats.models.setdefault(model, Figures())
            of.entries, of.bytes = entries, size
        for name in (cache.name, f"{cache.name}-wal"):
            with contextlib.suppress(OSError):
                stats.file_bytes += cache.with_name(name).stat().st_size
    if ledger.exists():
        for model, hits, misses, saved, unpriced in _read(ledger, _CALLS, LEDGER_REMEDY):
            of = stats.models.setdefault(model, Figures())
            of.hits, of.misses, of.unpriced = hits, misses, unpriced
            of.saved = from_pico(saved) or Decimal(0)
    return stats


def _read(path: Path, statement: str, remedy: str) -> list[tuple[Any, ...]]:
    try:
        with contextlib.closing(connect(path, synchronous="NORMAL", read_only=True)) as connection:
            return connection.execute(statement).fetchall()
    except FOREIGN as error:
        raise translate(error, path, remedy) from error
