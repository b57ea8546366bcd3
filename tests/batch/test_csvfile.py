"""CSV inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmctl.batch.csvfile import csv_records
from llmctl.batch.lines import Problem, lines
from llmctl.batch.read import Record, Source

Put = Callable[[str, bytes], str]


def records(path: str) -> list[Record]:
    """The file's records."""
    with Source.open(path) as source:
        return list(source.records())


def test_a_spreadsheets_file(put: Put) -> None:
    """Mark, CRLF, quoted line breaks, commas, quotes and blank lines are read as written, and a
    record is numbered by the line it begins on."""
    path = put(
        "a.csv",
        '\ufeffid, prompt \r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,\u2028x\r\n   \r\n3,'.encode(),
    )
    assert records(path) == [
        (2, {"id": "1", "prompt": 'two\r\nlines, "quoted"'}),
        (5, {"id": "2", "prompt": "\u2028x"}),
        (7, {"id": "3", "prompt": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "no header"),
        (b"\n\n", 1, "no header"),
        (b"a,,b\n1,2,3\n", 1, "column 2 of the header has no name"),
        (b"a,b,a\n1,2,3\n", 1, "names the column 'a' twice"),
        (b"id;prompt\n1;x\n", 1, "separated by semicolons"),
        (b"id\tprompt\n1\tx\n", 1, "separated by tabs"),
        (b"\xff,b\n1,2\n", 1, "not valid UTF-8"),
        (b"a,b\n1\n", 2, "1 cell; the header names 2 columns"),
        (b"a,b\n1,2,3\n", 2, "3 cells; the header names 2 columns"),
        (b"a,b\n1,\xff\n", 2, "not valid UTF-8 (byte 3)"),
        (b'a,b\n1,"x\n\xff\n"\n', 2, "not valid UTF-8 (byte 1 on line 3)"),
        (b'a,b\n1,"never closed\n', 2, "not valid CSV: unexpected end of data"),
        (b'a,b\n1,"x"y\n', 2, "not valid CSV"),
        (b"a,b\n1,x\ry\n", 2, "not valid CSV"),
    ],
)
def test_what_is_wrong(put: Put, content: bytes, line: int, says: str) -> None:
    """Each flaw of a CSV file is one problem with the line where its record begins."""
    [(number, problem)] = records(put("a.csv", content))
    assert number == line
    assert isinstance(problem, Problem)
    assert says in problem


def test_records_after_a_bad_one(put: Put) -> None:
    """A bad record does not hide the ones after it."""
    found = records(put("a.csv", b"a,b\n1\n\xff,2\n3,4\n"))
    assert [isinstance(data, Problem) for _, data in found] == [True, True, False]
    assert found[2] == (4, {"a": "3", "b": "4"})


def test_long_cells(put: Put) -> None:
    """A cell may be far longer than Python's csv allows by default."""
    [(_, cells)] = records(put("a.csv", b"prompt\n" + b"x" * 1_000_000 + b"\n"))
    assert isinstance(cells, dict)
    assert len(cells["prompt"]) == 1_000_000


def test_a_quote_that_is_never_closed() -> None:
    """A record that swallows the file stops at the limit, with its line, instead of growing."""
    import io

    data = io.BytesIO(b'a\n1\n"' + b"x\n" * 100)
    (_, first), (line, problem), *_ = csv_records(lines(data), limit=50)
    assert first == {"a": "1"}
    assert line == 3
    assert "is a quote not closed?" in problem
