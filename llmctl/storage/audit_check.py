"""Verdicts on the audit: that lines are as they were written, and that every call has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.errors import InputError
from llmctl.storage.audit_chain import (
    FIRST,
    Head,
    Stub,
    decoded,
    fragment,
    is_erased,
    of_ranges,
    problem,
    seconds_of,
    unsign,
)
from llmctl.storage.audit_log import Tail, read_tail, segment_path, segments, stub_path
from llmctl.storage.database import ReadOnlyFile
from llmctl.storage.files import LockedFile, disk
from llmctl.storage.ledger_queries import HOUR

_PATIENCE = 15.0  # seconds to wait for a process that writes

_CALLS = "SELECT call_id, started_ms, attempts IS NULL FROM calls"
_CALLS_AND_HOLDS = (
    f"{_CALLS} WHERE call_id IN (SELECT value FROM json_each(?1)) "  # noqa: S608 - our own names
    "UNION ALL SELECT call_id, at_ms, 1 FROM holds "
    "WHERE call_id IN (SELECT value FROM json_each(?1))"
)


_LAST_REMOVED = "SELECT max(at_ms) FROM counts WHERE what = 'call'"
_DIGITS = str.maketrans("0123456789ABCDEFGHJKMNPQRSTVWXYZ", "0123456789abcdefghijklmnopqrstuv")


class Finding(Struct, frozen=True):
    """Something that is not as it was written: the file, the line in it (0: the file itself)."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


class Integrity(Struct):
    """What was found of a log.

    Attributes:
        findings: what is not as it was written, in the order of the log.
        torn: lines that a crash left half written; `erased`: those whose content was erased.
        lines: that were read; `last`: the number of the last one.
        segments: those that are there, as the stubs that they would leave; `removed`: the stubs.
        calls: attempts of each call that has a line, by the call's id.
        since: when the oldest line was written, in seconds since the epoch; None without a line.

    """

    findings: list[Finding] = field(default_factory=list)
    torn: int = 0
    erased: int = 0
    lines: int = 0
    last: int = 0
    segments: list[Stub] = field(default_factory=list)
    removed: list[Stub] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    since: float | None = None


class Checkpoint(Struct, frozen=True):
    """The head as it was kept elsewhere: number, code and moment of the last line then."""

    sequence: int
    mac: str
    time: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """What `audit: {checkpoint: FILE}` has written, or a server was sent. Raises `InputError`."""
    try:
        said = orjson.loads(path.read_bytes())
        return Checkpoint(int(said["sequence"]), str(said["mac"]), str(said.get("time", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "it is no checkpoint of an audit"
        raise InputError(f"{path} cannot be read: {why}") from None


def check_integrity(folder: Path, key: bytes, checkpoint: Checkpoint | None = None) -> Integrity:
    """Read the whole log. Raises `DiskError`, `BusyError`, and `NoKeyError` for another key."""
    return _Walk(folder, key, checkpoint).all()


class _Walk:
    """One reading of the log: `mac` and `last` are the code and number before the next line."""

    def __init__(self, folder: Path, key: bytes, checkpoint: Checkpoint | None) -> None:
        self._folder, self._key, self._checkpoint = folder, key, checkpoint
        self._found = Integrity()
        self._mac, self._last = FIRST, 0
        self._missing_text: dict[int, tuple[str, int]] = {}
        self._erasures: list[range] = []

    def all(self) -> Integrity:
        """The verdict."""
        found, head = self._found, self._look()
        if head is None:
            what = "there is no audit log: it was removed, or no `audit:` has begun one"
            found.findings.append(Finding(str(self._folder), 0, what))
            return found
        tail, sizes = head
        last_there = max([*sizes, *self._stubs(), tail.head.segment])
        for number in range(1, last_there + 1):
            if number in sizes:
                solid = tail.head.size if number == tail.head.segment else 0
                newest = number >= tail.head.segment
                self._segment(number, sizes[number], solid if newest else sizes[number])
            elif (stub := self._stub(number)) is not None:
                self._pass(stub)
            elif number != tail.head.segment or tail.head.lines:
                self._find(segment_path(self._folder, number), 0, "the whole segment is missing")
        self._ends(tail)
        for sequence, (file, line) in self._missing_text.items():
            if not any(sequence in each for each in self._erasures):
                what = "its content is gone, and no erasure is on record"
                found.findings.append(Finding(file, line, what))
        found.last = self._last
        return found

    def _look(self) -> tuple[Tail, dict[int, int]] | None:
        """The tail and the segments' sizes at one moment; None where there is nothing."""
        path = self._folder / "head"
        if not self._folder.is_dir() or not (path.exists() or segments(self._folder)):
            return None
        with LockedFile.wait(path, _PATIENCE) as file:
            raw = file.reader().read()
            tail = read_tail(self._folder, self._key, raw)
            found = segments(self._folder)
            with disk("read", self._folder):
                sizes = {n: segment_path(self._folder, n).stat().st_size for n in found}
        if not tail.lost and (signed := unsign(self._key, raw, Head)) is not None:
            tail = replace(tail, head=signed)
        return tail, sizes

    def _stubs(self) -> list[int]:
        names = [path.name.partition(".")[0] for path in self._folder.glob("*.stub.json")]
        return [int(name) for name in names if name.isdecimal()]

    def _stub(self, number: int) -> Stub | None:
        path = stub_path(self._folder, number)
        if not path.exists():
            return None
        with disk("read", path):
            stub = unsign(self._key, path.read_bytes(), Stub)
        if stub is None or stub.segment != number:
            self._find(path, 0, "the stub of the removed segment was changed")
            return None
        return stub

    def _pass(self, stub: Stub) -> None:
        """Go on behind a segment that was removed."""
        if (stub.first, stub.before) != (self._last + 1, self._mac):
            path = stub_path(self._folder, stub.segment)
            self._find(path, 0, f"lines before number {stub.first} are missing")
        self._mac, self._last = stub.mac, stub.last
        self._found.removed.append(stub)
        self._compare(stub_path(self._folder, stub.segment), 0)

    def _segment(self, number: int, size: int, solid: int) -> None:
        """Read a segment. A crash may have left half a line behind its `solid` bytes."""
        path, found = segment_path(self._folder, number), self._found
        torn: list[tuple[int, bytes]] = []
        stub: Stub | None = None
        whole = 0  # bytes up to the end of the last line that is one
        for position, begin, raw in _lines(path, size, solid):
            line = decoded(raw)
            if line is None:
                torn.append((position, raw))
                continue
            wrong = problem(self._key, self._mac, self._last + 1, raw)
            if wrong is None:
                if stub is None and line.get("previous") != self._mac:
                    wrong = "the first line does not say what it follows"
                self._torn(path, position, torn, line)
            else:
                self._not_torn(path, torn)
            torn, whole = [], begin + len(raw)
            if wrong is not None:
                self._find(path, position, wrong)
            before, self._mac = self._mac, str(line.get("mac", self._mac))
            sequence = line.get("sequence")
            self._last = sequence if isinstance(sequence, int) else self._last + 1
            moment = str(line.get("time", ""))
            stub = _grown(stub, number, self._last, before, self._mac, moment)
            self._note(path, position, line)
            self._compare(path, position)
        if whole >= solid:
            found.torn += len(torn)
        else:
            self._not_torn(path, torn)
        if stub is not None:
            found.segments.append(stub)

    def _torn(
        self, path: Path, position: int, torn: list[tuple[int, bytes]], line: Mapping[str, Any]
    ) -> None:
        """What stood before a line that is right: a crash's where the line says so."""
        whole = b"".join(raw for _, raw in torn)
        if torn and line.get("torn") == fragment(whole):
            self._found.torn += len(torn)
        else:
            self._not_torn(path, torn)
            if not torn and "torn" in line:
                self._find(path, position, "what a crash left before it is gone")

    def _not_torn(self, path: Path, torn: list[tuple[int, bytes]]) -> None:
        for position, _ in torn:
            self._find(path, position, "is no line of the log")

    def _note(self, path: Path, position: int, line: Mapping[str, Any]) -> None:
        """What later judgements need of a line."""
        found, kind = self._found, line.get("kind")
        found.lines += 1
        if found.since is None:
            found.since = _moment(line)
        if line.get("head") == "lost":
            what = "the head was missing or changed when it was written: lines may be, too"
            self._find(path, position, what)
        if kind == "erase":
            self._erasures += of_ranges(str(line.get("lines", "")))
        if kind == "call":
            found.calls[str(line.get("call"))] = int(line.get("attempts", 0))
        if is_erased(line):
            found.erased += 1
            self._missing_text[self._last] = (str(path), position)

    def _compare(self, path: Path, position: int) -> None:
        """Hold the line that was read to the checkpoint."""
        kept = self._checkpoint
        if kept is not None and self._last == kept.sequence and self._mac != kept.mac:
            self._find(path, position, "is another line than the checkpoint says")

    def _ends(self, tail: Tail) -> None:
        """Hold the end to the head, and to the checkpoint."""
        known = [(tail.head.sequence, "the head")]
        if self._checkpoint is not None:
            known.append((self._checkpoint.sequence, "the checkpoint"))
        most, who = max(known)
        if tail.lost:
            self._find(self._folder / "head", 0, "it is missing, or was changed")
        if most > self._last:
            number = max([*segments(self._folder), 1])
            path = segment_path(self._folder, number)
            position = path.read_bytes().count(b"\n") + 1 if path.exists() else 0
            what = f"the log ends at number {self._last}; {who} says it went on to {most}"
            self._find(path, position, what)

    def _find(self, path: Path, position: int, what: str) -> None:
        self._found.findings.append(Finding(str(path), position, what))


def _lines(path: Path, size: int, solid: int) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a segment, the first `size` bytes of it: number from 1, where it begins, and its
    bytes, behind the `solid` ones always with a line break."""
    begin = 0
    with disk("read", path), path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if begin + len(raw) > size:
                return
            yield number, begin, raw.removesuffix(b"\n") + b"\n" if begin >= solid else raw
            begin += len(raw)


def _grown(
    stub: Stub | None, segment: int, sequence: int, before: str, mac: str, moment: str
) -> Stub:
    """The stub of a segment with one line more."""
    if stub is not None:
        return replace(stub, last=sequence, mac=mac, end=moment)
    return Stub(
        segment=segment, first=sequence, last=sequence, before=before, mac=mac,
        begin=moment, end=moment,
    )  # fmt: skip


def _moment(line: Mapping[str, Any]) -> float | None:
    try:
        return seconds_of(str(line.get("time")))
    except ValueError:
        return None


class Completeness(Struct, frozen=True):
    """Calls by id: of the ledger `without_line`, those among them whose process was `killed` before
    it could write one, and calls `without_row` in the ledger, of which nothing was sent where
    `unsent`. `removed` counts the calls of the log that are older than the last which was removed
    from the ledger, and have no row: which ones were removed is not on record there."""

    compared: int = 0
    without_line: tuple[str, ...] = ()
    killed: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()
    unsent: tuple[str, ...] = ()
    removed: int = 0

    @property
    def complete(self) -> bool:
        """Whether each call has a line and a row, but for what a crash explains."""
        return not self.without_line and not self.without_row


def check_completeness(
    ledger: Path, read: Callable[[], Integrity]
) -> tuple[Integrity, Completeness]:
    """Hold the log to the ledger's file: the ledger is read first, for a call's line is written
    before its row. `read` reads the log. Raises as that does."""
    rows = _rows(ledger)
    found = read()
    lost: dict[str, bool] = {}
    if found.since is not None:
        since = found.since * 1000
        lost = {call: by_others for call, (at, by_others) in rows.items() if at > since}
    lacking = [call for call in lost if call not in found.calls]
    odd = [call for call in found.calls if call not in rows]
    late = _rows(ledger, odd) if odd else {}
    last = _last_removed(ledger)
    odd = [call for call in odd if call not in late]
    removed = {call for call in odd if _made(call) < last}
    odd = [call for call in odd if call not in removed]
    return found, Completeness(
        len(lost),
        tuple(call for call in lacking if not lost[call]),
        tuple(call for call in lacking if lost[call]),
        tuple(call for call in odd if found.calls[call]),
        tuple(call for call in odd if not found.calls[call]),
        len(removed),
    )


def _last_removed(ledger: Path) -> int:
    """When the hour of the last call that was removed from the ledger ended, in milliseconds since
    the epoch; 0: none was."""
    with ReadOnlyFile(ledger) as file:
        found = file.ask(lambda c: c.execute(_LAST_REMOVED).fetchone())
    return found[0] + HOUR if found and found[0] is not None else 0


def _made(call: str) -> int:
    """When a call got its id (a ULID), before it started, in milliseconds since the epoch."""
    try:
        return int(call[:10].translate(_DIGITS), 32)
    except ValueError:
        return 1 << 62


def _rows(ledger: Path, ids: list[str] | None = None) -> dict[str, tuple[int, bool]]:
    """When each call of the ledger began (milliseconds since the epoch), and whether others wrote
    its row than the process that made it; of the `ids` alone also those under way."""
    with ReadOnlyFile(ledger) as file:
        if ids is None:
            found = file.ask(lambda c: c.execute(_CALLS).fetchall())
        else:
            given = (orjson.dumps(ids).decode(),)
            found = file.ask(lambda c: c.execute(_CALLS_AND_HOLDS, given).fetchall())
    return {call: (started, bool(by_others)) for call, started, by_others in found or ()}
