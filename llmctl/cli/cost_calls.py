"""`llmctl cost report --calls`: single calls of the ledger, as a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import tzinfo
from typing import Any

from rich.table import Table
from rich.text import Text

from llmctl.batch.output import dollars
from llmctl.cli.cost_formats import csv_text, tokens
from llmctl.cli.output import drawn, is_tty, json_text, money
from llmctl.redact import printable
from llmctl.reports.periods import iso, local
from llmctl.storage.ledger_rows import CallRow, from_pico, read_tags
from llmctl.types import KEPT

_ONE_LINE = 140  # columns of a terminal from which a call has one line

_HEAD = ("TIME", "ENDED", "IN", "OUT", "COST", "LATENCY", "RETRIES")
_RIGHT = _HEAD[2:]


def calls_json(calls: Sequence[CallRow], zone: tzinfo) -> str:
    """An array of the calls; see `llmctl cost report --help`."""
    return json_text([_fields(call, zone) for call in calls])


def calls_csv(calls: Sequence[CallRow], zone: tzinfo) -> str:
    """A line a call, after a line of column names; tags as a JSON object."""
    rows = [{**_fields(call, zone), "tags": call.tags} for call in calls]
    empty = {**_fields(_EMPTY, zone), "tags": ""}
    return csv_text([[*empty], *([*row.values()] for row in rows)])


def calls_table(calls: Sequence[CallRow], zone: tzinfo, width: int) -> str:
    """A table as wide as that: where it is narrow, ids and names have a line below each call; in
    a pipe each call has one."""
    if not calls:
        return "no such calls in this span\n"
    piped = not is_tty(sys.stdout)
    one_line = piped or width >= _ONE_LINE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in _HEAD:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    if one_line:
        table.add_column("CALL", no_wrap=True)
        table.add_column("MODEL", overflow="fold")
    for call in calls:
        more = (Text(_safe(call.call_id)), Text(_name(call))) if one_line else ()
        table.add_row(*_cells(call, zone), *more)
    if one_line:
        return drawn(table, width=10_000 if piped else width)
    head, *lines = drawn(table, width=width).splitlines()
    below = [drawn(Text(f"  {_safe(c.call_id)}  {_name(c)}", "dim"), width=width) for c in calls]
    return f"{head}\n" + "".join(f"{a}\n{b}" for a, b in zip(lines, below, strict=True))


def _safe(text: str) -> str:
    return " ".join(printable(text).split())


def _name(call: CallRow) -> str:
    name = f"{call.profile}/{call.model}"
    return _safe(f"{name} · {call.user}" if call.user else name)


def _cells(call: CallRow, zone: tzinfo) -> list[Text]:
    ended = call.status if call.status in {"ok", "unknown"} else call.error_type or call.status
    if call.cache in KEPT:
        ended = f"{ended}, {call.cache}"
    cost = from_pico(call.cost_pico)
    amount = money(cost)
    if call.status == "unknown":
        amount = f"≤{amount}"
    elif call.uncertain:
        amount = f"{amount}+?"
    took = call.elapsed_ms if call.latency_ms is None else call.latency_ms
    about = "~" if call.estimated else ""
    return [
        Text(f"{local(call.started_ms, zone):%m-%d %H:%M:%S}"),
        Text(_safe(ended)[:18], "" if call.status == "ok" else "red"),
        Text(f"{about}{tokens(call.input_tokens)}"),
        Text(f"{about}{tokens(call.output_tokens)}"),
        Text(amount),
        Text("-" if took is None else f"{took / 1000:.2f} s"),
        Text(str(max(0, (call.attempts or 0) - 1))),
    ]


def _fields(call: CallRow, zone: tzinfo) -> dict[str, Any]:
    unknown = call.status == "unknown"
    doubt = (call.cost_pico if unknown else 0), call.uncertain_pico
    most = None if None in doubt else sum(each or 0 for each in doubt)
    return {
        "call_id": call.call_id,
        "run_id": call.run_id,
        "time": iso(call.started_ms, zone),
        "profile": call.profile,
        "provider": call.provider,
        "model": call.model,
        "asked_model": call.asked_model or None,
        "user": call.user,
        "tags": dict(read_tags(call.tags)),
        "status": call.status,
        "error_type": call.error_type,
        "http_status": call.http_status,
        "cache": call.cache,
        "retries": max(0, (call.attempts or 0) - 1),
        "rate_limit_hits": call.rate_limits,
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "cached_input_tokens": call.cached_tokens,
        "cache_write_tokens": call.cache_write_tokens,
        "reasoning_tokens": call.reasoning_tokens,
        "estimated": bool(call.estimated),
        "cost_usd": None if unknown else dollars(from_pico(call.cost_pico)),
        "may_have_been_billed_usd": dollars(from_pico(most)),
        "saved_usd": dollars(from_pico(call.saved_pico)),
        "latency_ms": call.latency_ms,
        "first_token_ms": call.first_token_ms,
        "elapsed_ms": call.elapsed_ms,
        "provider_request_id": call.provider_request_id,
    }


_EMPTY = CallRow("", "", 0, "", "", "", "", "", 0, 0)
