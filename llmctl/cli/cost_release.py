"""Use case `cost release`, and the lists of calls whose end is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any

from llmctl.batch.output import dollars
from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import money, plural, print_json, print_lines
from llmctl.errors import InputError, UsageError
from llmctl.reports.periods import iso
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_queries import UnknownCall

MAX_NAMED = 20
"""Most calls that a report names one by one."""


def total_of(calls: Sequence[UnknownCall]) -> tuple[Decimal, int]:
    """What the calls can have cost, in US dollars, and how many have an unknown price."""
    total = sum((call.cost or Decimal(0) for call in calls), Decimal(0))
    return total, sum(call.pico is None for call in calls)


def calls_json(calls: Sequence[UnknownCall], zone: tzinfo) -> list[dict[str, Any]]:
    """The calls for a script; `usd` is the most that one can have cost."""
    return [
        {
            "call_id": call.call_id,
            "run_id": call.run_id,
            "time": iso(call.started_ms, zone),
            "profile": call.profile,
            "provider": call.provider,
            "model": call.model,
            "usd": dollars(call.cost),
        }
        for call in calls
    ]


def run_release(
    ids: tuple[str, ...], run_id: str | None, billed: Decimal, context: Context, *, everything: bool
) -> int:
    """Release calls by id, of a run, or all; print them. Raises `UsageError`, `InputError`."""
    if [bool(ids), run_id is not None, everything].count(True) != 1:
        raise UsageError(
            "which calls are to be released? give their ids (`llmctl cost report` lists them), "
            "--run ID, or --all"
        )
    path = load_settings(context).folders.state / "ledger.db"
    released: Sequence[UnknownCall] = ()
    if path.exists():
        with closing(open_ledger(path, "", "")) as ledger:
            released = ledger.release(billed, ids=ids, run_id=run_id)
    elif not everything:
        raise InputError("there is no ledger yet, and so no call to release")
    total, unpriced = total_of(released)
    if context.json:
        calls = calls_json(released, UTC)
        print_json({"released": calls, "usd": dollars(total), "billed_usd": dollars(billed)})
        return 0
    now = money(billed)
    each = " each" if billed and len(released) > 1 else ""
    most = money(total, unpriced)
    print_lines(
        *(
            f"{call.call_id}  {iso(call.started_ms, UTC)}  {call.profile}/{call.model}  "
            f"{money(call.cost)} → {now}"
            for call in released
        ),
        f"released {plural(len(released), 'call')}: {most} at the most → {now}{each}"
        if released
        else "nothing to release: of every such call it is known how it ended",
    )
    return 0
