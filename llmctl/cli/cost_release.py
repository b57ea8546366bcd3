"""Use case `cost release`, and the lists of calls whose end is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any

from msgspec import Struct

from llmctl.batch.output import dollars
from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import money, plural, print_json, write_stdout
from llmctl.errors import InputError, UsageError
from llmctl.redact import printable
from llmctl.reports.periods import iso
from llmctl.storage.ledger import UnknownSelection, open_ledger
from llmctl.storage.ledger_queries import UnknownCall

MAX_NAMED = 20
"""Most calls that a report names one by one."""


class ReleaseOptions(Struct, frozen=True):
    """Options of `cost release`: call ids, or a run, or all; `billed` US dollars each."""

    ids: tuple[str, ...] = ()
    run_id: str | None = None
    all: bool = False
    billed: Decimal = Decimal(0)


def total_of(calls: Sequence[UnknownCall]) -> tuple[Decimal, int]:
    """What the calls can have cost, in US dollars, and how many have an unknown price."""
    total = sum((call.cost or Decimal(0) for call in calls), Decimal(0))
    return total, sum(call.pico is None for call in calls)


def unknown_json(calls: Sequence[UnknownCall], zone: tzinfo) -> dict[str, Any]:
    """How many calls there are, what they can have cost, and the first of them."""
    total, unpriced = total_of(calls)
    return {
        "calls": len(calls),
        "usd": dollars(total),
        "unpriced_calls": unpriced,
        "first": [call_json(call, zone) for call in calls[:MAX_NAMED]],
    }


def call_json(call: UnknownCall, zone: tzinfo) -> dict[str, Any]:
    """A call; `usd` is the most it can have cost."""
    return {
        "call_id": call.call_id,
        "run_id": call.run_id,
        "time": iso(call.started_ms, zone),
        "profile": call.profile,
        "provider": call.provider,
        "model": call.model,
        "usd": dollars(call.cost),
    }


def run_release(options: ReleaseOptions, context: Context) -> int:
    """Release and print what was released. Raises `UsageError` and `InputError`."""
    if sum((bool(options.ids), options.run_id is not None, options.all)) != 1:
        raise UsageError(
            "which calls are to be released? give their ids (`llmctl cost report` lists them), "
            "--run ID, or --all"
        )
    released = _release(options, context)
    total, unpriced = total_of(released)
    if context.json:
        print_json(
            {
                "released": [call_json(call, UTC) for call in released],
                "usd": dollars(total),
                "billed_usd": dollars(options.billed),
            }
        )
        return 0
    now = money(options.billed)
    lines = [
        f"{call.call_id}  {iso(call.started_ms, UTC)}  {call.profile}/{call.model}  "
        f"{money(call.cost)} → {now}"
        for call in released
    ]
    if released:
        each = " each" if options.billed and len(released) > 1 else ""
        several = plural(len(released), "call")
        lines.append(f"released {several}: {money(total, unpriced)} at the most → {now}{each}")
    else:
        lines.append("nothing to release: of every such call it is known how it ended")
    write_stdout("".join(f"{printable(line)}\n" for line in lines))
    return 0


def _release(options: ReleaseOptions, context: Context) -> Sequence[UnknownCall]:
    path = load_settings(context).folders.state / "ledger.db"
    if not path.exists():
        if options.all:
            return ()
        raise InputError("there is no ledger yet, and so no call to release")
    ledger = open_ledger(path, "", "")
    try:
        return ledger.release(UnknownSelection(options.ids, options.run_id), options.billed)
    finally:
        ledger.close()
