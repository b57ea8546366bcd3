"""Calls of which nobody knows how they ended: finding them, and taking a person's word for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal

from msgspec import Struct

from llmctl.errors import InputError
from llmctl.storage.rows import from_pico

_COLUMNS = (
    "call_id, run_id, started_ms, profile, provider, model, cost_pico + coalesce(uncertain_pico, 0)"
)
_FIND = f"SELECT {_COLUMNS} FROM calls WHERE status = 'unknown' AND "  # noqa: S608 - our own words
_ORDER = " ORDER BY started_ms, call_id"

# What was sent is not known either, where it cost nothing; what it may have been stays, flagged
# as estimated, where it was billed.
_RELEASE = """
    UPDATE calls SET
        status = 'error', cost_pico = ?1, uncertain = 0, uncertain_pico = 0, estimated = 1,
        input_tokens = iif(?1, input_tokens, 0), output_tokens = iif(?1, output_tokens, 0)
    WHERE call_id = ?2
"""


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


class Chosen(Struct, frozen=True):
    """Which calls: those of these ids, else those of a run, else (None) all."""

    ids: Sequence[str] = ()
    run_id: str | None = None


def between(connection: sqlite3.Connection, start: int, end: int) -> list[UnknownCall]:
    """Those started from `start` to before `end` (milliseconds since the epoch), oldest first."""
    statement = f"{_FIND} started_ms >= ? AND started_ms < ? {_ORDER}"
    return [UnknownCall(*row) for row in connection.execute(statement, (start, end))]


def release(connection: sqlite3.Connection, chosen: Chosen, pico: int) -> list[UnknownCall]:
    """Write that each of the chosen calls cost `pico` picodollars; gives what was known before.

    Raises `InputError`, and nothing has changed, when an id or the run is not in the ledger, or
    when it is known how the call of that id ended.
    """
    found: list[UnknownCall]
    if chosen.ids:
        found = [_one(connection, call_id) for call_id in dict.fromkeys(chosen.ids)]
    elif chosen.run_id is not None:
        asked = (chosen.run_id,)
        if not connection.execute("SELECT 1 FROM calls WHERE run_id = ? LIMIT 1", asked).fetchone():
            raise InputError(f"there is no call of a run {chosen.run_id!r} in the ledger")
        found = [UnknownCall(*row) for row in connection.execute(f"{_FIND} run_id = ?", asked)]
    else:
        found = [UnknownCall(*row) for row in connection.execute(f"{_FIND} 1 {_ORDER}")]
    connection.executemany(_RELEASE, [(pico, call.call_id) for call in found])
    return found


def _one(connection: sqlite3.Connection, call_id: str) -> UnknownCall:
    row = connection.execute(f"{_FIND} call_id = ?", (call_id,)).fetchone()
    if row is not None:
        return UnknownCall(*row)
    asked = "SELECT status FROM calls WHERE call_id = ?"
    known = connection.execute(asked, (call_id,)).fetchone()
    if known is None:
        raise InputError(
            f"there is no call {call_id!r} in the ledger, or it is still under way; "
            "`llmctl cost report` lists the calls whose end is unknown"
        )
    raise InputError(f"how call {call_id} ended is known ({known[0]}): its row is final")
