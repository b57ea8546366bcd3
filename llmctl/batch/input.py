"""Input of a batch: records of a JSONL or CSV file or of stdin, read twice in constant memory.

A record that cannot be read is a `Problem` with its line number, not an exception, so that one
pass reports them all; only what stops every further reading raises.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import stat
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from llmctl.errors import InputError, LlmctlError
from llmctl.storage.files import Span, disk, pwrite_all, write_all
from llmctl.threads import start

ACCEPTED = ".jsonl, .jsonl.gz, .csv, or - for JSONL on stdin"

MAX_LINE = 64 << 20
"""Bytes a record may have: far above any prompt, far below the memory of a small machine."""

_BUFFER = 1 << 17  # bytes


class Problem(str):
    """What is wrong with a record: a sentence without the file's name and line."""

    __slots__ = ()


Line = tuple[int, bytes | Problem]
Record = tuple[int, bytes | dict[str, str] | Problem]
"""A record's 1-based line, and the line's bytes (JSONL), the cells by column (CSV), or what is
wrong with it."""


class Mark(NamedTuple):
    """A place between two lines of a file: bytes and lines before it."""

    offset: int = 0
    line: int = 0


START = Mark()


class InputFile(AbstractContextManager["InputFile"]):
    """An open INPUT. `name` is what messages call it. A copy of stdin vanishes at the end.

    One that is `followed` may grow: its records are those of whole lines before `end`, which `grow`
    moves on; `ended`: nothing can follow.
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        path: Path | None = None,
        *,
        csv: bool = False,
        zipped: bool = False,
        followed: bool = False,
        pipe: _Pipe | None = None,
    ) -> None:
        self.name = name
        self._file = file
        self._path = path
        self._csv = csv
        self._zipped = zipped
        self._followed = followed
        self._pipe = pipe
        self.end = START
        if followed:
            self.grow()
        self._state = self._now()
        self._touched = self._last_touched()

    @classmethod
    def open(cls, name: str, stdin: BinaryIO | None = None, *, follow: bool = False) -> Self:
        """Open INPUT; `-` (and anything else that cannot be read twice) is copied to a temporary
        file without a name first. With `follow` it may grow, and stdin is read when it comes.

        Raises `InputError` for a file that is missing, unreadable or of an unknown kind,
        `DiskError` when the copy does not fit the disk.
        """
        if name == "-":
            stdin = stdin or getattr(sys.stdin, "buffer", None)
            if stdin is None:
                raise InputError("stdin is closed: name an input file")
            if follow:
                pipe = _Pipe(stdin)
                return cls("stdin", pipe.copy, followed=True, pipe=pipe)
            return cls("stdin", _copy(stdin, "stdin"))
        low = Path(name).name.lower()
        if not low.endswith((".jsonl", ".jsonl.gz", ".csv")):
            raise InputError(f"cannot tell what {name} holds: INPUT is {ACCEPTED}")
        if follow and not low.endswith(".jsonl"):
            raise InputError(f"--follow goes with JSON Lines (.jsonl, or - for stdin), not {name}")
        try:
            file: BinaryIO = Path(name).open("rb", buffering=0)  # noqa: SIM115 - see __exit__
        except FileNotFoundError:
            raise InputError(f"there is no file {name}: check the path") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot read {name}: {why}") from error
        path: Path | None = Path(name).absolute()
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with file:
                if follow:
                    raise InputError(f"--follow wants a regular file or - for stdin, not {name}")
                copied = _copy(file, name)
            file, path = copied, None
        return cls(
            name, file, path, csv=low.endswith(".csv"), zipped=low.endswith(".gz"), followed=follow
        )

    def records(self, since: Mark = START) -> Iterator[Record]:
        """All records from the start, or `since` a place; blank lines are not records.

        Raises `InputError` when the file has changed since it was opened: no record is given
        that was read after the change.
        """
        end = self.end.offset if self._followed else None
        span = Span(self._file.fileno(), since.offset, end, self.check)
        stream: BinaryIO = io.BufferedReader(span, _BUFFER)
        if self._zipped:
            stream = io.BufferedReader(gzip.GzipFile(fileobj=stream, mode="rb"), _BUFFER)
        if self._csv:
            yield from csv_records(lines(stream))
            return
        for record in lines(stream, number=since.line):
            if not record[1].isspace():
                yield record

    def grow(self) -> bool:
        """Take the whole lines that were appended to a file that is followed; whether there were
        any. Raises `InputError` as `check`, and for a disk that fails."""
        at, end, line = self.end.offset, self.end.offset, self.end.line
        span = Span(self._file.fileno(), at, check=self.check)
        while piece := self._read(span):
            at += len(piece)
            if (count := piece.count(b"\n")) > 0:
                line += count
                end = at - len(piece) + piece.rindex(b"\n") + 1
        grown = end > self.end.offset
        self.end = Mark(end, line)
        return grown

    def _read(self, span: Span) -> bytes:
        try:
            return span.read(1 << 20) or b""
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {error.strerror or error}") from error

    @property
    def ended(self) -> bool:
        """Whether a pipe that is followed has ended. Raises `InputError` and `DiskError`."""
        return self._pipe is not None and self._pipe.ended()

    def check(self) -> None:
        """Raise `InputError` when the file has changed since it was opened, or another one has
        taken its place, as when an editor saves; one that is followed also when its name is gone,
        for nothing can be appended by that name."""
        if self._followed:
            if self._now()[0] < self.end.offset:
                raise self.changed()
        elif self._now() != self._state:
            raise self.changed()
        if self._path is None:
            return
        try:
            same = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            same = not self._followed  # read to its end, no other rows are meant
        except OSError:
            return
        if not same:
            raise self.changed()

    def changed(self) -> InputError:
        """The error for an input that is not what it was when it was checked."""
        return InputError(f"{self.name} was changed while it was being read: run it again")

    @property
    def touched(self) -> bool:
        """Whether anything was done to the file since it was opened, be it a new name or right:
        its size and time may have been kept while it was edited."""
        return self._last_touched() != self._touched

    def _last_touched(self) -> int:
        return os.fstat(self._file.fileno()).st_ctime_ns

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def __exit__(self, *_: object) -> None:
        self._file.close()


class RecordCursor:
    """Gives the records of an input by their index: quickly where the next one comes after the last
    one, else from the start again."""

    def __init__(self, source: InputFile) -> None:
        self._source = source
        self._records: Iterator[Record] = iter(())
        self._index, self._mark = 0, START

    def record(self, index: int) -> Record:
        """The record at the 0-based `index`. Raises `InputError` where the input has changed."""
        if index < self._index:
            self._records, self._index, self._mark = iter(()), 0, START
        begun = False
        while True:
            for record in self._records:
                self._index += 1
                if self._index > index:
                    return record
            end = self._source.end
            if begun and self._mark == end:
                raise self._source.changed()
            self._records, self._mark, begun = self._source.records(self._mark), end, True


class _Pipe:
    """A pipe that is copied to an unlinked 0600 file while it is read."""

    def __init__(self, source: BinaryIO) -> None:
        if sys.platform == "win32":
            raise InputError("--follow wants a file for INPUT on Windows, not stdin")
        with disk("copy the input to a temporary file in", tempfile.gettempdir()):
            self.copy: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - InputFile's
            self._copy = os.dup(self.copy.fileno())  # the thread's own: it may outlive the other
        self._source, self._ended = source, False
        self._failure: LlmctlError | None = None
        # A daemon: what writes into the pipe must not keep the program from ending.
        start(threading.Thread(target=self._work, name="llmctl-stdin", daemon=True))

    def ended(self) -> bool:
        """Whether all of it is in the copy. Raises what made that impossible."""
        if self._failure is not None:
            raise self._failure
        return self._ended

    def _work(self) -> None:
        at, last = 0, b"\n"
        try:
            with disk("copy the input to a temporary file in", tempfile.gettempdir()):
                while piece := os.read(self._source.fileno(), 1 << 16):
                    at, last = at + pwrite_all(self._copy, piece, at), piece[-1:]
                if last != b"\n":  # the last line is whole, for nothing can follow
                    pwrite_all(self._copy, b"\n", at)
        except LlmctlError as error:
            self._failure = error
        self._ended = True


def _copy(source: BinaryIO, name: str) -> BinaryIO:
    """A copy of `source` in an unlinked 0600 file, which ends with this process."""
    with disk("copy the input to a temporary file in", tempfile.gettempdir()):
        copied: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see __exit__
    while True:
        try:
            piece = source.read(1 << 20)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from error
        if not piece:
            return copied
        with disk("copy the input to a temporary file in", tempfile.gettempdir()):
            write_all(copied.fileno(), piece)


def lines(stream: BinaryIO, limit: int = MAX_LINE, number: int = 0) -> Iterator[Line]:
    """Lines of a byte stream with their 1-based numbers, split on the line feed only; `number`
    come before them.

    A line keeps its end; a byte order mark before the first is dropped. A longer line than
    `limit` bytes is a `Problem` (and skipped); so is damage to compressed data or a failing disk,
    after which nothing can follow.
    """
    readline = stream.readline
    try:
        line = readline(limit + 1)
        if not number and line.startswith(codecs.BOM_UTF8):
            line = line[3:] or b"\n"  # a mark alone is an empty file, or an empty first line
        while line:
            number += 1
            if len(line) > limit and not line.endswith(b"\n"):
                size = len(line)
                while line and not line.endswith(b"\n"):
                    line = readline(_BUFFER)
                    size += len(line)
                yield number, Problem(f"the line is longer than {limit >> 20} MiB ({size} bytes)")
            else:
                yield number, line
            line = readline(limit + 1)
    except EOFError:
        yield number + 1, Problem("the compressed data ends here, too early: the file is cut off")
    except (gzip.BadGzipFile, zlib.error) as error:
        yield number + 1, Problem(f"the compressed data is damaged here: {error}")
    except OSError as error:
        yield number + 1, Problem(f"cannot read on: {error.strerror or error}")


def csv_records(
    found: Iterator[Line], limit: int = MAX_LINE
) -> Iterator[tuple[int, dict[str, str] | Problem]]:
    """CSV records by column name, each with the line it begins on; blank lines are skipped.

    Spreadsheets' CSV: a header, quoted cells with line breaks. Columns without a name are left
    out: pandas' index, or a comma at each line's end. Nothing follows after a header that cannot
    serve.
    """
    header: list[str] = []
    for first, cells in _csv_cells(found, limit):
        if not header:
            header = [] if isinstance(cells, Problem) else [name.strip() for name in cells]
            problem = cells if isinstance(cells, Problem) else _header_problem(header)
            if problem:
                yield first, Problem(problem)
                return
        elif isinstance(cells, Problem):
            yield first, cells
        elif len(cells) == len(header):
            yield first, {n: cell for n, cell in zip(header, cells, strict=True) if n}
        elif len(cells) > 1 or cells[0].strip():
            yield first, Problem(f"the header names {len(header)} columns, here are {len(cells)}")
    if not header:
        yield 1, Problem("no header: the first line of a CSV file names its columns")


def _csv_cells(found: Iterator[Line], limit: int) -> Iterator[tuple[int, list[str] | Problem]]:
    csv.field_size_limit(limit)  # the default, 128 KiB, is less than a long document

    def text() -> Iterator[str]:
        for _, line in found:
            if isinstance(line, Problem):
                raise csv.Error(line)
            yield line.decode(errors="surrogateescape")

    reader = csv.reader(text(), strict=True)
    cells: list[str] | None = []
    while cells is not None:
        first = reader.line_num + 1
        try:
            cells = next(reader, None)
            "".join(cells or ()).encode()
        except csv.Error as error:
            cells = []
            yield first, Problem(f"not valid CSV: {error}: is a quote missing?")
        except UnicodeEncodeError:
            yield first, Problem("not valid UTF-8: convert the file to UTF-8")
        else:
            if cells:
                yield first, cells


def _header_problem(header: list[str]) -> str:
    """Why the header cannot name the columns, or nothing."""
    named = [name for name in header if name]
    if not named:
        return "no column of the header has a name"
    seen: set[str] = set()
    for name in named:
        if name in seen:
            return f"the header names the column {name!r} twice"
        seen.add(name)
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "the columns are separated by semicolons or tabs: use commas"
    return ""
