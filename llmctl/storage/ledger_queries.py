"""Ledger queries: sums and latencies for reports, windows of budgets, calls of unknown end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise

from msgspec import Struct

from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.storage.database import ReadOnlyFile
from llmctl.storage.ledger_rows import HeldCall, from_pico, matches, usage_of

HOUR = 60 * 60 * 1000
"""Milliseconds of a row of `hours`. A day is made of whole hours in most time zones; where it is
not, the calls at its edges are added up one by one."""

KIND = ("profile", "provider", "asked_model", "model", "user", "tags")
"""What tells the rows of one hour apart."""

_KEPT = "cache IN ('hit', 'shared')"
_UNKNOWN = "status = 'unknown'"
# A kept answer used no tokens this time; of a call that ended nobody knows how, only the worst
# case is known.
_USED = f"(cache IS NULL OR NOT {_KEPT}) AND NOT {_UNKNOWN}"

SUMS: dict[str, str] = {
    "calls": "1",
    "errors": "status IN ('error', 'interrupted', 'unknown')",
    "kept": f"coalesce({_KEPT}, 0)",
    **{
        name: f"iif({_USED}, {name}, 0)"
        for name in (
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        )
    },
    "cost_pico": f"iif({_UNKNOWN}, 0, coalesce(cost_pico, 0))",
    "unpriced": f"(cost_pico IS NULL AND NOT {_UNKNOWN})",
    "saved_pico": "coalesce(saved_pico, 0)",
    "unsaved": f"(coalesce({_KEPT}, 0) AND saved_pico IS NULL)",
    "doubtful": f"uncertain + ({_UNKNOWN})",
    "doubtful_pico": f"coalesce(uncertain_pico, 0) + iif({_UNKNOWN}, coalesce(cost_pico, 0), 0)",
    "doubtful_unpriced": "(uncertain > 0 AND uncertain_pico IS NULL)"
    f" + ({_UNKNOWN} AND cost_pico IS NULL)",
}
"""A column of `hours` → what a call adds to it, in SQL over its row.

`kept` counts answers out of the cache or of an identical call, `unpriced` calls at an unknown
price, `unsaved` kept answers whose worth is unknown; `doubtful` attempts that may have been
billed although nobody saw the bill, and what they cost at the most. `cost_pico` and
`doubtful_pico` together are what counts against budgets."""

ANSWERED = "status = 'ok' AND cache IN ('miss', 'bypass')"
"""The calls whose latency says something of the provider."""

_RECENT = 1000
"""Answers from which a mean is taken: enough to be steady, few enough to be of these days."""

_MICRO = 1_000_000
_LATENCY_KIND = ("profile", "provider", "model", "user")


class Cell(Struct, frozen=True):
    """The sums of the calls of one `Kind` in one span; `sums` has the fields of `SUMS`. `tags` is
    empty where they were not asked for, `run_id` where no run was; `span` counts from 0."""

    span: int
    profile: str
    provider: str
    asked_model: str
    model: str
    user: str
    tags: str
    sums: dict[str, int]
    run_id: str = ""


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


class UnknownCall(Struct, frozen=True):
    """A call that may have been billed, up to `pico` picodollars (None: at an unknown price)."""

    call_id: str
    run_id: str
    started_ms: int
    profile: str
    provider: str
    model: str
    pico: int | None

    @property
    def cost(self) -> Decimal | None:
        """The most it can have cost, in US dollars; None when the price is unknown."""
        return from_pico(self.pico)


class Reading:
    """The ledger at one moment, for reports; lives as long as the transaction on `connection`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

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

    def usage(self, window: BudgetWindow) -> BudgetUsage:
        """See `usage`."""
        return usage(self._connection, window)

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
        """The calls under way, oldest first."""
        return open_holds(self._connection)

    def unknown(self, start: int, end: int) -> Sequence[UnknownCall]:
        """The calls of unknown end that started from `start` to before `end` (milliseconds since
        the epoch), oldest first."""
        return unknown_calls(self._connection, "started_ms >= ? AND started_ms < ?", start, end)


class EmptyReading:
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

    def usage(self, window: BudgetWindow) -> BudgetUsage:  # noqa: ARG002
        """Nothing spent, nothing held."""
        return usage_of(0, 0)

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


class LedgerPeek(ReadOnlyFile):
    """What earlier calls were like, for plans."""

    def recent(self, profile: str, model: str) -> list[tuple[int, int]]:
        """Output tokens and latency (in milliseconds) of the last answers of a model."""
        return self.ask(lambda connection: recent(connection, profile, model)) or []


def cells(connection: sqlite3.Connection, edges: Sequence[int], *, tags: bool) -> Iterator[Cell]:
    """The sums between each two neighbours of `edges` (ascending, milliseconds since the epoch;
    a span holds its start, not its end). With `tags` calls with other tags are other kinds."""
    for span, (start, end) in enumerate(pairwise(edges)):
        # Whole hours in the middle, single calls where the span begins or ends inside of one.
        first, last = -(-start // HOUR), end // HOUR
        if first >= last:
            yield from _cells(connection, span, "calls", "started_ms", (start, end), tags=tags)
            continue
        yield from _cells(connection, span, "calls", "started_ms", (start, first * HOUR), tags=tags)
        yield from _cells(connection, span, "hours", "hour", (first, last), tags=tags)
        yield from _cells(connection, span, "calls", "started_ms", (last * HOUR, end), tags=tags)


def run_cells(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    tags: bool,
    bounds: tuple[int, int] = (-(1 << 62), 1 << 62),
) -> Iterator[Cell]:
    """The sums of one run within the `bounds`, as span 0."""
    return _cells(connection, 0, "calls", "started_ms", bounds, tags=tags, run_id=run_id)


def _cells(
    connection: sqlite3.Connection,
    span: int,
    table: str,
    column: str,
    bounds: tuple[int, int],
    *,
    tags: bool,
    run_id: str | None = None,
) -> Iterator[Cell]:
    if bounds[0] >= bounds[1]:
        return
    names = KIND if tags else KIND[:-1]
    kind = ", ".join(names)
    where, values = f"{column} >= ? AND {column} < ?", list[object](bounds)
    if run_id is not None:
        # Not by the time: the plus keeps SQLite from choosing that index.
        where, values = f"run_id = ? AND +{column} >= ? AND +{column} < ?", [run_id, *bounds]
    found = connection.execute(
        f"SELECT {kind}, {_totals(table)} FROM {table} WHERE {where} GROUP BY {kind}",  # noqa: S608
        values,
    ).fetchall()
    for row in found:
        named = dict(zip(names, row, strict=False))
        sums = _from_totals(row[len(names) :])
        if sums["calls"]:  # a row of an hour is empty when its only call was another's after all
            yield Cell(span, sums=sums, run_id=run_id or "", **{"tags": "", **named})


def _totals(table: str) -> str:
    """SQL that adds up all sums over many rows: of calls by their expressions, of hours by their
    columns. Money comes in two columns, whole microdollars and the rest: picodollars of one hour
    fit 64 bits, those of a month need not."""
    columns: list[str] = []
    for name, expression in SUMS.items():
        value = name if table == "hours" else expression
        if name.endswith("_pico"):
            columns += [f"sum(({value}) / {_MICRO})", f"sum(({value}) % {_MICRO})"]
        else:
            columns.append(f"sum({value})")
    return ", ".join(columns)


def _from_totals(row: Sequence[int]) -> dict[str, int]:
    """The sums by name, out of the columns of `_totals`."""
    values = iter(row)
    return {
        name: next(values) * _MICRO + next(values) if name.endswith("_pico") else next(values)
        for name in SUMS
    }


def usage(connection: sqlite3.Connection, window: BudgetWindow) -> BudgetUsage:
    """What counts against the window: its row where it has one, else the same sums over calls and
    holds, which is what its row would begin with."""
    row = connection.execute(
        "SELECT spent_pico, held_pico FROM windows WHERE key = ?", (window.key,)
    ).fetchone()
    if row is not None:
        return usage_of(*row)
    held = held_in(connection, window)
    return usage_of(spent_in(connection, window), sum(hold.amount_pico or 0 for hold in held))


def spent_in(connection: sqlite3.Connection, window: BudgetWindow) -> int:
    """Picodollars that the ended calls of a window cost, or may have cost."""
    match, bounds = window.match, (window.start, window.end)
    if "run" in match:
        found = run_cells(connection, match["run"], tags=True, bounds=bounds)
    else:
        found = cells(connection, bounds, tags=_by_tag(match))
    return sum(
        cell.sums["cost_pico"] + cell.sums["doubtful_pico"]
        for cell in found
        if matches(match, cell)
    )


def held_in(connection: sqlite3.Connection, window: BudgetWindow) -> list[HeldCall]:
    """The calls under way that count towards a window."""
    return [
        hold
        for hold in open_holds(connection)
        if window.start <= hold.at_ms < window.end and matches(window.match, hold)
    ]


def _by_tag(match: Mapping[str, str]) -> bool:
    return any(name.startswith("tag:") for name in match)


def open_holds(connection: sqlite3.Connection) -> list[HeldCall]:
    """The calls under way in all processes, oldest first."""
    columns = ", ".join(HeldCall.__struct_fields__)
    asked = f"SELECT {columns} FROM holds ORDER BY at_ms, call_id"  # noqa: S608 - our own names
    return [HeldCall(*row) for row in connection.execute(asked).fetchall()]


def unknown_calls(connection: sqlite3.Connection, where: str, *values: object) -> list[UnknownCall]:
    """The calls of unknown end of which `where` (SQL) holds, oldest first."""
    asked = (
        "SELECT call_id, run_id, started_ms, profile, provider, model, "  # noqa: S608 - our own words
        "cost_pico + coalesce(uncertain_pico, 0) FROM calls "
        f"WHERE status = 'unknown' AND {where} ORDER BY started_ms, call_id"
    )
    return [UnknownCall(*row) for row in connection.execute(asked, values).fetchall()]


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
    """All kinds of calls, but for tags: one step down an index each, however many calls."""
    names = ", ".join(_LATENCY_KIND)
    source = f"SELECT {names} FROM calls INDEXED BY calls_latency"  # noqa: S608 - our own names
    order = f"ORDER BY {names} LIMIT 1"
    found = connection.execute(f"{source} {order}").fetchone()
    while found is not None:
        yield found
        asked = f"{source} WHERE ({names}) > (?, ?, ?, ?) {order}"
        found = connection.execute(asked, found).fetchone()


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
