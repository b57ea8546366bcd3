"""Ledger queries: sums and latencies for reports, windows of budgets, calls of unknown end."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args

from msgspec import Struct

from llmctl.protocols import BudgetUsage, BudgetWindow
from llmctl.storage.database import ReadOnlyFile
from llmctl.storage.ledger_rows import (
    CallKind,
    CallRow,
    HeldCall,
    from_pico,
    matches,
    same_model,
    usage_of,
)
from llmctl.storage.process import SILENCE, Process
from llmctl.types import KEPT, CacheState

HOUR = 60 * 60 * 1000
"""Milliseconds of a row of `hours`. A day is made of whole hours in most time zones; where it is
not, the calls at its edges are added up one by one."""

DAY = 24 * HOUR
"""Milliseconds for which `counts` has the latencies of calls that were removed."""

KIND = ("profile", "provider", "asked_model", "model", "user", "tags")
"""What tells the rows of one hour apart."""

_HOUR_ORDER, _TIME_ORDER = KIND[:4], ("profile", "provider", "model", "ms")
"""What rows of an hour, and its times, are in the order of. SQLite adds up without sorting what is
alike in these, which is then little to sort: an hour may have a row for each of many users."""

# Said by the two that are not: for a list of more SQLite builds a table, each time it is asked.
_ASKED = ", ".join(repr(state) for state in get_args(CacheState) if state not in KEPT)
_KEPT = f"cache NOT IN ({_ASKED})"
_UNKNOWN = "status = 'unknown'"
_DOUBTFUL = f"({_UNKNOWN} OR uncertain > 0)"  # what a release may settle
OPEN = f"({_UNKNOWN} OR uncertain > 0 OR attempts IS NULL)"
"""Of calls whose rows may change, in SQL: they may have cost more than is known, or their process
was thought dead and may settle them after all."""
# A kept answer used no tokens this time; of a call that ended nobody knows how, only the worst
# case is known.
_USED = f"(cache IS NULL OR NOT {_KEPT}) AND NOT {_UNKNOWN}"

FAILED = "status IN ('error', 'interrupted', 'unknown')"
REFUSED = (
    "(status = 'error' AND coalesce(attempts, 1) = 0)"  # by this program: no error of a provider's
)

SUMS: dict[str, str] = {
    "calls": "1",
    "errors": f"({FAILED} AND NOT {REFUSED})",
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
    "saved_pico": "iif(job = '', coalesce(saved_pico, 0), 0)",
    "unsaved": f"(coalesce({_KEPT}, 0) AND saved_pico IS NULL)",
    "doubtful": f"uncertain + ({_UNKNOWN})",
    "doubtful_pico": f"coalesce(uncertain_pico, 0) + iif({_UNKNOWN}, coalesce(cost_pico, 0), 0)",
    "doubtful_unpriced": "(uncertain > 0 AND uncertain_pico IS NULL)"
    f" + ({_UNKNOWN} AND cost_pico IS NULL)",
    "estimated": f"iif({_USED}, estimated, 0)",
    "retries": "max(0, coalesce(attempts, 0) - 1)",
    "rate_limits": "rate_limits",
    "refused": f"({REFUSED})",
    "batch_saved_pico": "iif(job = '', 0, coalesce(saved_pico, 0))",
    "routed_saved_pico": "coalesce(routed_saved_pico, 0)",
    "provider_saved_pico": "coalesce(provider_saved_pico, 0)",
}
"""A column of `hours` → what a call adds to it, in SQL over its row.

`kept` counts answers out of the cache or of an identical call, `unpriced` calls at an unknown
price, `unsaved` kept answers whose worth is unknown; `doubtful` attempts that may have been
billed although nobody saw the bill, and what they cost at the most. `cost_pico` and
`doubtful_pico` together are what counts against budgets. `batch_saved_pico` is what batches of
providers cost less than single calls, `routed_saved_pico` what routes cost less than the strong
model alone, `provider_saved_pico` what providers' prompt caches saved; both may be below 0."""

ANSWERED = f"status = 'ok' AND cache IN ({_ASKED})"
"""The calls whose latency says something of the provider."""

_RECENT = 1000
"""Answers from which a mean is taken: enough to be steady, few enough to be of these days."""

_EXACT = 100_000
"""Calls that are read one by one for exact percentiles: in a tenth of a second."""

_MICRO = 1_000_000

CallOrder = Literal["newest", "slowest", "dearest"]
"""What single calls are ordered by, most first."""

_BY_TIME = "started_ms DESC, call_id DESC"
_ORDERS: dict[CallOrder, str] = {
    "newest": _BY_TIME,
    "slowest": f"latency_ms DESC, {_BY_TIME}",
    "dearest": f"coalesce(cost_pico, 0) + coalesce(uncertain_pico, 0) DESC, {_BY_TIME}",
}
_SLOWEST_FAILED = f"elapsed_ms DESC, {_BY_TIME}"
_HAS_TAG = (
    "CASE WHEN json_valid(tags) THEN "
    "EXISTS (SELECT 1 FROM json_each(tags) WHERE key = ? AND value = ?) ELSE 0 END"
)


class Cell(CallKind, kw_only=True, frozen=True):
    """The sums of the calls of one kind in one span (counted from 0); `sums` has the fields of
    `SUMS`. What calls are not told apart by is empty."""

    span: int
    sums: dict[str, int]


class Latencies(CallKind, kw_only=True, frozen=True):
    """How many of the calls of one kind in one span the provider answered in which time: whole
    milliseconds, as text."""

    span: int
    times: Counter[str]


class Total(Struct, frozen=True):
    """The sums (`SUMS`) of the calls of one model."""

    profile: str
    provider: str
    model: str
    sums: dict[str, int]


class UnknownEnds(Struct, frozen=True):
    """How many calls of one model ended nobody knows how, and what was seen of their end, as a type
    of error (`unknown`: nothing)."""

    profile: str
    provider: str
    model: str
    type: str
    calls: int


class Activity(Struct, frozen=True):
    """What goes on in the living processes.

    Attributes:
        in_flight: calls under way, by provider and profile; also those that wait for their turn at
            a rate limit or a provider.
        in_batches: the same of rows in providers' batches, or in ones that are being made; nobody
            needs to live for those.
        waiting: calls that wait for their turn, or for what others leave of a budget, as the
            processes last said (`BEAT`).
        circuits: in how many processes a circuit, by `provider/profile`, is in a state, `open` or
            `half-open`.

    """

    in_flight: Mapping[tuple[str, str], int]
    in_batches: Mapping[tuple[str, str], int]
    waiting: int
    circuits: Mapping[tuple[str, str], int]


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
    """The ledger at one moment, for reports; lives as long as the transaction on `connection`.

    Of hours whose calls were removed the sums are there, and nothing finer: a span that begins or
    ends inside of one does so where that hour begins. Latencies of removed calls are `rounded`,
    and belong to the span that has the noon of their UTC day. So are those of whole hours where
    they are asked of more than `exact` calls.
    """

    def __init__(self, connection: sqlite3.Connection, exact: int = _EXACT) -> None:
        self._connection, self._exact = connection, exact

    def _all(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def first(self) -> int | None:
        """When the hour of the first call began, in milliseconds since the epoch."""
        found = self._all("SELECT hour FROM hours WHERE calls > 0 ORDER BY hour LIMIT 1")
        return found[0][0] * HOUR if found else None

    def last_run(self) -> str | None:
        """The id of the run that made the latest call."""
        found = self._all("SELECT run_id FROM calls ORDER BY call_id DESC LIMIT 1")
        return found[0][0] if found else None

    def has_run(self, run_id: str) -> bool:
        """Whether a run has made a call."""
        return bool(self._all("SELECT 1 FROM calls WHERE run_id = ? LIMIT 1", (run_id,)))

    def cache_use(self) -> list[tuple[str, int, int, int, int]]:
        """Of each model: hits and misses of the cache, picodollars saved, and hits of unknown
        worth."""
        misses: Counter[str] = Counter()
        for source in (
            "SELECT model, count(*) FROM calls WHERE cache = 'miss' GROUP BY model",
            "SELECT model, sum(number) FROM counts WHERE what = 'miss' GROUP BY model",
        ):
            misses.update(dict(self._all(source)))
        found = self._all(
            f"SELECT model, sum(kept), sum(saved_pico / {_MICRO}), sum(saved_pico % {_MICRO}), "  # noqa: S608
            "sum(unsaved) FROM hours GROUP BY model"
        )
        return [
            (model, hits, misses[model], whole * _MICRO + rest, unpriced)
            for model, hits, whole, rest, unpriced in found
            if hits or misses[model]
        ]

    def semantic_hits(self) -> int:
        """How many calls were answered by the answer of another question."""
        number: int = self._all("SELECT count(*) FROM calls WHERE cache = 'semantic'")[0][0]
        return number

    def cells(self, edges: Sequence[int], by: Collection[str]) -> Iterator[Cell]:
        """The sums between each two neighbours of `edges` (ascending, milliseconds since the epoch;
        a span holds its start, not its end). Calls are told apart `by` these of `KIND` alone: the
        fewer, the less there is to read."""
        for span, (start, end) in enumerate(pairwise(map(self._edge, edges))):
            # Whole hours in the middle, single calls where the span begins or ends inside of one.
            first, last = -(-start // HOUR), end // HOUR
            if first >= last:
                yield from self._cells(span, "calls", (start, end), by)
                continue
            yield from self._cells(span, "calls", (start, first * HOUR), by)
            yield from self._cells(span, "hours", (first, last), by)
            yield from self._cells(span, "calls", (last * HOUR, end), by)

    def batch_cells(self, edges: Sequence[int], by: Collection[str]) -> Iterator[Cell]:
        """As `cells`, of the calls in providers' batches alone."""
        for span, bounds in enumerate(pairwise(edges)):
            yield from self._cells(span, "calls", bounds, by, batch=True)

    def _edge(self, moment: int) -> int:
        """The moment, or where its hour begins if calls of that hour were removed."""
        hour = moment // HOUR * HOUR
        removed = "SELECT 1 FROM counts WHERE what = 'call' AND at_ms = ?"
        return hour if moment > hour and self._all(removed, (hour,)) else moment

    def run_cells(
        self, run_id: str, by: Collection[str], bounds: tuple[int, int] = (-(1 << 62), 1 << 62)
    ) -> Iterator[Cell]:
        """The sums of one run within the `bounds`, as span 0: of its calls that are kept."""
        return self._cells(0, "calls", bounds, by, run_id=run_id)

    def _cells(
        self,
        span: int,
        table: str,
        bounds: tuple[int, int],
        by: Collection[str],
        *,
        run_id: str = "",
        batch: bool = False,
    ) -> Iterator[Cell]:
        if bounds[0] >= bounds[1]:
            return
        column = "hour" if table == "hours" else "started_ms"
        where, values = f"{column} >= ? AND {column} < ?", list[object](bounds)
        if run_id:
            # Not by the time: the plus keeps SQLite from choosing that index.
            where, values = f"run_id = ? AND +{column} >= ? AND +{column} < ?", [run_id, *bounds]
        where += " AND job != ''" if batch else ""
        totals, source = _totals(table), f"{table} WHERE {where}"
        if table == "hours" and by and {*by} <= {*_HOUR_ORDER}:
            columns = ", ".join(
                (*_HOUR_ORDER, *(f"{sql} AS {name}" for name, sql in totals.items()))
            )
            order = ", ".join(("hour", *_HOUR_ORDER))
            source = f"(SELECT {columns} FROM {source} GROUP BY {order})"  # noqa: S608
            totals = {name: f"sum({name})" for name in totals}
        asked = f"SELECT {_kind(by)}, {', '.join(totals.values())} FROM {source}{_grouped(by)}"  # noqa: S608
        for row in self._all(asked, values):
            kind, sums = dict(zip(KIND, row, strict=False)), row[len(KIND) :]
            if sums[0]:  # an hour is empty when its only call was another's after all
                yield Cell(span=span, sums=_from_totals(sums), run_id=run_id, **kind)

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
        by = kind_names(match)
        if "run" in match:
            found = self.run_cells(match["run"], by, bounds)
        else:
            found = self.cells(bounds, by)
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

    def activity(self, now: int) -> Activity:
        """What goes on at `now`, in milliseconds since the epoch."""
        lives, beats = self._living(now)
        flying, batched = Counter[Any](), Counter[Any]()
        asked = (
            "SELECT provider, profile, job != '', pid, birth, world, max(at_ms), count(*) "
            "FROM holds GROUP BY 1, 2, 3, 4, 5, 6"
        )
        for provider, profile, in_batch, *owner, at, count in self._all(asked):
            if in_batch:
                batched[provider, profile] += count
            elif lives(Process(*owner), at):
                flying[provider, profile] += count
        waiting = sum(count for process, (_, count) in beats.items() if count and lives(process, 0))
        return Activity(flying, batched, waiting, self.circuits(now))

    def circuits(self, now: int) -> Mapping[tuple[str, str], int]:
        """In how many living processes a circuit is in which state; see `Activity`."""
        lives, _ = self._living(now)
        found: Counter[tuple[str, str]] = Counter()
        asked = "SELECT lane, state, pid, birth, world, at_ms FROM breakers ORDER BY lane, state"
        for lane, state, *owner, at in self._all(asked):
            found[lane, state] += lives(Process(*owner), at)
        return +found

    def _living(
        self, now: int
    ) -> tuple[Callable[[Process, int], bool], Mapping[Process, tuple[int, int]]]:
        """Tells whether a process lives that gave a sign of life at a moment; and what each said
        last: when, and how many of its calls wait."""
        beats: dict[Process, tuple[int, int]] = {
            Process(*row[:3]): row[3:]
            for row in self._all("SELECT pid, birth, world, beat_ms, waiting FROM processes")
        }

        @cache
        def lives(process: Process, at: int) -> bool:
            last = max(at, beats.get(process, (0, 0))[0])
            return not process.is_dead(out_of_sight=now - last > SILENCE * 1000)

        return lives, beats

    def totals(self, start: int, end: int) -> list[Total]:
        """The sums of each model in the hours from `start` to before `end` (`HOUR`s since the
        epoch), those that came first before the others."""
        kind = "profile, provider, model"
        asked = (
            f"SELECT {kind}, {', '.join(_totals('hours').values())} FROM hours "  # noqa: S608
            f"WHERE hour >= ? AND hour < ? GROUP BY {kind} ORDER BY min(hour), {kind}"
        )
        return [
            Total(profile, provider, model, _from_totals(sums))
            for profile, provider, model, *sums in self._all(asked, (start, end))
        ]

    def unknown_ends(self, start: int, end: int) -> list[UnknownEnds]:
        """The calls of these hours that ended nobody knows how; they are among the errors of
        `totals`."""
        asked = (
            "SELECT profile, provider, model, coalesce(error_type, 'unknown'), count(*) "  # noqa: S608
            f"FROM calls INDEXED BY calls_open WHERE {OPEN} AND {_UNKNOWN} "
            "AND started_ms >= ? AND started_ms < ? GROUP BY 1, 2, 3, 4"
        )
        return [UnknownEnds(*row) for row in self._all(asked, (start * HOUR, end * HOUR))]

    def unknown(self, start: int, end: int) -> list[UnknownCall]:
        """The calls in doubt that started from `start` to before `end` (milliseconds since the
        epoch), oldest first."""
        bounds = self._edge(start), self._edge(end)
        return self.unknown_where("started_ms >= ? AND started_ms < ?", *bounds)

    def unknown_where(self, where: str, *values: object) -> list[UnknownCall]:
        """The calls in doubt of which `where` (SQL) holds, oldest first."""
        asked = (
            "SELECT call_id, run_id, started_ms, profile, provider, model, "  # noqa: S608
            f"iif({_UNKNOWN}, cost_pico + coalesce(uncertain_pico, 0), uncertain_pico) FROM calls "
            f"WHERE {OPEN} AND {_DOUBTFUL} AND {where} ORDER BY started_ms, call_id"
        )
        return [UnknownCall(*row) for row in self._all(asked, values)]

    def single_calls(
        self,
        start: int,
        end: int,
        *,
        order: CallOrder = "newest",
        failed: bool = False,
        match: Mapping[str, str] | None = None,
        limit: int = 20,
    ) -> list[CallRow]:
        """The first `limit` calls in this order that started from `start` to before `end`
        (milliseconds since the epoch) and have all of `match`: a value each by `profile`,
        `provider`, `model` (a dated version counts as the model), `user` or `tag:NAME`.

        `failed`: those without an answer alone. The slowest are answers by their latency, or
        failed calls by how long they took. All but tags is read out of an index.
        """
        where, values = ["started_ms >= ?", "started_ms < ?"], list[object]((start, end))
        by, index = _ORDERS[order], "calls_started"
        if failed:
            where.append(FAILED)
            by, index = _SLOWEST_FAILED if order == "slowest" else by, "calls_errors"
        elif order == "slowest":
            where.append("latency_ms IS NOT NULL")
        for name, wanted in (match or {}).items():
            if name == "model":
                found = self._all("SELECT DISTINCT model FROM hours")
                models = {model for (model,) in found if same_model(wanted, model)}
                where.append("model IN (SELECT value FROM json_each(?))")
                values.append(json.dumps([*models]))
            elif name.startswith("tag:"):
                where.append(_HAS_TAG)
                values += [name.removeprefix("tag:"), wanted]
            else:
                assert name in KIND
                where.append(f"{name} = ?")
                values.append(wanted)
        columns = ", ".join(CallRow.__struct_fields__)
        found = self._all(
            f"SELECT {columns} FROM calls WHERE call_id IN (SELECT call_id FROM calls "  # noqa: S608
            f"INDEXED BY {index} WHERE {' AND '.join(where)} ORDER BY {by} LIMIT ?) ORDER BY {by}",
            (*values, limit),
        )
        return [CallRow(*row) for row in found]

    def error_types(self, start: int, end: int, profile: str | None = None) -> dict[str, int]:
        """How many calls of the span (of a profile; None: of all) failed of what, most first;
        together they are the errors. `unknown`: the process was killed meanwhile."""
        bounds = self._edge(start), self._edge(end)
        asked = (
            f"SELECT coalesce(error_type, 'unknown'), count(*) FROM calls WHERE {FAILED} "  # noqa: S608
            f"AND started_ms >= ? AND started_ms < ? AND NOT {REFUSED} "
            "AND profile = coalesce(?, profile) GROUP BY 1"
        )
        found = Counter(dict(self._all(asked, (*bounds, profile))))
        return _most_first(found + self._removed("error", bounds, profile))

    def cache_hits(self, start: int, end: int) -> dict[str, tuple[int, int]]:
        """Of each profile: the calls of the span that the cache answered, and all that asked it."""
        asked = (
            f"SELECT profile, sum({_KEPT}), count(*) FROM calls "  # noqa: S608 - our own names
            f"WHERE started_ms >= ? AND started_ms < ? AND ({_KEPT} OR cache = 'miss') "
            "GROUP BY profile"
        )
        return {profile: (hits, asks) for profile, hits, asks in self._all(asked, (start, end))}

    def masked(self, start: int, end: int) -> dict[str, int]:
        """How many identifiers of which kind were masked in the calls of the span, most first."""
        asked = (
            "SELECT masked, count(*) FROM calls INDEXED BY calls_masked "
            "WHERE masked != '' AND started_ms >= ? AND started_ms < ? GROUP BY masked"
        )
        found: Counter[str] = Counter()
        bounds = self._edge(start), self._edge(end)
        for text, times in self._all(asked, bounds):
            found.update({kind: number * times for kind, number in json.loads(text).items()})
        return _most_first(found + self._removed("masked", bounds))

    def _removed(
        self, what: str, bounds: tuple[int, int], profile: str | None = None
    ) -> Counter[str]:
        """How many calls that were removed had which error or masked kind."""
        asked = (
            "SELECT value, sum(number) FROM counts WHERE what = ? AND at_ms >= ? AND at_ms < ? "
            "AND profile = coalesce(?, profile) GROUP BY value"
        )
        return Counter(dict(self._all(asked, (what, *bounds, profile))))

    def latencies(self, edges: Sequence[int], by: Collection[str]) -> Iterator[Latencies]:
        """The latencies between each two neighbours of `edges`, as by `cells`; the model that was
        asked tells nothing apart here."""
        yield from self._times("latency", edges, by)

    def first_tokens(self, edges: Sequence[int], by: Collection[str]) -> Iterator[Latencies]:
        """As `latencies`, of streamed answers until their first token."""
        yield from self._times("first_token", edges, by)

    def _times(self, what: str, edges: Sequence[int], by: Collection[str]) -> Iterator[Latencies]:
        by = {*by} - {"asked_model"}
        bounds = [*map(self._edge, edges)]
        more = "SELECT 1 FROM calls WHERE started_ms >= ? AND started_ms < ? LIMIT 1 OFFSET ?"
        exact = not self._all(more, (bounds[0], bounds[-1], self._exact))
        for span, (start, end) in enumerate(pairwise(bounds)):
            first, last = -(-start // HOUR), end // HOUR
            if exact or first >= last:
                yield from self._single_times(span, what, (start, end), by)
            else:
                yield from self._single_times(span, what, (start, first * HOUR), by)
                yield from self._counted_times(span, what, (first, last), by)
                yield from self._single_times(span, what, (last * HOUR, end), by)
            yield from self._removed_times(span, what, edges[span : span + 2], by)

    def _single_times(
        self, span: int, what: str, bounds: Sequence[int], by: Collection[str]
    ) -> Iterator[Latencies]:
        """Of single calls, exactly."""
        asked = (
            f"SELECT {_kind(by)}, {what}_ms, count(*) FROM calls INDEXED BY calls_started "  # noqa: S608
            f"WHERE started_ms >= ? AND started_ms < ? AND {ANSWERED} AND {what}_ms IS NOT NULL"
            f"{_grouped((*by, f'{what}_ms'))}"
        )
        yield from _latencies(span, self._all(asked, bounds) if bounds[0] < bounds[1] else ())

    def _counted_times(
        self, span: int, what: str, hours: Sequence[int], by: Collection[str]
    ) -> Iterator[Latencies]:
        """Of the calls of whole hours, `rounded`."""
        source = "times WHERE what = ? AND hour >= ? AND hour < ?"
        if {*by} <= {*_TIME_ORDER}:
            columns = ", ".join(_TIME_ORDER)
            source = (
                f"(SELECT {columns}, sum(number) AS number FROM {source} "  # noqa: S608
                f"GROUP BY hour, {columns})"
            )
        asked = f"SELECT {_kind(by)}, ms, sum(number) FROM {source}{_grouped((*by, 'ms'))}"  # noqa: S608
        yield from _latencies(span, self._all(asked, (what, *hours)))

    def _removed_times(
        self, span: int, what: str, bounds: Sequence[int], by: Collection[str]
    ) -> Iterator[Latencies]:
        """Of the removed calls of the days whose noon is within the bounds, `rounded`."""
        first, last = (bound - DAY // 2 for bound in bounds)
        asked = (
            f"SELECT {_kind(by)}, value, sum(number) FROM counts WHERE what = ? AND at_ms >= ? "  # noqa: S608
            f"AND at_ms < ?{_grouped((*by, 'value'))}"
        )
        yield from _latencies(span, self._all(asked, (what, first, last)))

    def recent(self, profile: str, model: str) -> list[tuple[int, int]]:
        """Output tokens and latency (in milliseconds) of the last answers that calls of a model got
        from the provider, by whichever dated name it answered."""
        of_model = "profile = ? AND (model = ? OR substr(model, 1, length(?) + 1) = ? || '-')"
        kind = (profile, model, model, model)
        hours = f"SELECT DISTINCT hour FROM hours WHERE {of_model} ORDER BY hour DESC"  # noqa: S608
        asked = (
            "SELECT output_tokens, latency_ms FROM calls INDEXED BY calls_started "  # noqa: S608
            f"WHERE started_ms >= ? AND started_ms < ? AND {of_model} AND {ANSWERED} "
            "ORDER BY started_ms DESC LIMIT ?"
        )
        found: list[tuple[int, int]] = []
        for (hour,) in self._all(hours, kind):
            bounds = hour * HOUR, (hour + 1) * HOUR
            found += self._all(asked, (*bounds, *kind, _RECENT - len(found)))
            if len(found) == _RECENT:
                break
        return found


def kind_names(names: Iterable[str]) -> set[str]:
    """What of `KIND` has to be known of calls that are told apart, or matched, by these `names`:
    `model`, `tag:NAME`, … (`matches`)."""
    found = {"tags" if name.startswith("tag:") else name for name in names} & {*KIND}
    return found | {"asked_model"} if "model" in found else found


def _kind(by: Collection[str]) -> str:
    """SQL of the columns of a kind, empty where calls are not told apart by them."""
    return ", ".join(name if name in by else "''" for name in KIND)


def _grouped(by: Collection[str]) -> str:
    """SQL that puts together what is alike by these columns."""
    return f" GROUP BY {', '.join(sorted(by))}" if by else ""


def _latencies(span: int, rows: Iterable[Sequence[Any]]) -> Iterator[Latencies]:
    """Of rows of a kind, a time in milliseconds, and how many calls took it."""
    kinds: dict[tuple[str, ...], Counter[str]] = {}
    for *kind, ms, number in rows:
        kinds.setdefault(tuple(kind), Counter())[str(ms)] += number
    for named, times in sorted(kinds.items()):
        yield Latencies(*named, span=span, times=+times)


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _totals(table: str) -> dict[str, str]:
    """SQL that adds up all sums over many rows, by name: of calls by their expressions, of hours by
    their columns. Money comes in two, whole microdollars and the rest: picodollars of one hour fit
    64 bits, those of a month need not."""
    columns: dict[str, str] = {}
    for name, expression in SUMS.items():
        value = name if table == "hours" else expression
        if name.endswith("_pico"):
            columns[f"{name}_whole"] = f"sum(({value}) / {_MICRO})"
            columns[f"{name}_rest"] = f"sum(({value}) % {_MICRO})"
        else:
            columns[f"{name}_sum"] = f"sum({value})"
    return columns


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
