"""A bill in a CSV file, as the providers' pages export it; no network.

Columns are found by the names that the exports of OpenAI, Anthropic and OpenRouter have (November
2026), or are named. Whatever the file's length, only sums by day, model and batch are kept.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from llmctl.errors import InputError
from llmctl.providers.bills import BillLine
from llmctl.providers.openai_bill import model_of
from llmctl.types import Usage

_NAMES: Mapping[str, tuple[str, ...]] = {
    "day": ("start_time_iso", "usage_date_utc", "created_at", "date", "day", "timestamp"),
    "model": ("model_permaslug", "model", "model_version", "line_item"),
    "cost": ("amount_value", "cost_usd", "cost_total", "cost", "amount"),
    "list_cost": ("list_cost_usd", "list_price_usd", "list_amount"),
    "currency": ("amount_currency", "currency"),
    "batch": ("batch", "usage_type", "service_tier"),
    "requests": ("num_model_requests", "requests"),
    "input": ("input_tokens", "tokens_prompt", "prompt_tokens"),
    "output": ("output_tokens", "tokens_completion", "completion_tokens"),
}
"""What is read, and the columns that it may be in, the likeliest first."""

COLUMNS = (*_NAMES,)
_NEEDED = ("day", "model", "cost")
_AMOUNT = re.compile(r"(-?)\$?([0-9]{1,15}(?:\.[0-9]{0,30})?(?:[eE]-[0-9]{1,2})?)")
_WHOLE = re.compile(r"([0-9]{1,15})(?:\.0*)?")
_SECONDS = re.compile(r"[0-9]{9,10}")
_BATCH = {"true": True, "batch": True, "batches": True, "false": False, "standard": False}
_MOST_GROUPS = 1_000_000  # days and models: what is more is no bill, and would fill the memory
_LONGEST_LINE = 1 << 20  # characters that are read at a time, whatever the file is
_LONGEST = 200  # characters of a model's name


class _Cells(Struct, frozen=True):
    """A row's cells by what they are; `place` is file and line, for messages."""

    place: str
    found: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.found.get(name, "")

    def wrong(self, name: str, wanted: str) -> NoReturn:
        shown = self.text(name)[:60]
        raise InputError(f"{self.place}: the {name} {shown!r} is no {wanted}")

    def day(self) -> date:
        """The UTC day of a date, a time, or Unix seconds."""
        text = self.text("day")
        try:
            if _SECONDS.fullmatch(text):
                return datetime.fromtimestamp(int(text), UTC).date()
            when = datetime.fromisoformat(text.removesuffix(" UTC"))
        except ValueError:
            self.wrong("day", "date such as 2026-11-01")
        return (when.astimezone(UTC) if when.tzinfo else when).date()

    def amount(self, name: str) -> Decimal | None:
        """US dollars; None where nothing is written."""
        if not (text := self.text(name)):
            return None
        match = _AMOUNT.fullmatch(text)
        if match is None:
            self.wrong(name, "amount in US dollars such as 12.50")
        return Decimal(match[1] + match[2])

    def count(self, name: str) -> int | None:
        """A whole number; None where nothing is written."""
        if not (text := self.text(name)):
            return None
        match = _WHOLE.fullmatch(text)
        if match is None:
            self.wrong(name, "whole number")
        return int(match[1])


def read_bill(path: Path, columns: Mapping[str, str]) -> list[BillLine]:
    """The lines of the bill. `columns` names columns by what they are (`COLUMNS`), where their
    names are others than usual. Raises `InputError`, naming the line."""
    groups: dict[tuple[date, str, bool | None], _Sums] = {}
    for cells in _rows(path, columns):
        cost = cells.amount("cost")
        if cost is None and not cells.text("model"):  # OpenAI lists days without any use
            continue
        if (currency := cells.text("currency")) and currency.lower() != "usd":
            cells.wrong("currency", "usd, and the ledger is in US dollars")
        model, batch = model_of(cells.text("model")[:_LONGEST])
        batch = _BATCH.get(cells.text("batch").lower(), batch)
        sums = groups.setdefault((cells.day(), model, batch), _Sums())
        sums.add(cells, cost)
        if len(groups) > _MOST_GROUPS:
            raise InputError(f"{path} has more than {_MOST_GROUPS:,} days and models: no bill has")
    if not groups:
        raise InputError(f"{path} has no line of a bill: only its names, or nothing")
    return [sums.line(*place) for place, sums in groups.items()]


class _Sums:
    """What the rows of one day, model and batch add up to; None: none of them says it."""

    def __init__(self) -> None:
        self.cost: Decimal | None = None
        self.list_cost: Decimal | None = None
        self.counts: dict[str, int] = {}

    def add(self, cells: _Cells, cost: Decimal | None) -> None:
        listed = cells.amount("list_cost")
        if cost is not None:
            self.cost = cost + (self.cost or 0)
        if listed is not None:
            self.list_cost = listed + (self.list_cost or 0)
        for name in ("requests", "input", "output"):
            if (count := cells.count(name)) is not None:
                self.counts[name] = count + self.counts.get(name, 0)

    def line(self, day: date, model: str, batch: bool | None) -> BillLine:  # noqa: FBT001 - a key
        both = {"input", "output"} <= self.counts.keys()
        usage = Usage(self.counts["input"], self.counts["output"]) if both else None
        return BillLine(
            day, model, batch, None, None, usage, self.counts.get("requests"), self.cost,
            self.list_cost,
        )  # fmt: skip


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[_Cells]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline(_LONGEST_LINE))
            file.seek(0)
            pieces = iter(lambda: file.readline(_LONGEST_LINE), "")
            rows = csv.reader(pieces, delimiter=delimiter)
            head = [name.strip() for name in next(rows, [])]
            places = _places(path, head, columns)
            for row in rows:
                place = f"{path}:{rows.line_num}"
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(head):
                    raise InputError(
                        f"{place}: there are {len(row)} cells, and {len(head)} columns: export the "
                        "file again"
                    )
                yield _Cells(place, {name: row[at].strip() for name, at in places.items()})
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: convert it with `iconv -t UTF-8`") from None
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: {error}") from None


def _delimiter(head: str) -> str:
    """What stands between the names of the columns most often; a comma where nothing does."""
    return max(",;\t", key=head.count)


def _places(path: Path, head: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """In which column each thing is. Raises `InputError` where one that is needed is in none."""
    small = [name.lower() for name in head]
    found: dict[str, int] = {}
    for name, usual in _NAMES.items():
        if (own := columns.get(name)) is not None:
            if own not in head:
                raise InputError(f"{path} has no column {own!r}; it has: {_listed(head)}")
            found[name] = head.index(own)
        elif at := next((one for one in usual if one in small), None):
            found[name] = small.index(at)
    if lacking := [name for name in _NEEDED if name not in found]:
        form = ",".join(f"{name}=NAME" for name in lacking)
        raise InputError(
            f"{path}: which column is the {' and the '.join(lacking)}? say it with --columns "
            f"{form}; there are: {_listed(head)}"
        )
    return found


def _listed(head: Sequence[str]) -> str:
    shown = [name[:40] for name in head[:30]] or ["none"]
    return ", ".join(shown) + (", …" if len(head) > len(shown) else "")
