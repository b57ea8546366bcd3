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
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from llmctl.errors import InputError
from llmctl.storage.files import disk, write_all

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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


class _Watched(io.FileIO):
    """A view of an open file that calls `check` after every read from the disk."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        super().__init__(file.fileno(), closefd=False)
        self._check = check

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        count = super().readinto(buffer)
        self._check()
        return count


class InputFile(AbstractContextManager["InputFile"]):
    """An open INPUT. `name` is what messages call it. A copy of stdin vanishes at the end."""

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        path: Path | None = None,
        *,
        csv: bool = False,
        zipped: bool = False,
    ) -> None:
        self.name = name
        self._file = file
        self._path = path
        self._csv = csv
        self._zipped = zipped
        self._state = self._now()
        self._touched = self._last_touched()

    @classmethod
    def open(cls, name: str, stdin: BinaryIO | None = None) -> Self:
        """Open INPUT; `-` (and anything else that cannot be read twice) is copied to a temporary
        file without a name first.

        Raises `InputError` for a file that is missing, unreadable or of an unknown kind,
        `DiskError` when the copy does not fit the disk.
        """
        if name == "-":
            stdin = stdin or getattr(sys.stdin, "buffer", None)
            if stdin is None:
                raise InputError("stdin is closed: name an input file")
            return cls("stdin", _copy(stdin, "stdin"))
        low = Path(name).name.lower()
        if not low.endswith((".jsonl", ".jsonl.gz", ".csv")):
            raise InputError(f"cannot tell what {name} holds: INPUT is {ACCEPTED}")
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
                copied = _copy(file, name)
            file, path = copied, None
        return cls(name, file, path, csv=low.endswith(".csv"), zipped=low.endswith(".gz"))

    def records(self) -> Iterator[Record]:
        """All records from the start; blank lines are not records. One iteration at a time.

        Raises `InputError` when the file has changed since it was opened: no record is given
        that was read after the change.
        """
        self._file.seek(0)
        stream: BinaryIO = io.BufferedReader(_Watched(self._file, self.check), _BUFFER)
        if self._zipped:
            stream = io.BufferedReader(gzip.GzipFile(fileobj=stream, mode="rb"), _BUFFER)
        if self._csv:
            yield from csv_records(lines(stream))
            return
        for record in lines(stream):
            if not record[1].isspace():
                yield record

    def check(self) -> None:
        """Raise `InputError` when the file has changed since it was opened, or another one has
        taken its place, as when an editor saves."""
        if self._now() != self._state:
            raise self.changed()
        with suppress(OSError):  # its name is gone: no other rows are meant
            if self._path and not os.path.samestat(
                self._path.stat(), os.fstat(self._file.fileno())
            ):
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


def lines(stream: BinaryIO, limit: int = MAX_LINE) -> Iterator[Line]:
    """Lines of a byte stream with their 1-based numbers, split on the line feed only.

    A line keeps its end; a byte order mark before the first is dropped. A longer line than
    `limit` bytes is a `Problem` (and skipped); so is damage to compressed data or a failing disk,
    after which nothing can follow.
    """
    number = 0
    readline = stream.readline
    try:
        line = readline(limit + 1)
        if line.startswith(codecs.BOM_UTF8):
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
