"""The calls whose end is unknown, for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import Any

from llmctl.batch.output import dollars
from llmctl.cli.chart import fitted
from llmctl.cli.render import dollars as shown
from llmctl.cli.render import safe
from llmctl.reports.periods import iso, local
from llmctl.storage.ledger_queries import UnknownCall

_MOST = 20
"""Calls that are named one by one."""

_ONE_LINE = 80


def total_of(calls: Sequence[UnknownCall]) -> tuple[Decimal, int]:
    """What the calls can have cost, in US dollars, and how many have an unknown price."""
    total = sum((call.cost or Decimal(0) for call in calls), Decimal(0))
    return total, sum(call.pico is None for call in calls)


def unknown_json(calls: Sequence[UnknownCall], zone: tzinfo) -> dict[str, Any]:
    """How many there are, what they can have cost, and the first of them."""
    total, unpriced = total_of(calls)
    return {
        "calls": len(calls),
        "usd": dollars(total),
        "unpriced_calls": unpriced,
        "first": [call_json(call, zone) for call in calls[:_MOST]],
    }


def call_json(call: UnknownCall, zone: tzinfo) -> dict[str, Any]:
    """One of them; `usd` is the most it can have cost."""
    return {
        "call_id": call.call_id,
        "run_id": call.run_id,
        "time": iso(call.started_ms, zone),
        "profile": call.profile,
        "provider": call.provider,
        "model": call.model,
        "usd": dollars(call.cost),
    }


def unknown_lines(calls: Sequence[UnknownCall], width: int, zone: tzinfo) -> Iterator[str]:
    """The first of them: id, time, profile and model, dollars."""
    for call in calls[:_MOST]:
        at = f"{local(call.started_ms, zone):%Y-%m-%d %H:%M:%S}"
        name, cost = f"{safe(call.profile)}/{safe(call.model)}", shown(call.cost)
        call_id = safe(call.call_id)
        if width >= _ONE_LINE:
            room = width - len(call_id) - len(at) - len(cost) - 8
            yield f"  {call_id}  {at}  {fitted(name, room)}  {cost}"
        else:
            yield f"  {call_id}  {cost}"
            yield f"    {at}  {fitted(name, width - len(at) - 6)}"
    if len(calls) > _MOST:
        yield f"  and {len(calls) - _MOST:,} more"
