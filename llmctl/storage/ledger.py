"""The ledger: every call that ended, and those under way, in one SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from llmctl.behind import Write
from llmctl.protocols import BudgetDenied, BudgetUsage, BudgetWarning, BudgetWindow, Hold
from llmctl.storage.database import Database
from llmctl.storage.jobs import One
from llmctl.storage.ledger_budgets import glance, stands
from llmctl.storage.ledger_many import NewHold
from llmctl.storage.ledger_tables import MIGRATIONS, SCHEMA
from llmctl.storage.ledger_write import (
    CALL,
    HELD,
    OWNED,
    NewCall,
    NotAllError,
    add_calls,
    call_values,
    end_holds,
    held_values,
    hold_all,
    settle_all,
)
from llmctl.storage.migrations import fits
from llmctl.storage.process import Process
from llmctl.storage.report import Reading
from llmctl.storage.rows import (
    CallRow,
    HeldCall,
    answered_call,
    call_row,
    held_call,
    lost_call,
    to_pico,
)
from llmctl.storage.sqlite import corrupt, rows
from llmctl.storage.unknown import Chosen, UnknownCall, release
from llmctl.types import CallRecord

T = TypeVar("T")

REMEDY = (
    "no paid call is made while spending cannot be recorded: when no other llmctl runs, move it "
    "(and its -wal and -shm) to another folder, then run the same command again"
)

_SMALL = 1 << 20  # bytes; a file this size is checked whole in a few milliseconds
_UNSEEN = 24 * 3600.0  # seconds after which a call of a process we cannot see has surely ended
_PAGE = 1000

_STARTED, _ESTIMATED = CALL.index("started_ms"), CALL.index("estimated")
_ADD_LOST = (
    f"INSERT INTO calls ({', '.join(CALL)}) VALUES {rows(1, len(CALL))} "  # noqa: S608
    "ON CONFLICT (call_id) DO NOTHING"
)
_HOLDS = f"SELECT {', '.join(OWNED)} FROM holds"  # noqa: S608
_HOLD = f"SELECT {', '.join(HELD)} FROM holds WHERE call_id = ?"  # noqa: S608
_CALLS = (
    f"SELECT {', '.join(CALL)} FROM calls "  # noqa: S608
    "WHERE (started_ms, call_id) > (?, ?) AND started_ms < ? ORDER BY started_ms, call_id LIMIT ?"
)


class SqliteLedger:
    """The `LedgerStore` on disk. `run_id` and `user` go into every row.

    Opening it turns the holds of dead processes into `unknown` rows at their full amount, and
    raises `DamagedError` when the file could not take the next call. Holding and settling
    raise what `Database.write` does. Amounts are whole picodollars, prompts and keys never
    come here.
    """

    def __init__(self, db: Database, run_id: str, user: str) -> None:
        self._db = db
        self._run_id = run_id
        self._user = user
        self._me = Process.current()
        # One and the same, so that holds are seen to be of one kind.
        self._hold_all = partial(hold_all, me=self._me)
        self._tight = False
        self._held: dict[str, NewHold] = {}
        db.read(_probe)
        if db.read(lambda connection: connection.execute("SELECT 1 FROM holds").fetchone()):
            db.write_now(_bury)

    async def hold(self, hold: Hold, caps: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """Put the call on record with its worst case, if all `caps` have room for it, and say
        which has not otherwise; durable when this returns None.

        A second hold of one call takes the place of the first, unless it is refused.
        """
        new = self._new(hold, caps)
        if caps and self._tight and hold.times == 1:
            # What is refused again and again does not keep others from writing.
            refused = self._db.read(lambda connection: glance(connection, caps, new.amount))
            if refused is not None:
                return refused
        answer: BudgetDenied | None = await self._db.soon(One(self._hold_all, new))
        self._tight = answer is not None
        if answer is None:
            self._held[hold.call_id] = new
        return answer

    def _new(self, hold: Hold, caps: Sequence[BudgetWindow]) -> NewHold:
        held, me = held_call(hold, self._run_id, self._user), self._me
        values = (*held_values(held), me.pid, me.birth, me.world)
        return NewHold(values, held.amount_pico or 0, caps, held.at_ms)

    async def hold_all(self, holds: Sequence[tuple[Hold, Sequence[BudgetWindow]]]) -> bool:
        """Put many calls on record in one transaction, or none where they do not all fit;
        durable when this returns."""
        new = [self._new(hold, caps) for hold, caps in holds]

        def work(connection: sqlite3.Connection) -> None:
            if any(hold_all(connection, new, self._me)):
                raise NotAllError

        try:
            await self._db.write(work, len(new))
        except NotAllError:
            return False
        self._held.update({hold.call_id: one for (hold, _), one in zip(holds, new, strict=True)})
        return True

    async def give_back(self, call_ids: Sequence[str]) -> None:
        """End the holds of calls that were not made."""
        for call_id in call_ids:
            self._held.pop(call_id, None)
        await self._db.write(lambda connection: end_holds(connection, call_ids), len(call_ids))

    def standing(self, cap: BudgetWindow) -> BudgetUsage | None:
        """What counts against the cap now; None where no hold has met it yet."""
        return self._db.read(lambda connection: stands(connection, cap))

    def check(self) -> None:
        """Raises the `DiskError` after which nothing more can be written."""
        self._db.check()

    def settle(
        self, outcome: CallRecord, caps: Sequence[BudgetWindow] = (), *, lazily: bool = False
    ) -> Write[Sequence[BudgetWarning]]:
        """Write the call's row and end its hold in one transaction; durable when this is done.

        A failure after which the provider may have billed becomes `unknown` with the amount of
        the hold. A call without a hold (a cached answer) only gets its row. Settling a call
        twice ends in `sqlite3.IntegrityError`, unless the first row says `unknown`.
        Gives the shares of `caps` to warn at that are reached now. `lazily`: nobody waits.
        """
        run_id, user, call_id = self._run_id, self._user, outcome.request.call_id
        known = self._held.pop(call_id, None)
        if outcome.ok and not outcome.uncertain:
            new = NewCall(answered_call(outcome, run_id, user), caps, known)
            return self._db.begin(One(settle_all, new), lazily=lazily)

        def work(connection: sqlite3.Connection) -> Sequence[BudgetWarning]:
            row = connection.execute(_HOLD, (call_id,)).fetchone()
            held = None if row is None else HeldCall(*row)
            values = call_values(call_row(outcome, held, run_id, user))
            return settle_all(connection, [NewCall(values, caps)])[0]

        return self._db.begin(work, lazily=lazily)

    def hurry(self) -> None:
        """Somebody waits now for what was settled lazily."""
        self._db.hurry()

    async def settle_kept(self, outcomes: Sequence[CallRecord]) -> None:
        """Write the rows of answers that took no call, in one transaction; durable when this
        returns. They have no holds."""
        run_id, user = self._run_id, self._user

        def work(connection: sqlite3.Connection) -> None:
            add_calls(connection, [answered_call(one, run_id, user) for one in outcomes])

        await self._db.write(work, len(outcomes))

    def calls(self, since: float | None = None, until: float | None = None) -> Iterator[CallRow]:
        """Ended calls in the order they were started, from `since` to before `until` (seconds
        since the epoch; None: no bound)."""
        last: tuple[int, str] = (-(1 << 62) if since is None else round(since * 1000), "")
        end = 1 << 62 if until is None else round(until * 1000)
        while True:
            # Page by page, so that a slow reader does not keep the WAL from being folded in.
            page = self._db.read(partial(_page, after=last, end=end))
            for row in page:
                yield _call(row)
            if len(page) < _PAGE:
                return
            last = (page[-1][_STARTED], page[-1][0])

    def open_holds(self) -> list[HeldCall]:
        """The calls under way in all living processes, oldest first."""
        return self._db.read(_open_holds)

    def report(self, work: Callable[[Reading], T]) -> T:
        """What `work` makes of the ledger as it is at one moment; it returns nothing lazy."""

        def at_once(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(Reading(connection, _open_holds(connection)))
            finally:
                connection.execute("ROLLBACK")

        return self._db.read(at_once)

    def release(self, chosen: Chosen, billed: Decimal) -> list[UnknownCall]:
        """Write that the chosen calls, whose end is unknown, cost `billed` US dollars each; gives
        what was known of them before. Raises `InputError` for those that are none."""
        pico = to_pico(billed) or 0
        return self._db.write_now(lambda connection: release(connection, chosen, pico))

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._db.close()


def open_ledger(path: Path, run_id: str, user: str, gather: float = 0.0) -> SqliteLedger:
    """The ledger at `path`, created when it is missing; `gather` is as in `Inbox`. Raises as
    `Database` and `SqliteLedger` do."""
    db = Database(path, MIGRATIONS, synchronous="FULL", remedy=REMEDY, gather=gather)
    try:
        return SqliteLedger(db, run_id, user)
    except BaseException:
        db.close()
        raise


def _open_holds(connection: sqlite3.Connection) -> list[HeldCall]:
    rows = connection.execute(f"{_HOLDS} ORDER BY at_ms, call_id").fetchall()
    return [HeldCall(*row[: len(HELD)]) for row in rows]


def _page(
    connection: sqlite3.Connection, *, after: tuple[int, str], end: int
) -> list[tuple[Any, ...]]:
    return connection.execute(_CALLS, (*after, end, _PAGE)).fetchall()


def _call(row: tuple[Any, ...]) -> CallRow:
    values = list(row)
    values[_ESTIMATED] = bool(values[_ESTIMATED])  # SQLite has no truth values
    return CallRow(*values)


def _do(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
    connection.execute(statement, values)


def _probe(connection: sqlite3.Connection) -> None:
    """Find damage before the first call is paid for, not when its row must be written."""
    if not fits(connection, MIGRATIONS, SCHEMA):  # a changed trigger would add up something else
        raise corrupt("its tables are not those that llmctl made")
    if connection.execute("SELECT 1 FROM together").fetchone():  # triggers would add up nothing
        raise corrupt("it says that somebody is writing many calls, which nobody ever sees")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    if pages * connection.execute("PRAGMA page_size").fetchone()[0] <= _SMALL:
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise corrupt(verdict.splitlines()[-1])  # the first line is a heading
    # The pages that the next row will go to: the ends of the table and of its indexes.
    for column in ("call_id", "started_ms", "run_id", "profile"):
        connection.execute(
            f"SELECT {column} FROM calls ORDER BY {column} DESC LIMIT 1"  # noqa: S608
        ).fetchone()
    connection.execute("SELECT slot FROM slots ORDER BY slot DESC LIMIT 1").fetchone()


def _bury(connection: sqlite3.Connection) -> None:
    """Make `unknown` rows of the holds whose processes have died."""
    graves: dict[Process, bool | None] = {}
    for row in connection.execute(_HOLDS).fetchall():
        held, process = HeldCall(*row[: len(HELD)]), Process(*row[len(HELD) :])
        if process not in graves:
            graves[process] = process.is_dead()
        dead = graves[process]
        if dead is None:
            dead = time.time() - held.at_ms / 1000 > _UNSEEN
        if dead:
            _do(connection, _ADD_LOST, call_values(lost_call(held)))
            _do(connection, "DELETE FROM holds WHERE call_id = ?", (held.call_id,))
