"""Ledger queries: sums and latencies for reports, windows of budgets, calls of unknown end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

from msgspec import Struct

from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.storage.database import ReadOnlyFile
from llmctl.storage.ledger_rows import CallKind, HeldCall, from_pico, matches, usage_of

HOUR = 60 * 60 * 1000
"""Milliseconds of a row of `hours`. A day is made of whole hours in most time zones; where it is
not, the calls at its edges are added up one by one."""

KIND = ("profile", "provider", "asked_model", "model", "user", "tags")
"""What tells the rows of one hour apart."""

_KEPT = "cache IN ('hit', 'shared')"
_UNKNOWN = "status = 'unknown'"
_DOUBTFUL = f"({_UNKNOWN} OR uncertain > 0)"  # what a release may settle
OPEN = f"({_UNKNOWN} OR uncertain > 0 OR attempts IS NULL)"
"""Of calls whose rows may change, in SQL: they may have cost more than is known, or their process
was thought dead and may settle them after all."""
# A kept answer used no tokens this time; of a call that ended nobody knows how, only the worst
# case is known.
_USED = f"(cache IS NULL OR NOT {_KEPT}) AND NOT {_UNKNOWN}"

FAILED = "status IN ('error', 'interrupted', 'unknown')"
_REFUSED = (
    "(status = 'error' AND coalesce(attempts, 1) = 0)"  # by this program: no error of a provider's
)

SUMS: dict[str, str] = {
    "calls": "1",
    "errors": f"({FAILED} AND NOT {_REFUSED})",
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
    "estimated": f"iif({_USED}, estimated, 0)",
    "retries": "max(0, coalesce(attempts, 0) - 1)",
    "rate_limits": "rate_limits",
    "refused": f"({_REFUSED})",
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

_ANSWERS = (
    "FROM calls INDEXED BY calls_latency "
    f"WHERE profile = ? AND provider = ? AND model = ? AND user = ? AND {ANSWERED}"
)
_MICRO = 1_000_000


class Cell(CallKind, kw_only=True, frozen=True):
    """The sums of the calls of one kind in one span (counted from 0); `sums` has the fields of
    `SUMS`. `tags` is empty where they were not asked for."""

    span: int
    sums: dict[str, int]


class Latencies(CallKind, kw_only=True, frozen=True):
    """The latencies of the calls of one kind in one span that the provider answered: whole
    milliseconds, separated by commas, in no order."""

    span: int
    milliseconds: str


class UnknownCall(Struct, frozen=True):
    """A call that may have been billed for what nobody saw, up to `pico` picodollars (None: at an
    unknown price)."""

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

    def _all(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def first(self) -> int | None:
        """When the first call was started, in milliseconds since the epoch."""
        first: int | None = self._all("SELECT min(started_ms) FROM calls")[0][0]
        return first

    def last_run(self) -> str | None:
        """The id of the run that made the latest call."""
        found = self._all("SELECT run_id FROM calls ORDER BY call_id DESC LIMIT 1")
        return found[0][0] if found else None

    def has_run(self, run_id: str) -> bool:
        """Whether a run has made a call."""
        return bool(self._all("SELECT 1 FROM calls WHERE run_id = ? LIMIT 1", (run_id,)))

    def cache_use(self) -> list[tuple[str, int, int, int | None, int]]:
        """Of each model: hits and misses of the cache, picodollars saved, and hits of unknown
        worth."""
        hit = "cache IN ('hit', 'shared')"
        found = self._all(
            f"SELECT model, sum({hit}), sum(NOT {hit}), sum(saved_pico / {_MICRO}), "  # noqa: S608
            f"sum(saved_pico % {_MICRO}), sum({hit} AND saved_pico IS NULL) FROM calls "
            "WHERE cache IN ('hit', 'shared', 'miss') GROUP BY model"
        )
        return [
            (model, hits, misses, None if rest is None else whole * _MICRO + rest, unpriced)
            for model, hits, misses, whole, rest, unpriced in found
        ]

    def cells(self, edges: Sequence[int], *, tags: bool) -> Iterator[Cell]:
        """The sums between each two neighbours of `edges` (ascending, milliseconds since the epoch;
        a span holds its start, not its end). With `tags` calls with other tags are other kinds."""
        for span, (start, end) in enumerate(pairwise(edges)):
            # Whole hours in the middle, single calls where the span begins or ends inside of one.
            first, last = -(-start // HOUR), end // HOUR
            if first >= last:
                yield from self._cells(span, "calls", (start, end), tags=tags)
                continue
            yield from self._cells(span, "calls", (start, first * HOUR), tags=tags)
            yield from self._cells(span, "hours", (first, last), tags=tags)
            yield from self._cells(span, "calls", (last * HOUR, end), tags=tags)

    def run_cells(
        self, run_id: str, *, tags: bool, bounds: tuple[int, int] = (-(1 << 62), 1 << 62)
    ) -> Iterator[Cell]:
        """The sums of one run within the `bounds`, as span 0."""
        return self._cells(0, "calls", bounds, tags=tags, run_id=run_id)

    def _cells(
        self, span: int, table: str, bounds: tuple[int, int], *, tags: bool, run_id: str = ""
    ) -> Iterator[Cell]:
        if bounds[0] >= bounds[1]:
            return
        names = KIND if tags else KIND[:-1]
        kind = ", ".join(names)
        column = "hour" if table == "hours" else "started_ms"
        where, values = f"{column} >= ? AND {column} < ?", list[object](bounds)
        if run_id:
            # Not by the time: the plus keeps SQLite from choosing that index.
            where, values = f"run_id = ? AND +{column} >= ? AND +{column} < ?", [run_id, *bounds]
        asked = f"SELECT {kind}, {_totals(table)} FROM {table} WHERE {where} GROUP BY {kind}"  # noqa: S608
        for row in self._all(asked, values):
            named = {"tags": "", **dict(zip(names, row, strict=False))}
            sums = _from_totals(row[len(names) :])
            if sums["calls"]:  # an hour is empty when its only call was another's after all
                yield Cell(span=span, sums=sums, run_id=run_id, **named)

    def usage(self, window: BudgetWindow) -> BudgetUsage:
        """What counts against the window: its row where it has one, else the same sums over calls
        and holds, which is what its row would begin with."""
        row = self._all("SELECT spent_pico, held_pico FROM windows WHERE key = ?", (window.key,))
        if row:
            return usage_of(*row[0])
        held = sum(hold.amount_pico or 0 for hold in self.held_in(window))
        return usage_of(self.spent_in(window), held)

    def spent_in(self, window: BudgetWindow) -> int:
        """Picodollars that the ended calls of a window cost, or may have cost."""
        match, bounds = window.match, (window.start, window.end)
        if "run" in match:
            found = self.run_cells(match["run"], tags=True, bounds=bounds)
        else:
            found = self.cells(bounds, tags=any(name.startswith("tag:") for name in match))
        return sum(
            cell.sums["cost_pico"] + cell.sums["doubtful_pico"]
            for cell in found
            if matches(match, cell)
        )

    def held_in(self, window: BudgetWindow) -> list[HeldCall]:
        """The calls under way that count towards a window."""
        return [
            hold
            for hold in self.open_holds()
            if window.start <= hold.at_ms < window.end and matches(window.match, hold)
        ]

    def open_holds(self) -> list[HeldCall]:
        """The calls under way in all processes, oldest first."""
        columns = ", ".join(HeldCall.__struct_fields__)
        found = self._all(f"SELECT {columns} FROM holds ORDER BY at_ms, call_id")  # noqa: S608
        return [HeldCall(*row) for row in found]

    def unknown(self, start: int, end: int) -> list[UnknownCall]:
        """The calls in doubt that started from `start` to before `end` (milliseconds since the
        epoch), oldest first."""
        return self.unknown_where("started_ms >= ? AND started_ms < ?", start, end)

    def unknown_where(self, where: str, *values: object) -> list[UnknownCall]:
        """The calls in doubt of which `where` (SQL) holds, oldest first."""
        asked = (
            "SELECT call_id, run_id, started_ms, profile, provider, model, "  # noqa: S608
            f"iif({_UNKNOWN}, cost_pico + coalesce(uncertain_pico, 0), uncertain_pico) FROM calls "
            f"WHERE {OPEN} AND {_DOUBTFUL} AND {where} ORDER BY started_ms, call_id"
        )
        return [UnknownCall(*row) for row in self._all(asked, values)]

    def error_types(self, start: int, end: int) -> dict[str, int]:
        """How many calls of the span failed of what, most first; together they are the errors.
        `unknown`: the process was killed meanwhile."""
        asked = (
            f"SELECT coalesce(error_type, 'unknown'), count(*) FROM calls WHERE {FAILED} "  # noqa: S608
            f"AND started_ms >= ? AND started_ms < ? AND NOT {_REFUSED} "
            "GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return dict(self._all(asked, (start, end)))

    def latencies(self, edges: Sequence[int], *, tags: bool) -> Iterator[Latencies]:
        """The latencies between each two neighbours of `edges`, as by `cells`.

        Text, because SQLite joins a million numbers in a tenth of the time that handing them over
        one by one takes.
        """
        statement = (
            f"SELECT {'tags' if tags else repr('')}, group_concat(latency_ms) {_ANSWERS} "
            f"AND started_ms >= ? AND started_ms < ?{' GROUP BY tags' if tags else ''}"
        )
        kinds = self._kinds()
        for span, bounds in enumerate(pairwise(edges)):
            for kind in kinds:
                profile, provider, model, user = kind
                for tag, text in self._all(statement, (*kind, *bounds)):
                    if text:
                        named = (profile, provider, "", model, user, tag)
                        yield Latencies(*named, span=span, milliseconds=text)

    def recent(self, profile: str, model: str) -> list[tuple[int, int]]:
        """Output tokens and latency (in milliseconds) of the last answers that calls of a model got
        from the provider, by whichever dated name it answered."""
        asked = f"SELECT output_tokens, latency_ms {_ANSWERS} ORDER BY started_ms DESC LIMIT ?"
        return [
            row
            for kind in self._kinds()
            if kind[0] == profile and (kind[2] == model or kind[2].startswith(f"{model}-"))
            for row in self._all(asked, (*kind, _RECENT))
        ]

    def _kinds(self) -> list[tuple[str, str, str, str]]:
        """All kinds of calls, but for tags: one step down an index each, however many calls."""
        names = "profile, provider, model, user"
        source = f"SELECT {names} FROM calls INDEXED BY calls_latency"  # noqa: S608 - our own names
        order = f"ORDER BY {names} LIMIT 1"
        kinds: list[tuple[str, str, str, str]] = []
        found = self._all(f"{source} {order}")
        while found:
            kinds += found
            found = self._all(f"{source} WHERE ({names}) > (?, ?, ?, ?) {order}", found[0])
        return kinds


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


class LedgerPeek(ReadOnlyFile):
    """What earlier calls were like, for plans."""

    def usage(self, window: BudgetWindow) -> BudgetUsage | None:
        """What counts against the window now; None where there is no ledger."""
        return self.ask(lambda connection: Reading(connection).usage(window))

    def recent(self, profile: str, model: str) -> list[tuple[int, int]]:
        """Output tokens and latency (in milliseconds) of the last answers of a model."""
        return self.ask(lambda connection: Reading(connection).recent(profile, model)) or []
