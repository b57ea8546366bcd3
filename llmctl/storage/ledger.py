"""The ledger: calls that ended, calls under way, and budget windows, in one SQLite file.

Which windows a call counts towards is decided when it is held, and stored with it: a window that
anybody has ever used counts the calls of all processes.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import astuple, replace

from llmctl.errors import InputError, LlmctlError
from llmctl.protocols import (
    IDLE,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    Hold,
    Holder,
    ProcessStatus,
)
from llmctl.storage.database import Database, corrupt, create, fits
from llmctl.storage.ledger_queries import HOUR, KIND, SUMS, Reading, UnknownCall
from llmctl.storage.ledger_rows import (
    MOST,
    UNSENT,
    CallRow,
    HeldCall,
    Labels,
    call_row,
    dollars,
    held_before,
    held_call,
    lost_call,
    matches,
    read_tags,
    rounded,
    to_pico,
    usage_of,
)
from llmctl.storage.ledger_schema import MIGRATIONS, add_window
from llmctl.storage.process import SILENCE, Process
from llmctl.types import CallRecord

T = TypeVar("T")

_REMEDY = (
    "no paid call is made while spending cannot be recorded: when no other llmctl runs, move it "
    "(and its -wal and -shm) to another folder, then run the same command again"
)

_DAY = 24 * 3600 * 1000
_SMALL = 1 << 20  # bytes; a file this size is checked whole in a few milliseconds

BEAT = 10.0
"""Seconds between two signs of life of a process with calls under way."""

_RUN = 30 * _DAY  # milliseconds after which the window of a run goes: it can be made again

_CALL, _HELD = CallRow.__struct_fields__, HeldCall.__struct_fields__
_OWNED = (*_HELD, "pid", "birth", "world")


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INTO {table} ({', '.join(columns)}) VALUES ({marks})"


_SELECT_CALL = f"SELECT {', '.join(_CALL)} FROM calls"  # noqa: S608 - our own names
_SELECT_HOLD = f"SELECT {', '.join(_OWNED)} FROM holds"  # noqa: S608
_ADD_CALL = f"INSERT {_insert('calls', _CALL)}"
_HOLD = f"INSERT OR REPLACE {_insert('holds', _OWNED)}"
_END_HOLD = f"DELETE FROM holds WHERE call_id = ? RETURNING {', '.join(_HELD)}"  # noqa: S608
_COUNT = (
    f"INSERT INTO hours SELECT started_ms / {HOUR}, {', '.join(KIND)}, "  # noqa: S608
    + ", ".join(f"({expression}) * :sign" for expression in SUMS.values())
    + " FROM calls WHERE call_id = :call_id ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = min({MOST}, {name} + excluded.{name})" for name in SUMS)
)
_COUNT_TIME = (
    "INSERT INTO times (what, hour, profile, provider, model, user, tags, ms, number) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number"
)
_CHARGE = (
    f"UPDATE windows SET spent_pico = min({MOST}, spent_pico + ?), "  # noqa: S608
    f"held_pico = min({MOST}, held_pico + ?) "
    "WHERE key IN (SELECT value FROM json_each(?))"
)
_FORGET = "DELETE FROM processes WHERE beat_ms < ?"
_BEAT = (
    "INSERT OR REPLACE INTO processes (pid, birth, world, beat_ms, waiting) VALUES (?, ?, ?, ?, ?)"
)
_CIRCUIT = (
    "INSERT INTO breakers (lane, pid, birth, world, state, at_ms) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET at_ms = iif(state = excluded.state, at_ms, excluded.at_ms), "
    "state = excluded.state"
)
_CLOSED = "DELETE FROM breakers WHERE lane = ? AND (pid, birth, world) = (?, ?, ?)"
_FORGET_CIRCUITS = (
    "DELETE FROM breakers "
    "WHERE (pid, birth, world) NOT IN (SELECT pid, birth, world FROM processes)"
)
_HOLDERS = (
    "SELECT run_id, total(1.0 * cost_pico * times), max(max(at_ms, coalesce(beat_ms, 0))), "
    "max(job NOT IN ('', 'unsent')) "
    "FROM holds LEFT JOIN processes USING (pid, birth, world) WHERE run_id != ? "
    "AND EXISTS (SELECT 1 FROM json_each(windows) WHERE value = ?) GROUP BY run_id ORDER BY run_id"
)
"""Who else holds how much of a window, and when each last gave a sign of life."""
_DROP_WINDOWS = (
    "DELETE FROM windows WHERE end_ms < ? "
    "OR (json_extract(match, '$.run') IS NOT NULL AND made_ms < ?)"
)
_LIVE = (
    "SELECT windows.key, match, spent_pico, held_pico, warned "
    "FROM json_each(?2) CROSS JOIN windows ON whose = value WHERE start_ms <= ?1 AND end_ms > ?1"
)


class _Window(Struct):
    """A row of `windows`, in picodollars; `warned`: the highest share that somebody heard of."""

    key: str
    match: str
    spent: int
    held: int
    warned: str


class Ledger:
    """The `Budget` on disk, and all that reports read. `run_id` goes into every row, `user`
    into those whose request names none. Calls are held by this process, or on behalf of an `owner`.

    Opening it turns the holds of dead processes into `unknown` rows at their full amount, and
    raises `DamagedError` when the file could not take the next call. Holding and settling
    raise what `Database.write` does. Amounts are whole picodollars, prompts and keys never
    come here.
    """

    def __init__(self, db: Database, run_id: str, user: str, owner: Process | None = None) -> None:
        self._db = db
        self._run_id = run_id
        self._user = user
        self._me: tuple[int, str, str] = astuple(owner or Process.current())
        # Whoever holds for another may have been started anew since a first hold.
        self._knows_holds = owner is None
        self._windows: dict[str, BudgetWindow] = {}
        self._held: set[str] = set()
        self._looked = time.monotonic()
        self._said = IDLE
        db.read(_probe)
        if db.read(lambda connection: connection.execute("SELECT 1 FROM holds").fetchone()):
            db.write_now(_expire_dead_holds)

    async def hold(self, hold: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """Put the call on record with its worst case, if those of `windows` that it counts
        towards have room for it, and say which has not otherwise; durable when this returns None.

        A denied hold changes nothing. A second hold of one call takes the place of the first.
        """
        held = held_call(hold, self._run_id, self._user)
        self.watch(windows, held.at_ms)
        denied = await self._db.write(lambda c: self._hold(c, held, windows))
        if denied is None:
            self._held.add(hold.call_id)
        return denied

    def watch(self, windows: Sequence[BudgetWindow], now: int) -> None:
        """Warn at the windows' shares (`now` in milliseconds), of those that ended a day ago no
        more: a process may hold calls for years. Whoever settles what others hold names them."""
        new = [window for window in windows if window.key not in self._windows]
        if new:
            self._windows = {k: w for k, w in self._windows.items() if w.end > now - _DAY}
        self._windows.update({window.key: window for window in windows})

    def _hold(
        self, connection: sqlite3.Connection, held: HeldCall, windows: Sequence[BudgetWindow]
    ) -> BudgetDenied | None:
        live = _live(connection, held.at_ms, held)
        if missing := [window for window in windows if window.key not in live]:
            for window in missing:
                _begin(connection, window, held.at_ms)
            live = _live(connection, held.at_ms, held)
        known = self._knows_holds and held.call_id not in self._held
        first = None if known else self._first(connection, held.call_id)
        before = (first.amount_pico or 0) if isinstance(first, HeldCall) else 0
        lost = first.spent_pico if isinstance(first, CallRow) else 0
        counted: list[str] = [] if first is None else json.loads(first.windows)
        amount = held.amount_pico or 0
        denials: list[BudgetDenied] = []
        for window in windows:
            if found := live.get(window.key):
                mine = window.key in counted
                spent, others = found.spent - lost * mine, found.held - before * mine
                limit = to_pico(window.limit) or 0
                if spent + others + amount > limit:
                    never = spent + amount > limit
                    asked = connection.execute(_HOLDERS, (self._run_id, window.key)).fetchall()
                    holders = tuple(
                        [
                            Holder(run, dollars(int(p)), beat, bool(job))
                            for run, p, beat, job in asked
                        ]
                    )
                    denials.append(BudgetDenied(window, usage_of(spent, others), never, holders))
        if denials:
            if self._look_for_the_dead(connection):
                return self._hold(connection, held, windows)
            # One for which waiting does not help, if there is such a one.
            return max(denials, key=lambda denial: denial.never)
        if isinstance(first, CallRow):
            _take_out(connection, first)
        elif first is not None:
            _charge(connection, first.windows, held=-before)
        keys = json.dumps([*live]) if live else "[]"
        connection.execute(_HOLD, (*astuple(replace(held, windows=keys)), *self._me))
        _charge(connection, keys, held=amount)
        return None

    def _first(self, connection: sqlite3.Connection, call_id: str) -> HeldCall | CallRow | None:
        """What the call counts at already: its first hold, or the row it was given when this
        process was thought dead."""
        asked = f"{_SELECT_HOLD} WHERE call_id = ?"
        row = connection.execute(asked, (call_id,)).fetchone()
        return HeldCall(*row[: len(_HELD)]) if row else _thought_dead(connection, call_id)

    async def end_of(self, process: Process) -> int:
        """Make `unknown` rows, at their full amount, of the calls that a process holds which is
        known to have ended; how many there were. Raises as `hold`."""

        def work(connection: sqlite3.Connection) -> int:
            asked = f"{_SELECT_HOLD} WHERE (pid, birth, world) = (?, ?, ?)"
            rows = connection.execute(asked, astuple(process)).fetchall()
            for row in rows:
                _lose(connection, HeldCall(*row[: len(_HELD)]))
            return len(rows)

        return await self._db.write(work)

    def _look_for_the_dead(self, connection: sqlite3.Connection) -> bool:
        """Whether holds of dead processes were found, and are none any more; looks now and then:
        somebody waits for what they hold."""
        if time.monotonic() - self._looked < BEAT:
            return False
        self._looked = time.monotonic()
        return _expire_dead_holds(connection)

    async def beat(self, status: ProcessStatus = IDLE) -> None:
        """Say that this process, whose calls are under way, is alive, and its `status`."""
        now, before, self._said = round(time.time() * 1000), self._said, status

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET, (now - SILENCE * 1000,))
            connection.execute(_BEAT, (*self._me, now, status.waiting))
            self._set_circuits(connection, before, status, now)
            connection.execute(_FORGET_CIRCUITS)

        await self._db.write(work)

    def _set_circuits(
        self, connection: sqlite3.Connection, before: ProcessStatus, after: ProcessStatus, now: int
    ) -> None:
        closed = before.circuits.keys() - after.circuits.keys()
        connection.executemany(_CLOSED, [(lane, *self._me) for lane in closed])
        rows = [(lane, *self._me, state, now) for lane, state in after.circuits.items()]
        connection.executemany(_CIRCUIT, rows)

    def _end_status(self, connection: sqlite3.Connection) -> None:
        """The row of the process stays: another ledger of it, with calls under way, may be open."""
        self._set_circuits(connection, self._said, IDLE, 0)
        asked = "UPDATE processes SET waiting = 0 WHERE (pid, birth, world) = (?, ?, ?)"
        connection.execute(asked, self._me)

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """Write the call's row, end its hold and charge its windows in one transaction; durable
        on return.

        A failure after which the provider may have billed becomes `unknown` with the amount of
        the hold. Settling a call twice ends in `sqlite3.IntegrityError`, unless the first row
        says `unknown`, or others wrote it who took this process for dead. Gives the shares of
        windows to warn at that were reached now.
        """
        self._held.discard(record.request.call_id)
        return await self._db.write(lambda connection: self._settle(connection, record))

    def _settle(
        self, connection: sqlite3.Connection, record: CallRecord
    ) -> Sequence[BudgetWarning]:
        call_id = record.request.call_id
        found = connection.execute(_END_HOLD, (call_id,)).fetchall()
        held = HeldCall(*found[0]) if found else None
        freed = (held and held.amount_pico) or 0
        if held is None and (old := _thought_dead(connection, call_id)):
            _take_out(connection, old)
            held = held_before(old)
        row = call_row(record, held, self._run_id, self._user)
        if row.job:
            connection.execute("DELETE FROM batch_rows WHERE call_id = ?", (call_id,))
        spent = row.spent_pico
        if not spent and row.windows == "[]":
            add_call(connection, row)
            return ()
        # Those of the hold, and those that match by the name of the model that has answered.
        keys = json.loads(row.windows)
        live = _live(connection, row.started_ms, row)
        more = [key for key in live if key not in keys]
        _charge(connection, row.windows, spent=spent, held=-freed)
        if more:
            _charge(connection, json.dumps(more), spent=spent)
            row = replace(row, windows=json.dumps([*keys, *more]))
        add_call(connection, row)
        charged = [live[key] for key in (*keys, *more) if key in live]
        return [*self._warnings(connection, charged, spent)]

    def _warnings(
        self, connection: sqlite3.Connection, charged: Sequence[_Window], spent: int
    ) -> Iterator[BudgetWarning]:
        """The shares to warn at that were reached by so much more, each told once in all
        processes."""
        for row in charged:
            window = self._windows.get(row.key)
            if window is None or not window.warn_at:
                continue
            amount = dollars(row.spent + spent)
            reached = max([s for s in window.warn_at if amount >= s * window.limit], default=None)
            if reached is not None and reached > Decimal(row.warned):
                told = (str(reached), row.key)
                connection.execute("UPDATE windows SET warned = ? WHERE key = ?", told)
                yield BudgetWarning(window, reached, amount)

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """What counts against the window now."""
        return self._db.read(lambda connection: Reading(connection).usage(window))

    def calls(self) -> list[CallRow]:
        """Ended calls in the order they were started."""
        asked = f"{_SELECT_CALL} ORDER BY started_ms, call_id"
        return [CallRow(*row) for row in self._db.read(lambda c: c.execute(asked).fetchall())]

    def calls_of(self, call_ids: Sequence[str]) -> list[CallRow]:
        """The ended calls among these ids."""
        found = self._db.read(lambda c: [_find_call(c, call_id) for call_id in call_ids])
        return [row for row in found if row is not None]

    def open_holds(self) -> list[HeldCall]:
        """The calls under way in all living processes, oldest first."""
        return self._db.read(lambda connection: Reading(connection).open_holds())

    def report(self, work: Callable[[Reading], T]) -> T:
        """What `work` makes of the ledger as it is at one moment; it returns nothing lazy."""

        def at_once(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(Reading(connection))
            finally:
                connection.execute("ROLLBACK")

        return self._db.read(at_once)

    def release(
        self,
        billed: Decimal | Mapping[str, Decimal],
        *,
        ids: Sequence[str] = (),
        run_id: str | None = None,
    ) -> list[UnknownCall]:
        """Write that what is in doubt of calls cost `billed` US dollars each (all of a call whose
        end is unknown), and correct the windows that they count towards; gives what was in doubt
        before. The calls are those of the `ids`, else those of the run, else all; of a run whose
        process is silent also those under way. Amounts by call id are those of the `ids`.

        Raises `InputError`, and nothing has changed, when an id or the run is not in the ledger,
        or nothing is in doubt of the call of that id.
        """

        def work(connection: sqlite3.Connection) -> list[UnknownCall]:
            _expire_dead_holds(connection, run_id)
            found = _select_unknown(connection, ids, run_id)
            for call in found:
                old = _find_call(connection, call.call_id)
                assert old is not None
                amount = billed if isinstance(billed, Decimal) else billed[call.call_id]
                pico = to_pico(amount) or 0
                _take_out(connection, old)
                row = replace(old, uncertain=0, uncertain_pico=0)
                if old.status == "unknown":
                    row = replace(
                        row, status="error", cost_pico=pico, estimated=True,
                        # What was sent is not known either, where it cost nothing.
                        input_tokens=old.input_tokens if pico else 0,
                        output_tokens=old.output_tokens if pico else 0,
                    )  # fmt: skip
                elif old.cost_pico is not None:
                    row = replace(row, cost_pico=min(MOST, old.cost_pico + pico))
                _charge(connection, row.windows, spent=row.spent_pico)
                add_call(connection, row)
            return found

        return self._db.write_now(work)

    @property
    def database(self) -> Database:
        """The file, for what else is in it (`batch_jobs`)."""
        return self._db

    def check_in_place(self) -> None:
        """Raise `DiskError` when the file was removed or replaced."""
        self._db.check_in_place()

    def close(self) -> None:
        """Write what waits, take back the status, and close the file."""
        if self._said != IDLE:
            with suppress(LlmctlError):  # others see that the process is dead
                self._db.write_now(self._end_status)
        self._db.close()


def read_ledger(path: Path, work: Callable[[Reading], T]) -> T:
    """What `work` makes of the ledger at `path` as it is at one moment, of an empty one where there
    is none yet. Raises as `open_ledger`."""
    if not path.exists():
        with empty_reading() as reading:
            return work(reading)
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(work)


@contextmanager
def empty_reading() -> Iterator[Reading]:
    """A ledger that is not there yet, for reports."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection, MIGRATIONS)
        yield Reading(connection)


def open_ledger(path: Path, run_id: str, user: str) -> Ledger:
    """The ledger at `path`, created when it is missing. Raises as `Database` and `Ledger` do."""
    db = Database(path, MIGRATIONS, remedy=_REMEDY)
    try:
        return Ledger(db, run_id, user)
    except BaseException:
        db.close()
        raise


@lru_cache(maxsize=256)
def _read_match(text: str) -> Mapping[str, str]:
    match: dict[str, str] = json.loads(text)
    return match


@lru_cache(maxsize=1024)
def _whose(user: str, tags: str) -> str:
    """What the column `whose` has in windows that may count a call, as a JSON list."""
    labels = {"user": user, **{f"tag:{name}": value for name, value in read_tags(tags).items()}}
    return json.dumps(["", *(json.dumps({name: value}) for name, value in labels.items())])


def _live(connection: sqlite3.Connection, at_ms: int, kind: Labels) -> dict[str, _Window]:
    """The windows of all budgets that count calls of the kind at this moment."""
    rows = connection.execute(_LIVE, (at_ms, _whose(kind.user, kind.tags))).fetchall()
    return {row[0]: _Window(*row) for row in rows if matches(_read_match(row[1]), kind)}


def _charge(connection: sqlite3.Connection, keys: str, *, spent: int = 0, held: int = 0) -> None:
    """Add picodollars to what is spent and held of windows; `keys` is a JSON list."""
    if (spent or held) and keys != "[]":
        connection.execute(_CHARGE, (spent, held, keys))


def release_hold(connection: sqlite3.Connection, call_id: str) -> None:
    """End the hold of a call that was not made, or not billed: it leaves no row."""
    for row in connection.execute(_END_HOLD, (call_id,)).fetchall():
        held = HeldCall(*row)
        _charge(connection, held.windows, held=-(held.amount_pico or 0))


def _begin(connection: sqlite3.Connection, window: BudgetWindow, now: int) -> None:
    """Give the window its row, if it has none: what its calls cost so far, and those under way."""
    if connection.execute("SELECT 1 FROM windows WHERE key = ?", (window.key,)).fetchone():
        return
    connection.execute(_DROP_WINDOWS, (now - _DAY, now - _RUN))
    spent = Reading(connection).spent_in(window)
    add_window(connection, window, min(MOST, spent), "0", now)


def add_call(connection: sqlite3.Connection, row: CallRow) -> None:
    """Write the row of a call that has ended, and count it in its hour; charges no window. Raises
    `sqlite3.IntegrityError` when the call has a row."""
    connection.execute(_ADD_CALL, astuple(row))
    _count(connection, row)


def _count(connection: sqlite3.Connection, row: CallRow, sign: int = 1) -> None:
    """Add the call to the sums and times of its hour, or take it away."""
    connection.execute(_COUNT, {"call_id": row.call_id, "sign": sign})
    kind = row.started_ms // HOUR, row.profile, row.provider, row.model, row.user, row.tags
    for what, ms in (("latency", row.latency_ms), ("first_token", row.first_token_ms)):
        if row.answered and ms is not None:
            connection.execute(_COUNT_TIME, (what, *kind, rounded(ms), sign))


def _thought_dead(connection: sqlite3.Connection, call_id: str) -> CallRow | None:
    """The row of a call whose process was silent (stopped, suspended), but lives."""
    old = _find_call(connection, call_id)
    open_ = old is not None and (old.status == "unknown" or old.attempts is None)
    return old if open_ else None


def _take_out(connection: sqlite3.Connection, old: CallRow) -> None:
    """Take a call's row out of the ledger and all its sums, for the row of what is known now."""
    _count(connection, old, -1)
    _charge(connection, old.windows, spent=-old.spent_pico)
    connection.execute("DELETE FROM calls WHERE call_id = ?", (old.call_id,))


def _expire_dead_holds(connection: sqlite3.Connection, run_id: str | None = None) -> bool:
    """Make `unknown` rows of the holds whose processes have died, and of those of the run if its
    process is silent; whether there were any."""
    now, found = time.time() * 1000, False
    asked = "SELECT pid, birth, world, beat_ms FROM processes"
    beats = {row[:3]: row[3] for row in connection.execute(asked).fetchall()}
    dead: dict[tuple[Process, bool], bool] = {}
    asked = f"{_SELECT_HOLD} WHERE job IN ('', ?)"  # a batch outlives its process
    for row in connection.execute(asked, (UNSENT,)).fetchall():
        held, process = HeldCall(*row[: len(_HELD)]), Process(*row[len(_HELD) :])
        last = max(held.at_ms, beats.get(row[len(_HELD) :], 0))
        owner = process, now - last > SILENCE * 1000
        if owner not in dead:
            dead[owner] = process.is_dead(out_of_sight=owner[1])
        if dead[owner] or (owner[1] and held.run_id == run_id):
            found = True
            _lose(connection, held)
    return found


def _lose(connection: sqlite3.Connection, held: HeldCall) -> None:
    """Make an `unknown` row of a hold whose process has ended."""
    amount = held.amount_pico or 0
    connection.execute(_END_HOLD, (held.call_id,)).fetchall()
    _charge(connection, held.windows, held=-amount)
    if held.job == UNSENT:
        return
    if _find_call(connection, held.call_id) is None:  # else it was thought dead before
        _charge(connection, held.windows, spent=amount)
        add_call(connection, lost_call(held))


def _select_unknown(
    connection: sqlite3.Connection, ids: Sequence[str], run_id: str | None
) -> list[UnknownCall]:
    """The chosen calls; raises `InputError` for those that there are not."""
    reading = Reading(connection)
    if run_id is not None and not ids:
        found = reading.unknown_where("run_id = ?", run_id)
        holds = [hold for hold in reading.open_holds() if hold.run_id == run_id]
        live, batched = len(holds), sum(hold.job not in {"", UNSENT} for hold in holds)
        if batched and not found:
            raise InputError(
                f"{batched:,} calls of run {run_id} are in a batch of the provider, which will say "
                "what they cost: `llmctl batch --status` names the command that fetches it"
            )
        if live and not found:
            raise InputError(
                f"calls of run {run_id} are under way ({live:,}), and its process lives: end it "
                f"and run the same command again, after {SILENCE:.0f} s if it is in a container"
            )
        if not found and not reading.has_run(run_id):
            raise InputError(f"there is no call of a run {run_id!r} in the ledger")
        return found
    calls = {call.call_id: call for call in reading.unknown_where("1")}
    for call_id in ids:
        if call_id not in calls and (known := _find_call(connection, call_id)):
            raise InputError(
                f"nothing is in doubt of call {call_id} ({known.status}): its row is final"
            )
        if call_id not in calls:
            raise InputError(
                f"there is no call {call_id!r} in the ledger, or it is still under way; "
                "`llmctl cost report` lists the calls that are in doubt"
            )
    return [calls[call_id] for call_id in dict.fromkeys(ids)] if ids else [*calls.values()]


def _find_call(connection: sqlite3.Connection, call_id: str) -> CallRow | None:
    row = connection.execute(f"{_SELECT_CALL} WHERE call_id = ?", (call_id,)).fetchone()
    return None if row is None else CallRow(*row)


def _probe(connection: sqlite3.Connection) -> None:
    """Find damage before the first call is paid for, not when its row must be written."""
    if not fits(connection, MIGRATIONS):
        raise corrupt("its tables are not those that llmctl made")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    if pages * connection.execute("PRAGMA page_size").fetchone()[0] <= _SMALL:
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise corrupt(verdict.splitlines()[-1])  # the first line is a heading
    # The pages that the next row will go to: the ends of the table and of its indexes.
    for column in ("call_id", "started_ms", "run_id"):
        connection.execute(
            f"SELECT {column} FROM calls ORDER BY {column} DESC LIMIT 1"  # noqa: S608
        ).fetchone()
    connection.execute("SELECT hour FROM hours ORDER BY hour DESC LIMIT 1").fetchone()
    connection.execute("SELECT hour FROM times ORDER BY what DESC, hour DESC LIMIT 1").fetchone()
    connection.execute("SELECT json_valid(match), spent_pico FROM windows").fetchall()
