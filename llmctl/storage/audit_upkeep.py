"""What leaves the audit log: whole segments, of which a stub stays, and content of lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import LlmctlError
from llmctl.storage.audit_chain import (
    Stub,
    as_ranges,
    decoded,
    encoded,
    erased,
    has_text,
    sign,
    utc,
)
from llmctl.storage.audit_check import check_integrity
from llmctl.storage.audit_log import AuditLog, segment_path, segments, stub_path
from llmctl.storage.files import LockedFile, disk, replacing, sync_folder, write_private

Line = Mapping[str, Any]


class Erased(Struct, frozen=True):
    """How many lines lost their content, and in how many segments."""

    lines: int = 0
    segments: int = 0


class ChangedError(LlmctlError):
    """The log is not as it was written: what is wrong with it would be gone with it."""

    type = "audit"


def removable(log: AuditLog, before: float) -> list[Stub]:
    """The segments, from the first on, whose last line is older than `before` (seconds since the
    epoch), but the one that is written to. Raises `ChangedError` for a log that fails its check."""
    found = check_integrity(log.folder, log.key)
    if found.findings:
        raise ChangedError(
            f"{found.findings[0]}; nothing was removed: see `llmctl audit verify`, and keep a copy"
        )
    with log.locked() as tail:
        newest = tail.head.segment
    old: list[Stub] = []
    for stub in found.segments:
        if stub.segment >= newest or stub.end >= utc(before):
            break
        old.append(stub)
    return old


def remove(log: AuditLog, old: list[Stub]) -> None:
    """Remove segments; each leaves its signed stub, and a line says what went. Raises
    `DiskError`."""
    with _alone(log):
        for stub in old:
            write_private(stub_path(log.folder, stub.segment), sign(log.key, stub))
            with disk("remove", path := segment_path(log.folder, stub.segment)):
                path.unlink(missing_ok=True)
        if old:
            sync_folder(log.folder)
            log.append_now({"kind": "prune", "first": old[0].first, "last": old[-1].last})


def erasable(log: AuditLog, matches: Callable[[Line], bool]) -> list[int]:
    """The numbers of the lines whose content is there, and that match."""
    return [
        int(line["sequence"])
        for number in segments(log.folder)
        for line in _lines(segment_path(log.folder, number))
        if line.get("kind") == "call" and has_text(line) and matches(line)
    ]


def erase(
    log: AuditLog, numbers: list[int], why: Mapping[str, str], *, dry_run: bool = False
) -> Erased:
    """Erase the content of these lines for good. It is on record, with `why`, before it is done:
    content that is gone without a record counts as taken away. Raises `DiskError`."""
    chosen = set(numbers)
    with _alone(log):
        touched = [
            number
            for number in segments(log.folder)
            if any(
                line.get("sequence") in chosen for line in _lines(segment_path(log.folder, number))
            )
        ]
        if not dry_run:
            log.append_now({"kind": "erase", "lines": as_ranges(sorted(chosen)), **why})
            for number in touched:
                _erase_in(log, number, chosen)
    return Erased(len(numbers), len(touched))


def _erase_in(log: AuditLog, number: int, chosen: set[int]) -> None:
    """Put the segment without that content in its own place."""
    path = segment_path(log.folder, number)
    with log.locked() as tail:
        with replacing(path) as new, disk("read", path), path.open("rb") as file:
            for raw in file:
                line = decoded(raw)
                keep = line is None or line.get("sequence") not in chosen
                new.write(raw if keep or line is None else encoded(erased(line)))
            size = new.tell() - len(tail.torn) + (bool(tail.torn) and tail.unended)
        if number == tail.head.segment:
            log.write_head(replace(tail.head, size=size))


@contextmanager
def _alone(log: AuditLog) -> Iterator[None]:
    """While open, nobody else takes anything out of the log. Raises `BusyError`."""
    with LockedFile.open(log.folder / "upkeep.lock"):
        yield


def _lines(path: Path) -> Iterator[Line]:
    """The lines of a segment, as far as they are some."""
    with disk("read", path), path.open("rb") as file:
        for raw in file:
            if (line := decoded(raw)) is not None:
                yield line


def read_lines(folder: Path) -> Iterator[Line]:
    """All lines that are kept, in the order in which they were written. Raises `DiskError`."""
    for number in segments(folder):
        yield from _lines(segment_path(folder, number))
