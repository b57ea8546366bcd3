"""CSV as spreadsheets write it: a header, quoted cells with line breaks, a byte order mark."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from llmctl.batch.lines import MAX_LINE, Problem


def csv_records(
    found: Iterator[tuple[int, bytes | Problem]], limit: int = MAX_LINE
) -> Iterator[tuple[int, dict[str, str] | Problem]]:
    """The records by column name, each with the line it begins on; blank lines are skipped.

    A header that cannot serve is one `Problem`, after which nothing follows.
    """
    csv.field_size_limit(limit)  # the default, 128 KiB, is less than a long document
    feed = _Feed(found, limit)
    reader = csv.reader(feed, strict=True)
    header = _next(reader, feed)
    if header is None:
        yield 1, Problem("no header: the first line of a CSV file names its columns")
        return
    if not isinstance(header, Problem):
        header = [name.strip() for name in header]
    problem = header if isinstance(header, Problem) else _header_problem(header)
    if problem:
        yield feed.first, problem
        return
    width = len(header)
    while (cells := _next(reader, feed)) is not None:
        if isinstance(cells, Problem):
            yield feed.first, cells
        elif len(cells) == width:
            yield feed.first, dict(zip(header, cells, strict=True))
        elif len(cells) > 1 or cells[0].strip():
            cell = "cell" if len(cells) == 1 else "cells"
            yield feed.first, Problem(f"{len(cells)} {cell}; the header names {width} columns")


def _next(reader: Iterator[list[str]], feed: _Feed) -> list[str] | Problem | None:
    """The cells of the next record that is not blank, what is wrong with it, or None at the end."""
    while True:
        feed.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return None
        except csv.Error as error:
            return feed.problem or Problem(f"not valid CSV: {error}")
        if feed.problem or cells:
            return feed.problem or cells


class _Feed:
    """Gives the CSV reader its lines as text.

    Trouble is kept in `problem` instead of raised: the reader then still finds the end of the
    record, and the records after it are read as what they are.
    """

    def __init__(self, found: Iterator[tuple[int, bytes | Problem]], limit: int) -> None:
        self._found = found
        self._limit = limit
        self._size = 0
        self.first = 0
        self.problem: Problem | None = None

    def begin(self) -> None:
        """The next line begins a record."""
        self.first = 0
        self._size = 0
        self.problem = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._found)
        self.first = self.first or number
        if isinstance(line, Problem):
            self.problem = self.problem or line
            return "\n"
        self._size += len(line)
        if self._size > self._limit:
            self.problem = Problem(
                f"the record is longer than {self._limit >> 20} MiB: is a quote not closed?"
            )
            raise csv.Error(self.problem)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            where = f" on line {number}" if number != self.first else ""
            self.problem = self.problem or Problem(
                f"not valid UTF-8 (byte {error.start + 1}{where}): convert the file to UTF-8"
            )
            return line.decode(errors="replace")


def _header_problem(header: list[str]) -> Problem | None:
    """Why the header cannot name the columns, or None."""
    for number, name in enumerate(header, 1):
        if not name:
            return Problem(f"column {number} of the header has no name")
        if name in header[: number - 1]:
            return Problem(f"the header names the column {name!r} twice")
    if len(header) == 1:
        for mark, word in ((";", "semicolons"), ("\t", "tabs")):
            if mark in header[0]:
                return Problem(f"the columns are separated by {word}: use commas")
    return None
