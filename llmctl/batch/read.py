"""Where the rows come from: a file or stdin, line by line, twice, in constant memory.

A record that cannot be read is a `Problem` with its line number, not an exception, so that one
pass reports them all; only what stops every further reading raises.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from llmctl.batch.csvfile import csv_records
from llmctl.batch.lines import Problem, buffered, lines
from llmctl.errors import InputError
from llmctl.storage.files import disk

ACCEPTED = ".jsonl, .jsonl.gz, .csv, or - for JSONL on stdin"
_COPY = 1 << 20

Record = tuple[int, bytes | dict[str, str] | Problem]
"""A record's 1-based line, and the line's bytes (JSONL), the cells by column (CSV), or what is
wrong with it."""


class Source:
    """An open INPUT. `name` is what messages call it; `csv` says which kind of records it has."""

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        *,
        csv: bool = False,
        zipped: bool = False,
        path: Path | None = None,
    ) -> None:
        self.name = name
        self.csv = csv
        self.path = path
        self._file = file
        self._zipped = zipped
        self._state = _state(file)

    @classmethod
    def open(cls, name: str, stdin: BinaryIO | None = None) -> Self:
        """Open INPUT; `-` (and anything that cannot be read twice) is copied to a private
        temporary file without a name first.

        Raises `InputError` for a file that is missing, unreadable, a folder or of an unknown
        kind, `DiskError` when the copy does not fit the disk.
        """
        if name == "-":
            stdin = stdin or getattr(sys.stdin, "buffer", None)
            if stdin is None:
                raise InputError("stdin is closed: name an input file")
            return cls("stdin", _spool(stdin, "stdin"))
        path = Path(name)
        low = path.name.lower()
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where this says no
            raise InputError(f"{name} is a folder: name a file ({ACCEPTED})")
        if not low.endswith((".jsonl", ".jsonl.gz", ".csv")):
            raise InputError(f"cannot tell what {name} holds: INPUT is {ACCEPTED}")
        try:
            file: BinaryIO = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise InputError(f"there is no file {name}: check the path") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot read {name}: {why}") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with file:
                spooled = _spool(file, name)
            file = spooled
        return cls(name, file, csv=low.endswith(".csv"), zipped=low.endswith(".gz"), path=path)

    def records(self) -> Iterator[Record]:
        """All records from the start; blank lines are not records.

        Raises `InputError` when the file changed since it was opened. One iteration at a time.
        """
        if _state(self._file) != self._state:
            raise InputError(f"{self.name} was changed while it was being read: run it again")
        self._file.seek(0)
        found = lines(buffered(self._file.fileno(), zipped=self._zipped))
        return csv_records(found) if self.csv else _jsonl(found)

    def close(self) -> None:
        """Close the file; a copy of stdin vanishes."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _jsonl(found: Iterator[tuple[int, bytes | Problem]]) -> Iterator[Record]:
    return (record for record in found if not record[1].isspace())


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _spool(source: BinaryIO, name: str) -> BinaryIO:
    """A copy of `source` in an unlinked 0600 file, which ends with this process."""
    with disk("copy the input to a temporary file in", tempfile.gettempdir()):
        spool: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - Source closes it
    while True:
        try:
            piece = source.read(_COPY)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from error
        if not piece:
            return spool
        with disk("copy the input to a temporary file in", tempfile.gettempdir()):
            rest = memoryview(piece)
            while rest:
                rest = rest[spool.write(rest) :]
