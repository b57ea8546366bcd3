"""Formats of `audit export`: the lines as they are, or a table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import orjson

from llmctl.storage.audit_chain import encoded, seconds_of

Format = Literal["jsonl", "csv"]
Line = Mapping[str, Any]

COLUMNS = (
    *("sequence", "time", "kind", "call", "run", "user", "tags", "profile", "provider", "origin"),
    *("asked_model", "model", "region", "started", "status", "error", "http_status", "attempts"),
    *("input_tokens", "output_tokens", "cost_usd", "cache", "prompt", "answer", "mac"),
)
"""The columns of CSV."""


def within(lines: Iterable[Line], start: float, end: float) -> Iterator[Line]:
    """The lines written from `start` to before `end`, in seconds since the epoch."""
    return (line for line in lines if start <= seconds_of(line["time"]) < end)


def as_jsonl(lines: Iterable[Line]) -> Iterator[bytes]:
    """Each line as it stands in the log, with its code."""
    return map(encoded, lines)


def as_csv(lines: Iterable[Line]) -> Iterator[bytes]:
    """A line of column names, and a row for each line; content that was erased is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV
    Injection").
    """
    yield _row(COLUMNS)
    for line in lines:
        tokens, content = line.get("tokens", {}), line.get("content", {})
        flat = {
            **line,
            "tags": orjson.dumps(line.get("tags", {})).decode(),
            "input_tokens": tokens.get("input"),
            "output_tokens": tokens.get("output"),
            **{name: field.get("text", "") for name, field in content.items()},
        }
        yield _row([_cell(flat.get(name)) for name in COLUMNS])


FORMATS: Mapping[Format, Callable[[Iterable[Line]], Iterator[bytes]]] = {
    "jsonl": as_jsonl,
    "csv": as_csv,
}


def _row(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
