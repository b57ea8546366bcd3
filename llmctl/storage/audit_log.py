"""The audit log: lines that are only ever added to, in segments, by any number of processes.

Who writes holds the head's lock and goes on from the head, never from what the file seems to end
with: a tail that was cut off stays missed. What a killed process has written behind the head is
taken over as far as it is whole; a line half written is ended, and the next line says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.errors import DiskError, NoKeyError
from llmctl.storage.audit_chain import (
    FIRST,
    Head,
    decoded,
    encoded,
    fragment,
    key_name,
    line_mac,
    problem,
    seconds_of,
    sign,
    unsign,
    utc,
)
from llmctl.storage.files import (
    LockedFile,
    disk,
    open_private,
    private_folder,
    sync_file,
    sync_folder,
    write_all,
)
from llmctl.storage.group_commit import GroupCommit

FOLDER = "audit"  # in the state folder

_PATIENCE = 15.0  # seconds to wait for another process that writes
_SECTOR = 512  # bytes of the head: a disk writes so many at once, or none
_DAY = 86400.0

Entry = Mapping[str, Any]
"""What a line says; number, time and code are added."""


class Tail(Struct, frozen=True):
    """Where the next line goes: the head with what a killed process added, the bytes of lines half
    written behind it, whether a line break is owed to them, and whether the head was `lost`."""

    head: Head
    torn: bytes = b""
    unended: bool = False
    lost: bool = False


def segment_path(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:06d}.jsonl"


def stub_path(folder: Path, number: int) -> Path:
    """The file of what is left of a segment."""
    return folder / f"{number:06d}.stub.json"


class AuditLog:
    """The log in a folder. A segment takes `most` bytes, or what comes within a day.

    Opening it raises `DiskError`, `BusyError` when another process holds it for 15 seconds, and
    `NoKeyError` where it was written with another key. Appending raises the same; after a
    `DiskError` every later append fails alike.
    """

    segment_size: ClassVar[int] = 16 << 20

    def __init__(self, folder: Path, key: bytes, clock: Clock) -> None:
        self.folder, self.key = private_folder(folder), key
        self.last: Head | None = None
        self._clock = clock
        self._broken: DiskError | None = None
        with self.locked() as tail:
            if not tail.head.sequence and not tail.lost:
                self._write([{"kind": "begin"}], tail)
        self._commits: GroupCommit[Entry] = GroupCommit(self._commit, "audit")

    async def append(self, entry: Entry) -> int:
        """The number of the new line, once it is durable."""
        number: int = await self._commits.put(entry)
        return number

    def append_now(self, entry: Entry) -> int:
        """As `append`, for callers without an event loop."""
        number: int = self._commits.put_now(entry)
        return number

    def close(self) -> None:
        """Write what waits, and end."""
        self._commits.close()

    @contextmanager
    def locked(self) -> Iterator[Tail]:
        """Where the log ends; while open, nobody else writes."""
        with LockedFile.wait(self.folder / "head", _PATIENCE) as file:
            yield read_tail(self.folder, self.key, file.reader().read())

    def write_head(self, head: Head) -> None:
        """Put the head on record. Raises `DiskError`."""
        path = self.folder / "head"
        with disk("write", path):
            fd = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            try:
                write_all(fd, sign(self.key, head)[:-1].ljust(_SECTOR - 1) + b"\n")
                if not head.lines:
                    os.fsync(fd)
            finally:
                os.close(fd)
        self.last = head

    def _commit(self, entries: Sequence[Entry]) -> list[int]:
        if self._broken is not None:
            raise self._broken
        try:
            with self.locked() as tail:
                return self._write(entries, tail)
        except DiskError as error:
            self._broken = error
            raise

    def _write(self, entries: Sequence[Entry], tail: Tail) -> list[int]:
        """Add lines, durably, and then move the head behind them."""
        now, head = self._clock.wall(), tail.head
        if not head.key:
            head = replace(head, key=key_name(self.key))
            if not tail.lost:
                # Before the first line: a head that is missing later was taken away.
                self.write_head(head)
                sync_folder(self.folder)
        full = head.size >= self.segment_size or now - head.opened >= _DAY
        if head.lines and full and not tail.torn and not tail.unended:
            head = replace(head, segment=head.segment + 1, size=0, lines=0)
        if not head.lines:
            head = replace(head, opened=now)
        text = b"\n" if tail.unended else b""
        notes: dict[str, Any] = {"torn": fragment(tail.torn)} if tail.torn else {}
        notes |= {"head": "lost"} if tail.lost else {}
        numbers = []
        for entry in entries:
            first = {"previous": head.mac} if not head.lines else {}
            line = {**entry, **notes, **first, "sequence": head.sequence + 1, "time": utc(now)}
            line["mac"] = line_mac(self.key, head.mac, line)
            text += encoded(line)
            head = replace(head, lines=head.lines + 1, sequence=line["sequence"], mac=line["mac"])
            numbers.append(head.sequence)
            notes = {}
        size = self._add(segment_path(self.folder, head.segment), text)
        self.write_head(replace(head, size=size))
        return numbers

    def _add(self, path: Path, text: bytes) -> int:
        """The size of the file, once the text is at its end."""
        with disk("write to", path):
            fd, created = open_private(path, os.O_WRONLY | os.O_APPEND)
            try:
                write_all(fd, text)
                sync_file(fd)
                size = os.fstat(fd).st_size
            finally:
                os.close(fd)
        if created:
            sync_folder(path.parent)
        return size


def read_tail(folder: Path, key: bytes, raw_head: bytes) -> Tail:
    """Where the log ends, by its head. The caller holds the head's lock. Raises `DiskError`, and
    `NoKeyError` where the log was written with another key."""
    said = decoded(raw_head.strip(b"\0 \n")) or {}
    if said.get("key") not in {None, "", key_name(key)}:
        raise NoKeyError(
            f"{folder} was written with another store key: use that one, or move the folder aside "
            "to begin a new log"
        )
    head = unsign(key, raw_head, Head)
    if head is None:
        numbers = segments(folder)
        if not numbers:
            return Tail(Head(), lost=any(folder.glob("*.stub.json")))
        return replace(_behind(folder, key, _restart(folder, numbers[-1])), lost=True)
    return _behind(folder, key, head)


def segments(folder: Path) -> list[int]:
    """The numbers of the segments that are there, ascending. Raises `DiskError`."""
    with disk("read", folder):
        names = [path.name.partition(".")[0] for path in folder.glob("*.jsonl")]
    return sorted(int(name) for name in names if name.isdecimal())


def _restart(folder: Path, number: int) -> Head:
    """A head at the beginning of the last segment, from where its lines are found again."""
    path = segment_path(folder, number)
    with disk("read", path), path.open("rb") as file:
        first = decoded(file.readline()) or {}
    before, sequence = str(first.get("previous", FIRST)), first.get("sequence", 1)
    sequence = sequence if isinstance(sequence, int) else 1
    return Head(segment=number, sequence=sequence - 1, mac=before)


def _behind(folder: Path, key: bytes, head: Head) -> Tail:
    """The tail with what was written behind the head, in its segment and in the next ones."""
    while True:
        tail = _whole_lines(segment_path(folder, head.segment), key, head)
        if not segment_path(folder, head.segment + 1).exists():
            return tail
        head = replace(tail.head, segment=head.segment + 1, size=0, lines=0)


def _whole_lines(path: Path, key: bytes, head: Head) -> Tail:
    """The head behind the last line that is whole, and what comes after that."""
    with disk("read", path):
        if not path.exists():
            return Tail(head)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(head.size, max(0, size - 1)))
            rest = file.read()
    unended = bool(rest) and not rest.endswith(b"\n")
    if size <= head.size:
        return Tail(head, unended=unended)
    torn = b""
    for raw in pieces(rest):
        line = decoded(raw)
        if line is None:
            torn += raw
        elif problem(key, head.mac, head.sequence + 1, raw) is None:
            opened = head.opened if head.lines else seconds_of(line["time"])
            number, mac = line["sequence"], line["mac"]
            head = replace(head, lines=head.lines + 1, opened=opened, sequence=number, mac=mac)
            torn = b""
        else:
            torn = b""  # somebody's line, which stays to be found
    return Tail(replace(head, size=size), torn, unended)


def pieces(raw: bytes) -> list[bytes]:
    """The lines of a file's end, each with a line break, also the last."""
    return [piece + b"\n" for piece in raw.removesuffix(b"\n").split(b"\n")]
