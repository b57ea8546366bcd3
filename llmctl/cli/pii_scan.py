"""`llmctl pii scan`: files read piece by piece, and what is found in them as lines or JSON."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from msgspec import Struct

import llmctl
from llmctl.cli.context import Context
from llmctl.cli.output import plural, print_json, print_lines
from llmctl.errors import InputError
from llmctl.privacy.findings import Kind
from llmctl.privacy.recognisers import check_extras, find
from llmctl.redact import last_chars

BLOCK = 1 << 18
"""Characters that are read, and looked at, at a time."""

_LONGEST = 1 << 15  # characters of what may be found, a private key at most
_CONTEXT = 128  # characters before a value that are looked at with it
_SNIFFED = 1 << 13  # bytes
_JSON = {".json", ".jsonl", ".ndjson"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_CELL = 64 << 20
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_NAMES: dict[Kind, str] = {
    "email": "Address of mail",
    "phone": "Telephone number",
    "card": "Number of a payment card",
    "iban": "Bank account number (IBAN)",
    "ssn": "Social security number",
    "ip": "IP address",
    "secret": "Key, token or password",
    "person": "Name of a person",
    "location": "Name of a place",
}


class Place(Struct, frozen=True):
    """Something found in a file: line, first column and the one after the last, from 1 on, in
    characters; and what may be shown of it."""

    file: str
    line: int
    column: int
    end_column: int
    kind: Kind
    excerpt: str


class Scan:
    """What is found in files, one after another.

    Attributes:
        files: how many were read. `counts`: what was found, by kind.
        skipped, unreadable: the others, with the reason.

    """

    def __init__(self, kinds: Collection[Kind]) -> None:
        self._kinds = kinds
        self.files = 0
        self.counts: Counter[Kind] = Counter()
        self.skipped: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    def places(self, names: Sequence[str]) -> Iterator[Place]:
        """What is found in the files, in the order they are named."""
        for name in names:
            try:
                with _opened(name) as file:
                    for place in self._of_file(name, file):
                        self.counts[place.kind] += 1
                        yield place
            except OSError as error:
                self.unreadable[name] = error.strerror or str(error)
            except (csv.Error, ValueError) as error:
                self.unreadable[name] = str(error)

    def _of_file(self, name: str, file: io.BufferedReader) -> Iterator[Place]:
        head = file.peek(_SNIFFED)
        wide = head.startswith(_UTF_16)
        if b"\0" in head and not wide:
            self.skipped[name] = "binary"
            return
        self.files += 1
        encoding = "utf-16" if wide else "utf-8-sig"
        shown, suffix = ("stdin", "") if name == "-" else (name, Path(name).suffix.lower())
        escaped = suffix in _JSON or (name == "-" and head.lstrip().startswith(b"{"))
        with io.TextIOWrapper(file, encoding, errors="replace", newline="") as text:
            if suffix == ".csv":
                yield from csv_places(text, shown, self._kinds)
            else:
                yield from text_places(text, shown, self._kinds, escaped=escaped)


def run(names: Sequence[str], kinds: Collection[Kind], format: str, context: Context) -> int:
    """Scan, print, and give the exit code. Raises `InputError`, `SetupError`."""
    check_extras(kinds)
    scan = Scan(kinds)
    places = scan.places(names)
    if format == "table":
        for place in places:
            where = f"{place.file}:{place.line}:{place.column}"
            print_lines(f"{where}  {place.kind:<8}  {place.excerpt}".rstrip())
    else:
        found = list(places)
        print_json(_sarif(found) if format == "sarif" else _json(found, scan))
    for name, reason in scan.skipped.items():
        context.info(f"{name}: {reason}, left out")
    total = scan.counts.total()
    each = ", ".join(f"{kind} {count:,}" for kind, count in sorted(scan.counts.items()))
    context.info(f"{total:,} found in {plural(scan.files, 'file')}" + (f": {each}" if each else ""))
    if scan.unreadable:
        errors = "; ".join(f"{name}: {reason}" for name, reason in scan.unreadable.items())
        error = InputError(f"cannot read {errors}")
        error.reported = format != "table"
        raise error
    return 1 if total else 0


def _opened(name: str) -> io.BufferedReader:
    return Path(name).open("rb") if name != "-" else open(0, "rb", closefd=False)


def text_places(
    stream: TextIO, name: str, kinds: Collection[Kind], *, escaped: bool = False
) -> Iterator[Place]:
    """What is found in a text, in memory for a few blocks; `escaped`: it is JSON, whose escapes
    are read as what they stand for."""
    text, line, column, accepted = "", 1, 1, 0
    while True:
        piece = stream.read(BLOCK)
        text += piece
        # What ends beyond the block is found with the next one.
        limit = max(0, len(text) - _LONGEST) if piece else len(text)
        at = 0
        for start, end, kind, value in _found(text, kinds, escaped=escaped):
            if accepted <= start < limit:
                line, column = _moved(line, column, text[at:start])
                at, accepted = start, end
                width = len(text[start:end].partition("\n")[0])
                yield Place(name, line, column, column + width, kind, excerpt(kind, value))
        if not piece:
            return
        accepted = max(accepted, limit)
        kept = max(at, min(limit, accepted) - _CONTEXT)
        line, column = _moved(line, column, text[at:kept])
        text, accepted = text[kept:], accepted - kept


def csv_places(stream: TextIO, name: str, kinds: Collection[Kind]) -> Iterator[Place]:
    """What is found in the cells of a CSV file, beside the names of their columns. Raises
    `csv.Error`."""
    csv.field_size_limit(_LONGEST_CELL)
    raw: list[str] = []

    def lines() -> Iterator[str]:
        for each in stream:
            raw.append(each)
            yield each

    header: list[str] | None = None
    line = 1
    for cells in csv.reader(lines()):
        record = "".join(raw)
        raw.clear()
        at = 0
        for number, cell in enumerate(cells):
            column = header[number] + ": " if header and number < len(header) else ""
            for finding in find(column + cell, kinds):
                start = finding.start - len(column)
                if start < 0:
                    continue
                value = cell[start : finding.end - len(column)]
                at = max(record.find(value, at), 0)  # 0: its quotes are doubled there
                row, first = _moved(line, 1, record[:at])
                width = len(value.partition("\n")[0])
                shown = excerpt(finding.kind, value)
                yield Place(name, row, first, first + width, finding.kind, shown)
        header = header or cells
        line += record.count("\n")


def _found(
    text: str, kinds: Collection[Kind], *, escaped: bool
) -> Iterator[tuple[int, int, Kind, str]]:
    """Spans, kinds and values."""
    plain, places = unescaped(text) if escaped and "\\" in text else (text, None)
    for each in find(plain, kinds):
        start, end = each.start, each.end
        span = (places[start], places[end]) if places else (start, end)
        yield *span, each.kind, plain[start:end]


def unescaped(text: str) -> tuple[str, list[int]]:
    """JSON with the characters its escapes stand for, and where each (and the end) was."""
    pieces: list[str] = []
    places: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        pieces += [text[at : match.start()], _character(match)]
        places += [*range(at, match.start()), match.start()]
        at = match.end()
    return "".join([*pieces, text[at:]]), [*places, *range(at, len(text) + 1)]


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2])


def _moved(line: int, column: int, text: str) -> tuple[int, int]:
    """The place after a text that begins at this one."""
    count = text.count("\n")
    return line + count, len(text) - text.rfind("\n") if count else column + len(text)


def excerpt(kind: Kind, value: str) -> str:
    """What may be shown of a value: enough to find it, too little to use it."""
    if kind == "email":
        return f"{value[0]}…@…{value[value.rfind('.') :]}"
    if kind in {"card", "iban", "secret"}:
        return last_chars(value)
    if kind == "phone":
        return f"…{value[-2:]}"
    if kind in {"person", "location"}:
        return f"{value[0]}…"
    return "…"


def _json(found: Sequence[Place], scan: Scan) -> dict[str, Any]:
    fields = ("file", "line", "column", "kind", "excerpt")
    reasons = {**scan.skipped, **scan.unreadable}
    return {
        "findings": [{field: getattr(place, field) for field in fields} for place in found],
        "counts": dict(sorted(scan.counts.items())),
        "files": scan.files,
        "skipped": [{"file": name, "reason": reason} for name, reason in reasons.items()],
    }


def _sarif(found: Sequence[Place]) -> dict[str, Any]:
    """SARIF 2.1.0 (OASIS), as code scanning reads it."""
    rules = [{"id": kind, "shortDescription": {"text": name}} for kind, name in _NAMES.items()]
    driver = {"name": "llmctl pii scan", "version": llmctl.__version__, "rules": rules}
    results = [_sarif_result(place) for place in found]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _sarif_result(place: Place) -> dict[str, Any]:
    region = {
        "startLine": place.line,
        "startColumn": place.column,
        "endColumn": place.end_column,
    }
    artifact = {"uri": quote(Path(place.file).as_posix())}
    where = {"physicalLocation": {"artifactLocation": artifact, "region": region}}
    return {
        "ruleId": place.kind,
        "level": "error" if place.kind == "secret" else "warning",
        "message": {"text": f"{_NAMES[place.kind]}: {place.excerpt}"},
        "locations": [where],
    }
