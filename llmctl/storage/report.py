"""What the ledger has to say to a report: sums and latencies by kind of call and span of time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from llmctl.storage.rows import HeldCall
from llmctl.storage.sums import ANSWERED, KIND, SLOT, SUMS, from_totals, totals
from llmctl.storage.unknown import UnknownCall, between

_SLOTS = ", ".join(totals("slots"))
_CALLS = ", ".join(totals())
_PLAIN = ", ".join(KIND[:-1])
_ALL = ", ".join(KIND)

_RECENT = 1000
"""Answers from which a mean is taken: enough to be steady, few enough to be of these days."""


class Cell(Struct, frozen=True):
    """The sums of the calls of one kind in one span; `sums` has the fields of `SUMS`. `tags` is
    their JSON object, empty where tags were not asked for; `span` counts from 0."""

    span: int
    profile: str
    provider: str
    model: str
    user: str
    tags: str
    sums: dict[str, int]


class Latencies(Struct, frozen=True):
    """The latencies of the calls of one kind in one span that the provider answered: whole
    milliseconds, separated by commas, in no order."""

    span: int
    profile: str
    provider: str
    model: str
    user: str
    tags: str
    milliseconds: str


def cells(connection: sqlite3.Connection, edges: Sequence[int], *, tags: bool) -> Iterator[Cell]:
    """The sums between each two neighbours of `edges` (ascending, milliseconds since the epoch;
    a span holds its start, not its end). With `tags` calls with other tags are other kinds."""
    for span, (start, end) in enumerate(pairwise(edges)):
        # Whole slots in the middle, single calls where the span begins or ends inside of one.
        first, last = -(-start // SLOT), end // SLOT
        pieces = (
            [(_CALLS, "calls", "started_ms", start, end)]
            if first >= last
            else [
                (_CALLS, "calls", "started_ms", start, first * SLOT),
                (_SLOTS, "slots", "slot", first, last),
                (_CALLS, "calls", "started_ms", last * SLOT, end),
            ]
        )
        for sums, table, column, low, high in pieces:
            if low < high:
                where = f"{column} >= ? AND {column} < ?"
                yield from _cells(connection, span, sums, table, where, (low, high), tags=tags)


def run_cells(connection: sqlite3.Connection, run_id: str, *, tags: bool) -> Iterator[Cell]:
    """The sums of one run, as span 0."""
    return _cells(connection, 0, _CALLS, "calls", "run_id = ?", (run_id,), tags=tags)


def _cells(
    connection: sqlite3.Connection,
    span: int,
    sums: str,
    table: str,
    where: str,
    values: tuple[object, ...],
    *,
    tags: bool,
) -> Iterator[Cell]:
    kind = _ALL if tags else _PLAIN
    found = connection.execute(
        f"SELECT {kind}, {sums} FROM {table} WHERE {where} GROUP BY {kind}",  # noqa: S608
        values,
    ).fetchall()
    width = len(KIND) if tags else len(KIND) - 1
    for row in found:
        profile, provider, model, user, *rest = row[:width]
        summed = dict(zip(SUMS, from_totals(row[width:]), strict=True))
        if summed["calls"]:  # a slot is empty when its only call turned out to be another's
            text = rest[0] if rest else ""
            yield Cell(span, profile, provider, model, user, text, summed)


def latencies(
    connection: sqlite3.Connection, edges: Sequence[int], *, tags: bool
) -> Iterator[Latencies]:
    """The latencies between each two neighbours of `edges`, as by `cells`.

    Text, because SQLite joins a million numbers in a tenth of the time that handing them over
    one by one takes.
    """
    extra = ", tags" if tags else ""
    statement = (
        f"SELECT group_concat(latency_ms){extra} FROM calls INDEXED BY calls_latency "  # noqa: S608
        "WHERE profile = ? AND provider = ? AND model = ? AND user = ? "
        f"AND started_ms >= ? AND started_ms < ? AND {ANSWERED}{' GROUP BY tags' if tags else ''}"
    )
    kinds = list(_kinds(connection))
    for span, bounds in enumerate(pairwise(edges)):
        for kind in kinds:
            for text, *rest in connection.execute(statement, (*kind, *bounds)).fetchall():
                if text:
                    yield Latencies(span, *kind, rest[0] if rest else "", str(text))


def _kinds(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str, str]]:
    """All kinds there are, but for tags: one step down an index each, however many calls."""
    names = KIND[:-1]
    found: tuple[str, ...] = ()
    steps = [(names[:depth], names[depth]) for depth in reversed(range(len(names)))]
    start = connection.execute(
        f"SELECT {_PLAIN} FROM calls INDEXED BY calls_latency ORDER BY {_PLAIN} LIMIT 1"  # noqa: S608
    ).fetchone()
    while start is not None:
        found = start
        yield (found[0], found[1], found[2], found[3])
        start = None
        for same, larger in steps:
            where = " AND ".join([*(f"{name} = ?" for name in same), f"{larger} > ?"])
            start = connection.execute(
                f"SELECT {_PLAIN} FROM calls INDEXED BY calls_latency "  # noqa: S608
                f"WHERE {where} ORDER BY {_PLAIN} LIMIT 1",
                found[: len(same) + 1],
            ).fetchone()
            if start is not None:
                break


def recent(connection: sqlite3.Connection, profile: str, model: str) -> list[tuple[int, int]]:
    """Output tokens and latency (in milliseconds) of the last answers that calls of a model got
    from the provider, by whichever dated name it answered."""
    found: list[tuple[int, int]] = []
    statement = (
        "SELECT output_tokens, latency_ms FROM calls INDEXED BY calls_latency WHERE profile = ? "  # noqa: S608
        f"AND provider = ? AND model = ? AND user = ? AND {ANSWERED} "
        "ORDER BY started_ms DESC LIMIT ?"
    )
    for kind in _kinds(connection):
        if kind[0] == profile and (kind[2] == model or kind[2].startswith(f"{model}-")):
            found += connection.execute(statement, (*kind, _RECENT)).fetchall()
    return found


class Reading:
    """The ledger at one moment, for reports; lives as long as the transaction on `connection`."""

    def __init__(self, connection: sqlite3.Connection, holds: Sequence[HeldCall]) -> None:
        self._connection = connection
        self._holds = holds

    def first(self) -> int | None:
        """When the first call was started, in milliseconds since the epoch."""
        (first,) = self._connection.execute("SELECT min(started_ms) FROM calls").fetchone()
        return None if first is None else int(first)

    def cells(self, edges: Sequence[int], *, tags: bool) -> Iterator[Cell]:
        """See `cells`."""
        return cells(self._connection, edges, tags=tags)

    def run_cells(self, run_id: str, *, tags: bool) -> Iterator[Cell]:
        """See `run_cells`."""
        return run_cells(self._connection, run_id, tags=tags)

    def latencies(self, edges: Sequence[int], *, tags: bool) -> Iterator[Latencies]:
        """See `latencies`."""
        return latencies(self._connection, edges, tags=tags)

    def last_run(self) -> str | None:
        """The id of the run that made the latest call."""
        found = self._connection.execute(
            "SELECT run_id FROM calls ORDER BY call_id DESC LIMIT 1"
        ).fetchone()
        return None if found is None else str(found[0])

    def has_run(self, run_id: str) -> bool:
        """Whether a run has made a call."""
        asked = "SELECT 1 FROM calls WHERE run_id = ? LIMIT 1"
        return self._connection.execute(asked, (run_id,)).fetchone() is not None

    def open_holds(self) -> Sequence[HeldCall]:
        """The calls under way."""
        return self._holds

    def unknown(self, start: int, end: int) -> Sequence[UnknownCall]:
        """See `unknown.between`."""
        return between(self._connection, start, end)


class Nothing:
    """A ledger that is not there yet, for reports."""

    def first(self) -> None:
        """No call."""

    def cells(self, edges: Sequence[int], *, tags: bool) -> Sequence[Cell]:  # noqa: ARG002
        """No sums."""
        return ()

    def run_cells(self, run_id: str, *, tags: bool) -> Sequence[Cell]:  # noqa: ARG002
        """No sums."""
        return ()

    def latencies(self, edges: Sequence[int], *, tags: bool) -> Sequence[Latencies]:  # noqa: ARG002
        """No latencies."""
        return ()

    def last_run(self) -> None:
        """No run."""

    def has_run(self, run_id: str) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def open_holds(self) -> Sequence[HeldCall]:
        """No calls."""
        return ()

    def unknown(self, start: int, end: int) -> Sequence[UnknownCall]:  # noqa: ARG002
        """No calls."""
        return ()
