"""A group of processes that answer the rows of one INPUT into one OUTPUT (`--join`)."""

from __future__ import annotations

import io
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from llmctl.batch.input import START, Mark
from llmctl.batch.output import ErrorsFile, Format, OutputScan, Writers, append, errors_path, repair
from llmctl.batch.resume import Lot, RowIndex
from llmctl.errors import BusyError, InputError
from llmctl.observers.run_stats import Others
from llmctl.storage.files import LockedFile, Span, disk, gone, open_private, turn, write_all

_PATIENCE = 10.0  # seconds to wait while another member begins, or is the last to end
_PAUSE = 0.01  # seconds between two tries
_ADVICE = "it was started without --join, or is just ending; run the same command again"


class _Agreement(Struct, frozen=True):
    """What the members of a group have in common: a name for their claims, where those are kept,
    and their first rows."""

    name: str
    claims: str
    rows: int
    digest: str


class Group(AbstractContextManager["Group"]):
    """A group, as this process is a member of it.

    A member shares the lock of OUTPUT: who comes without `--join` finds it locked, and who can have
    it alone is the first or the last of the group. The first clears the errors file and writes down
    what all must have in common; the last puts the output in order. Lines are written, and those of
    others read before, by one member at a time, who holds the lock of a file beside them
    (`.NAME.join`); what a killed member has left half-written is repaired then.

    Attributes:
        output: answers; its lock is the membership.
        errors: failures of this run, of all members.
        others: what other members have written since this one came.
        torn: bytes of half-written lines that were cut off so far.

    """

    def __init__(
        self, output: LockedFile, errors: ErrorsFile, lock: _LockFile, format: Format
    ) -> None:
        self.output, self.errors = output, errors
        self.others = Others()
        self.torn = 0
        self._lock, self._format = lock, format
        self._index: RowIndex | None = None
        self._limit: int | None = None
        self._agreement = lock.read()
        self._mutex = threading.Lock()
        self._seen: dict[LockedFile, Mark] = {output: START, errors.file: START}
        # Rows drawn here that another member has recorded, and whether that is an answer.
        self._overtaken: dict[tuple[str, bytes], bool] = {}

    @classmethod
    def open(cls, path: Path, format: Format, index: RowIndex, claims: str) -> Self:
        """Join the group of the output at `path`, or begin one. `claims` says where claims are
        kept.

        Raises `BusyError` where a process without a group holds the output, `DiskError`, and
        `InputError` for an errors file that llmctl did not write.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return cls._try(path, format, index, claims)
            except BusyError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    @classmethod
    def _try(cls, path: Path, format: Format, index: RowIndex, claims: str) -> Self:
        with ExitStack() as stack:
            try:
                output = stack.enter_context(LockedFile.open(path, private=False))
            except BusyError:
                output = stack.enter_context(
                    LockedFile.open(path, private=False, shared=True, advice=_ADVICE)
                )
                errors = stack.enter_context(ErrorsFile(errors_path(path), shared=True))
                lock = stack.enter_context(_LockFile(path))
            else:
                errors = stack.enter_context(ErrorsFile(errors_path(path)))
                lock = stack.enter_context(_LockFile(path))
                errors.clear()
                agreement = _Agreement(
                    secrets.token_hex(16), claims, index.size, index.digest(index.size)
                )
                lock.write(agreement)
                if not (errors.share() and output.relock(shared=True)):
                    raise BusyError(f"another llmctl holds {path}: {_ADVICE}")
            group = cls(output, errors, lock, format)
            stack.pop_all()
        return group

    def check(self, index: RowIndex, claims: str, *, follow: bool) -> None:
        """Raise `InputError` where the others answer other rows, or keep their claims elsewhere."""
        theirs, path = self._agreement, self.output.path
        if theirs.claims != claims:
            raise InputError(
                f"the processes that share {path} cannot see each other's claims: let all of them "
                "use one state folder of one machine, or on several machines one `coordinator:`"
            )
        missing = index.size < theirs.rows or (index.size > theirs.rows and not follow)
        if missing or index.digest(theirs.rows) != theirs.digest:
            raise InputError(
                f"the processes that share {path} answer other rows, or ask with other settings: "
                "give all of them the same INPUT and options, or -o another file"
            )

    def read(self, index: RowIndex, limit: int | None) -> None:
        """Put the answers in the output into the index, and take what other members of this run
        have written for done. `limit`: the rows of this run are the first so many. Raises
        `InputError` for damage, and `DiskError`."""
        # Most of it without the lock, as far as there are whole lines now.
        size, path = self.output.size, self.output.path
        with disk("read", path):
            reader = io.BufferedReader(Span(self.output.fd, end=size), 1 << 17)
            scan = OutputScan(reader, path, self._format)
            index.add_answers(scan)
        self._seen[self.output] = Mark(size - scan.torn, scan.lines)
        self._index, self._limit = index, limit
        self.catch_up()

    def key(self, lot: Lot) -> str:
        """What the lot is claimed by."""
        return sha256(f"{self._agreement.name} {lot[0]} {lot[1]}".encode()).hexdigest()

    def catch_up(self) -> None:
        """Read what other members have written. Blocks while one of them writes; any thread may
        call it. Raises `InputError` for damage, and `DiskError`."""
        with self._turn():
            pass

    @property
    def writers(self) -> Writers:
        """What appends lines to the output, and to the errors file."""
        return partial(self._append, self.output), partial(self._append, self.errors.file)

    def leave(self) -> bool:
        """Leave the group: whether this is the last member, who then has the files alone. The
        others' files are closed."""
        last = self.output.relock(shared=False) and self._errors_alone()
        if last:
            self._lock.remove()
        else:
            self.errors.file.close()
            self.output.close()
        return last

    def _errors_alone(self) -> bool:
        deadline = time.monotonic() + _PATIENCE  # of who left a moment ago, and closes it
        while not self.errors.file.relock(shared=False):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def _append(self, file: LockedFile, lines: bytes) -> None:
        with self._turn():
            if self._overtaken:
                lines = self._without_overtaken(file, lines)
            append(file, lines)
            seen = self._seen[file]
            self._seen[file] = Mark(file.size, seen.line + lines.count(b"\n"))

    def _without_overtaken(self, file: LockedFile, lines: bytes) -> bytes:
        """The lines but for those of rows that another member, who took this process for dead, has
        recorded. An answer after a failure stays: it was paid for (`finish` removes the failure).
        """
        failures, kept = file is self.errors.file, b""
        for line in lines.splitlines(keepends=True):
            reader = io.BytesIO(line)
            [(name, digest, _)] = OutputScan(reader, file.path, self._format, errors=failures)
            answered = self._overtaken.get((name, digest))
            if answered is None or not (answered or failures):
                kept += line
        return kept

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The files, whole and read to their ends, for this thread of this process alone."""
        with self._mutex, turn(self._lock.fd, self._lock.path):
            self.output.refresh()
            self.errors.file.refresh()
            self._read_on(self.output)
            self._read_on(self.errors.file)
            yield

    def _read_on(self, file: LockedFile) -> None:
        size, seen, failures = file.size, self._seen[file], file is self.errors.file
        if size < seen.offset:
            raise gone(file.path)
        with disk("read", file.path):
            reader = io.BufferedReader(Span(file.fd, seen.offset, size), 1 << 17)
            scan = OutputScan(reader, file.path, self._format, errors=failures, since=seen)
            for name, digest, _ in scan:
                self._note(name, digest, scan.failure if failures else None)
            whole = not size or os.pread(file.fd, 1, size - 1) == b"\n"
        if scan.torn or not whole:
            repair(file, scan.torn)
            self.torn += scan.torn
        self._seen[file] = Mark(file.size, scan.lines)

    def _note(self, name: str, digest: bytes, failure: str | None) -> None:
        if self._index is None:
            return
        number, drawn = self._index.note_elsewhere(name, digest)
        if drawn:
            self._overtaken[name, digest] = failure is None
        elif number is None or self._limit is None or number < self._limit:
            if failure is None:
                self.others.ok += 1
            else:
                self.others.failures[failure] += 1

    def __exit__(self, *_: object) -> None:
        with self.output, self.errors, self._lock:
            pass


class _LockFile(AbstractContextManager["_LockFile"]):
    """The file beside an output that its members take turns by, and that says what they agree on.
    Raises `DiskError`."""

    def __init__(self, output: Path) -> None:
        self.path = lock_path(output)
        with disk("open", self.path):
            self.fd, _ = open_private(self.path, os.O_RDWR, private=False)

    def read(self) -> _Agreement:
        """What the first member wrote."""
        with disk("read", self.path):
            data = Span(self.fd).readall() or b""
        try:
            return msgspec.json.decode(data, type=_Agreement)
        except msgspec.DecodeError:
            raise gone(self.path) from None

    def write(self, agreement: _Agreement) -> None:
        """Write it instead of what a killed group has left."""
        with disk("write to", self.path):
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            write_all(self.fd, msgspec.json.encode(agreement))

    def remove(self) -> None:
        """Remove the file: no member needs it any more."""
        with disk("remove", self.path):
            self.path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def lock_path(output: Path) -> Path:
    """The file that members of a group take turns by."""
    return output.with_name(f".{output.name.removesuffix('.jsonl')}.join")
