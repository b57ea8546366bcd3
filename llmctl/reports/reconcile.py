"""The ledger against the provider's bill, by UTC day and model, and why they differ.

Pure: the ledger is handed in, open at one moment, and the bill as its lines. Amounts are US
dollars. A dated version of a model counts as the model, as it does for budgets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from llmctl.providers.bills import BillLine
from llmctl.reports.periods import local, midnight
from llmctl.reports.report import Figures
from llmctl.storage.ledger_queries import Cell, Reading, UnknownCall
from llmctl.storage.ledger_rows import dollars as from_pico
from llmctl.storage.ledger_rows import same_model, to_pico
from llmctl.types import Usage

Kind = Literal[
    "unknown_calls",
    "calls_under_way",
    "other_users",
    "price",
    "unknown_price",
    "discount",
    "cache_tier",
    "batch_rate",
    "estimated_tokens",
    "fewer_tokens",
    "late",
    "incomplete_day",
    "missing",
    "unexplained",
]
"""Why a row differs, in the order in which the causes of one are told."""

Scope = Literal["key", "project", "organization"]
"""Whose calls the bill's lines are of: of our key, of its project, or of everybody there."""

_ORDER = get_args(Kind)
_ZERO = Decimal(0)
_CENT, _FINEST = Decimal("0.01"), Decimal("1e-9")
"""To what a bill's amounts are rounded at the most, and what binary fractions are off at most."""
_BATCH_FACTORS = (Decimal("0.5"), Decimal(2))  # every provider bills half in a batch
_NEAR = Decimal("0.01")  # share by which a factor may be off
_DAY = timedelta(days=1)
_COMPLETE = 24 * 3600 * 1000
"""Milliseconds after a day's end from which on its bill is whole: providers say hours."""
_YET_TO_COME = {"missing", "fewer_tokens"}
_OTHERS = {
    "key": "somebody else uses the key, or calls that are not in this ledger",
    "project": "others in the project, or calls that are not in this ledger",
    "organization": "others in the organization, or calls that are not in this ledger",
}


class Cause(Struct, frozen=True):
    """Why a row differs; `usd` is the part of the difference it accounts for, None: unknown."""

    kind: Kind
    usd: Decimal | None
    text: str


class Side(Struct, frozen=True):
    """What one side has of a day's calls of a model.

    Attributes:
        cost: US dollars, of the ledger those that are known.
        usage: tokens; None: the bill says none. Of `batch_tokens` it is said that they were in
            batches.
        requests: None: not said.
        list_cost: before discounts; None: not said.

    """

    cost: Decimal = _ZERO
    usage: Usage | None = None
    requests: int | None = None
    list_cost: Decimal | None = None
    batch_tokens: int = 0


class Doubt(Struct, frozen=True):
    """What the ledger is not sure of: attempts that may have been billed, and their worst case
    (`worst`; None: at an unknown price), calls without a price, with estimated tokens, and those
    still `under_way`."""

    attempts: int = 0
    worst: Decimal | None = _ZERO
    unpriced: int = 0
    estimated: int = 0
    under_way: int = 0


class Row(Struct, frozen=True):
    """A UTC day's calls of one model. `batch`: whether in the provider's batches; None: both, where
    the bill does not tell them apart. `theirs` is None where the bill has nothing of it. `rounding`
    is what the bill's amounts may be off by because they are rounded."""

    day: date
    model: str
    batch: bool | None
    ours: Side
    theirs: Side | None
    doubt: Doubt
    complete: bool
    rounding: Decimal
    causes: tuple[Cause, ...] = ()

    @property
    def difference(self) -> Decimal:
        """The bill less the ledger."""
        return (self.theirs.cost if self.theirs else _ZERO) - self.ours.cost

    @property
    def agrees(self) -> bool:
        """Whether both sides say the same, but for what rounding makes."""
        return abs(self.difference) <= self.rounding


class Span(Struct, frozen=True):
    """What is compared: the days from `first` to `last`, at the moment `now` (milliseconds since
    the epoch), of the calls of these `profiles`."""

    first: date
    last: date
    now: int
    profiles: frozenset[str]
    scope: Scope


class Reconciliation(Struct, frozen=True):
    """All rows, by day and model. The totals are those of days that are complete."""

    span: Span
    rows: tuple[Row, ...]
    stems: Mapping[str, str]

    @property
    def judged(self) -> list[Row]:
        """The rows of days that are complete."""
        return [row for row in self.rows if row.complete]

    @property
    def ours(self) -> Decimal:
        """What the ledger has."""
        return sum((row.ours.cost for row in self.judged), _ZERO)

    @property
    def theirs(self) -> Decimal:
        """What the bill has."""
        return sum((row.theirs.cost for row in self.judged if row.theirs), _ZERO)

    @property
    def share(self) -> Decimal:
        """The difference as a share of the larger side: that of each model in all, so that a call
        at midnight does not count, and one model does not make up for another."""
        net: dict[str, Decimal] = defaultdict(Decimal)
        rounding: dict[str, Decimal] = defaultdict(Decimal)
        for row in self.judged:
            net[row.model] += row.difference
            rounding[row.model] += row.rounding
        whole = max(self.ours, self.theirs)
        beyond = (abs(usd) for model, usd in net.items() if abs(usd) > rounding[model])
        return sum(beyond, _ZERO) / whole if whole > 0 else _ZERO


class Settlement(Struct, frozen=True):
    """What a call in doubt cost by the bill; None: the bill does not decide, and `why`."""

    call: UnknownCall
    usd: Decimal | None
    why: str


# --- The two sides ------------------------------------------------------------------------------


def in_scope(
    lines: Sequence[BillLine], keys: Collection[str], project: str | None
) -> tuple[list[BillLine], Scope]:
    """The lines of our keys, where the bill tells keys apart and ours are known, else of the
    project, else all."""
    if keys and (not lines or any(line.key for line in lines)):
        return [line for line in lines if line.key in keys], "key"
    if project and any(line.project for line in lines):
        return [line for line in lines if line.project == project], "project"
    return [*lines], "organization"


@dataclass(slots=True)
class _Bill:
    """Sums of the bill's lines of one row, `charged` of which have an amount."""

    usage: Usage | None = None
    requests: int | None = None
    cost: Decimal = _ZERO
    list_cost: Decimal = _ZERO
    listed: bool = False
    batch_tokens: int = 0
    charged: int = 0

    def add(self, line: BillLine) -> None:
        if line.usage is not None:
            self.usage = (self.usage or Usage()) + line.usage
            self.batch_tokens += _all(line.usage) if line.batch else 0
        if line.requests is not None:
            self.requests = (self.requests or 0) + line.requests
        if line.cost is not None:
            self.charged += 1
            self.cost += line.cost
            self.list_cost += line.cost if line.list_cost is None else line.list_cost
            self.listed = self.listed or line.list_cost is not None

    @property
    def side(self) -> Side:
        listed = self.list_cost if self.listed else None
        return Side(self.cost, self.usage, self.requests, listed, self.batch_tokens)


@dataclass(slots=True)
class _Ledger:
    """The ledger's calls of one day and model: all of them, those in batches, those under way."""

    whole: Figures = field(default_factory=Figures)
    batch: Figures = field(default_factory=Figures)
    under_way: int = 0
    batches_under_way: int = 0

    def part(self, *, batch: bool | None) -> tuple[Side, Doubt]:
        """One row's."""
        figures = self.whole if batch is None else self.batch if batch else Figures()
        under_way = self.under_way if batch is None else self.batches_under_way
        if batch is False:
            figures.merge(self.whole)
            figures.add({name: -value for name, value in _sums(self.batch).items()})
            under_way = self.under_way - self.batches_under_way
        usage = Usage(
            figures.input_tokens,
            figures.output_tokens,
            figures.cached_tokens,
            figures.cache_write_tokens,
        )
        tokens = self.batch.input_tokens + self.batch.output_tokens if batch is not False else 0
        sent = figures.calls - figures.kept - figures.refused
        worst = None if figures.doubtful_unpriced else from_pico(figures.doubtful_pico)
        return (
            Side(from_pico(figures.cost_pico), usage, sent, None, tokens),
            Doubt(
                figures.doubtful,
                worst,
                figures.unpriced,
                figures.estimated,
                under_way,
            ),
        )


def _sums(figures: Figures) -> dict[str, int]:
    return {name: getattr(figures, name) for name in figures.__slots__ if name != "latencies"}


def _all(usage: Usage) -> int:
    return usage.input + usage.output


Place = tuple[date, str]


def compare(reading: Reading, lines: Sequence[BillLine], span: Span) -> Reconciliation:
    """The rows of all days and models that either side knows."""
    days = [span.first + timedelta(days=n) for n in range((span.last - span.first).days + 1)]
    edges = [midnight(day, UTC) for day in (*days, span.last + _DAY)]

    def mine(cells: Iterator[Cell]) -> list[Cell]:
        return [cell for cell in cells if cell.profile in span.profiles]

    by = ("profile", "model")
    cells, batched = mine(reading.cells(edges, by)), mine(reading.batch_cells(edges, by))
    holds = [
        hold
        for hold in reading.open_holds()
        if hold.profile in span.profiles and edges[0] <= hold.at_ms < edges[-1]
    ]
    lines = [line for line in lines if span.first <= line.day <= span.last]
    names = {cell.model for cell in cells} | {line.model for line in lines}
    stems = stems_of(names | {hold.model for hold in holds})
    ours: dict[Place, _Ledger] = defaultdict(_Ledger)
    for cell in cells:
        ours[days[cell.span], stems[cell.model]].whole.add(cell.sums)
    for cell in batched:
        ours[days[cell.span], stems[cell.model]].batch.add(cell.sums)
    for hold in holds:
        day = days[bisect_right(edges, hold.at_ms) - 1]
        held = ours[day, stems[hold.model]]
        held.under_way += 1
        held.batches_under_way += bool(hold.job)
    theirs: dict[Place, list[BillLine]] = defaultdict(list)
    for line in lines:
        theirs[line.day, stems[line.model]].append(line)
    rows: list[Row] = []
    unit = _unit(lines)
    for place in sorted({*ours, *theirs}):
        ended = midnight(place[0], UTC) + 24 * 3600 * 1000
        complete = span.now - ended >= _COMPLETE
        found = _rows(place, ours[place], theirs.get(place, ()), span.scope, unit)
        rows += [row if complete else _incomplete(row) for row in found]
    return Reconciliation(span, tuple(_with_late(rows)), stems)


def _unit(lines: Sequence[BillLine]) -> Decimal:
    """What the bill's amounts are rounded to: the last decimal place that any has."""
    places = [int(line.cost.normalize().as_tuple().exponent) for line in lines if line.cost]
    return max(_FINEST, min([_CENT, *(Decimal(1).scaleb(place) for place in places)]))


def _incomplete(row: Row) -> Row:
    """The row of a day whose bill may still grow."""
    said = "the day ended less than 24 hours ago, or has not: the bill may grow"
    kept = (cause for cause in row.causes if cause.kind not in _YET_TO_COME)
    causes = (*kept, Cause("incomplete_day", None, said))
    return replace(row, complete=False, causes=causes)


def stems_of(names: Collection[str]) -> dict[str, str]:
    """Each name with the shortest of them that it is a dated version of, or itself."""
    known = set(names)

    def stem(name: str) -> str:
        cuts = [name[:at] for at, sign in enumerate(name) if sign == "-"]
        wanted = (one for cut in cuts for one in (cut, f"{cut}-latest") if one in known)
        return next((one for one in wanted if same_model(one, name)), name)

    return {name: stem(name) for name in known}


def _rows(
    place: Place, ours: _Ledger, lines: Sequence[BillLine], scope: Scope, unit: Decimal
) -> Iterator[Row]:
    """The row of a day and model; two where the bill tells batches apart and there are any."""
    apart = bool(lines) and all(line.batch is not None for line in lines)
    batches = any(line.batch for line in lines) or ours.batch.calls or ours.batches_under_way
    parts: tuple[bool | None, ...] = (False, True) if apart and batches else (None,)
    whole, (all_ours, _) = _Bill(), ours.part(batch=None)
    for line in lines:
        whole.add(line)
    switched = (
        whole.usage is not None
        and all_ours.usage is not None
        and (whole.usage.input, whole.usage.output) == (all_ours.usage.input, all_ours.usage.output)
        and whole.batch_tokens != all_ours.batch_tokens
    )
    for part in parts:
        own = [line for line in lines if part is None or line.batch is part]
        side, doubt = ours.part(batch=part)
        if not own and side == Side(usage=Usage(), requests=0) and doubt == Doubt():
            continue
        bill = _Bill()
        for line in own:
            bill.add(line)
        theirs, rounding = bill.side if own else None, unit / 2 * max(1, bill.charged)
        row = Row(*place, part, side, theirs, doubt, complete=True, rounding=rounding)
        causes = [] if row.agrees else [*_causes(row, scope, whole.side, switched=switched)]
        causes.sort(key=lambda cause: _ORDER.index(cause.kind))
        yield replace(row, causes=tuple(causes))


# --- Why they differ ----------------------------------------------------------------------------


def _causes(row: Row, scope: Scope, whole: Side, *, switched: bool) -> Iterator[Cause]:
    """What accounts for the difference. `whole` is all that the bill has of the day and model, and
    `switched`: the same tokens as here, but others of them in batches."""
    theirs, rest = row.theirs, row.difference
    if row.doubt.under_way:
        said = f"{_count(row.doubt.under_way, 'call')} not yet in the ledger's figures"
        yield Cause("calls_under_way", None, said)
    if switched:
        said = (
            f"of the same tokens {whole.batch_tokens:,} are billed as a batch, and "
            f"{row.ours.batch_tokens:,} were sent so"
        )
        yield Cause("batch_rate", rest, said)
        return
    if theirs is None:
        late = "; batches are billed on the day they end" if row.ours.batch_tokens else ""
        yield Cause("missing", rest, f"the bill has nothing of it{late}")
        return
    if theirs.list_cost is not None and theirs.list_cost != theirs.cost:
        off = theirs.cost - theirs.list_cost
        share = abs(off) / theirs.list_cost if theirs.list_cost else _ZERO
        yield Cause("discount", off, f"{share:.1%} {'off' if off < 0 else 'above'} the list price")
        rest -= off
    if abs(rest) <= row.rounding:
        return
    if row.doubt.unpriced:
        said = f"{_count(row.doubt.unpriced, 'call')} at a price that is not known here"
        yield Cause("unknown_price", None, said)
    yield from _rest(row, theirs, rest, scope)


def _rest(row: Row, theirs: Side, rest: Decimal, scope: Scope) -> Iterator[Cause]:
    """What accounts for the difference but for discounts."""
    doubt, used, mine = row.doubt, theirs.usage, row.ours.usage or Usage()
    extra = 0 if used is None else _all(used) - _all(mine)
    if used is not None and (used.input, used.output) == (mine.input, mine.output):
        yield from _same_tokens(row, theirs, rest)
    elif used is not None and doubt.estimated:
        said = f"of {_count(doubt.estimated, 'call')} the tokens are estimates: {extra:+,} billed"
        yield Cause("estimated_tokens", rest, said)
    elif rest > 0 and (used is None or extra > 0):
        if doubt.attempts:
            part = rest if doubt.worst is None else min(rest, doubt.worst)
            said = f"{_count(doubt.attempts, 'attempt')} of unknown end, billed after all"
            yield Cause("unknown_calls", part, said)
            rest -= part
        if rest > row.rounding and used is not None:
            yield Cause("other_users", rest, f"{extra:,} tokens more: {_OTHERS[scope]}")
        elif rest > row.rounding and not row.ours.requests:
            yield Cause("other_users", rest, _OTHERS[scope])
        elif rest > row.rounding and not doubt.unpriced:
            said = "the bill has no tokens by which a price could be told from other users"
            yield Cause("unexplained", rest, said)
    elif rest < 0 and extra < 0:
        late = "; batches are billed on the day they end" if row.ours.batch_tokens else ""
        yield Cause("fewer_tokens", rest, f"{-extra:,} tokens less than here{late}")
    elif not doubt.unpriced:
        yield Cause("unexplained", rest, "neither tokens nor discounts account for it")


def _same_tokens(row: Row, theirs: Side, rest: Decimal) -> Iterator[Cause]:
    """Why the same tokens cost something else."""
    used, mine, listed = theirs.usage or Usage(), row.ours.usage or Usage(), row.ours.cost + rest
    cached = (used.cached_input, used.cache_write), (mine.cached_input, mine.cache_write)
    if cached[0] != cached[1]:
        said = (
            f"the same tokens, but {cached[0][0]:,} read from the cache and {cached[0][1]:,} "
            f"written, here {cached[1][0]:,} and {cached[1][1]:,}"
        )
        yield Cause("cache_tier", rest, said)
    elif row.doubt.unpriced:
        return
    elif row.ours.batch_tokens == _all(mine) > 0 and any(
        abs(listed - row.ours.cost * factor) <= _NEAR * row.ours.cost for factor in _BATCH_FACTORS
    ):
        half = listed < row.ours.cost
        said = f"the bill is {'half' if half else 'twice'} as much, as for a batch"
        yield Cause("batch_rate", rest, said)
    elif not theirs.cost:
        yield Cause("price", rest, "the bill charges nothing for these tokens")
    else:
        said = "the same tokens at other prices: `price:` in the profile says yours"
        yield Cause("price", rest, said)


def _with_late(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows; where what a day lacks stands on the next one, both say so."""
    places = {(row.day, row.model, row.batch): row for row in rows}
    moved: dict[tuple[date, str, bool | None], str] = {}
    for row in rows:
        at, following = (row.day, row.model, row.batch), (row.day + _DAY, row.model, row.batch)
        later = places.get(following)
        if later is None or row.agrees or later.agrees or at in moved:
            continue
        both = row.difference + later.difference
        if row.difference < 0 and abs(both) <= row.rounding + later.rounding:
            moved |= {at: "on the day after", following: "of the day before"}
    for at, row in places.items():
        if at not in moved:
            yield row
            continue
        cause = Cause("late", row.difference, f"the bill has it {moved[at]}")
        kept = (one for one in row.causes if one.kind == "incomplete_day")
        yield replace(row, causes=(cause, *kept))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


# --- What the bill decides ----------------------------------------------------------------------


def settle(result: Reconciliation, calls: Sequence[UnknownCall]) -> list[Settlement]:
    """What each call in doubt cost by the bill of its day and model.

    Nothing, where no more was billed than what is known here cost; else they share what was billed
    beyond that in proportion to their worst case: they cannot have cost more, and budgets then
    hold what the bill has. Not decided is it on days that are not complete, where calls are under
    way or without a price, and where more was billed than all of them can have cost.
    """
    places: dict[Place, list[UnknownCall]] = defaultdict(list)
    for call in calls:
        if call.profile in result.span.profiles:
            day = local(call.started_ms, UTC).date()
            places[day, result.stems.get(call.model, call.model)].append(call)
    rows: dict[Place, list[Row]] = defaultdict(list)
    for row in result.rows:
        rows[row.day, row.model].append(row)
    empty = not any(row.theirs for row in result.rows)
    found: list[Settlement] = []
    for place, group in sorted(places.items()):
        if result.span.first <= place[0] <= result.span.last:
            found += _settle(group, rows[place], empty=empty)
    return found


def _settle(
    calls: Sequence[UnknownCall], rows: Sequence[Row], *, empty: bool
) -> Iterator[Settlement]:
    """Those of one day and model; `empty`: the bill has nothing of any day."""
    billed = [row.theirs for row in rows if row.theirs]
    known = sum((row.ours.cost for row in rows), _ZERO)
    listed = (side.cost if side.list_cost is None else side.list_cost for side in billed)
    room = sum(listed, _ZERO) - known
    worst = sum((call.cost or _ZERO for call in calls), _ZERO)
    rounding = sum((row.rounding for row in rows), _ZERO)
    endless = any(call.cost is None for call in calls)
    reason = ""
    if not all(row.complete for row in rows):
        reason = "the day is not complete in the bill"
    elif any(row.doubt.under_way for row in rows):
        reason = "other calls of that day are under way"
    elif empty or (known > 0 and not billed):
        reason = "the bill has nothing of that day and model"
    elif room > 0 and _has_more(rows):
        if any(row.doubt.unpriced for row in rows):
            reason = "other calls of that day have no price"
        elif room > worst + rounding and not endless:
            reason = "more was billed than they can have cost: others are in it"
    if reason:
        yield from (Settlement(call, None, reason) for call in calls)
    elif room <= 0 or not _has_more(rows):
        why = "no more was billed than what is known cost"
        yield from (Settlement(call, _ZERO, why) for call in calls)
    else:
        why = "its share of what was billed beyond what is known"
        weights = [_ZERO if endless else call.cost or _ZERO for call in calls]
        shares = _shares(room if endless else min(room, worst), weights)
        for call, usd in zip(calls, shares, strict=True):
            yield Settlement(call, usd, why)


def _has_more(rows: Sequence[Row]) -> bool:
    """Whether the bill has tokens that the ledger has not; where it says none, or ours are
    estimates, it may."""
    sides = [row.theirs for row in rows if row.theirs]
    if any(side.usage is None for side in sides) or any(row.doubt.estimated for row in rows):
        return True
    used = [side.usage for side in sides if side.usage]
    mine = [row.ours.usage for row in rows if row.ours.usage]
    return any(
        sum(getattr(usage, name) for usage in used) > sum(getattr(usage, name) for usage in mine)
        for name in ("input", "output")
    )


def _shares(whole: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """An amount in parts by weight (equal ones without any), whole picodollars each, which add up
    to it."""
    pico, scale = to_pico(whole) or 0, [to_pico(weight) or 0 for weight in weights]
    total = sum(scale)
    scale = scale if total else [1] * len(scale)
    total = total or len(scale)
    parts = [pico * weight // total for weight in scale]
    parts[0] += pico - sum(parts)
    return [from_pico(part) for part in parts]
