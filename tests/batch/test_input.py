"""Inputs of a batch: lines, gzip, CSV, stdin, files that change."""

from __future__ import annotations

import gzip
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.input import InputFile, Problem, Record, csv_records, lines
from llmctl.errors import InputError

Put = Callable[[str, bytes], str]


@given(st.binary(max_size=300))
def test_nothing_is_lost_but_the_mark(data: bytes) -> None:
    """The lines together are the stream without its mark, and only a line feed ends one."""
    found = list(lines(io.BytesIO(data)))
    bare = data.removeprefix(b"\xef\xbb\xbf")
    assert b"".join(line for _, line in found if isinstance(line, bytes)) in (bare, bare + b"\n")
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert all(b"\n" not in line[:-1] for _, line in found if isinstance(line, bytes))


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_long_lines_are_problems_of_their_own(lengths: list[int], limit: int) -> None:
    """A line over the limit is reported by its number, and the lines around it are read."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    found = list(lines(io.BytesIO(data), limit))
    assert [number for number, _ in found] == list(range(1, len(lengths) + 1))
    assert [isinstance(line, Problem) for _, line in found] == [n > limit for n in lengths]


def records(path: str) -> list[Record]:
    """The file's records, the same at both readings."""
    with InputFile.open(path) as source:
        once = list(source.records())
        assert list(source.records()) == once, "a source is read twice"
        return once


def test_gzip_cut_off_anywhere(put: Put) -> None:
    """Wherever a compressed file is cut off, the last thing reported is that, with its line."""
    whole = gzip.compress(b'{"prompt": "one"}\n{"prompt": "two"}\n' * 3)
    for length in range(1, len(whole)):
        *before, (line, problem) = records(put("a.jsonl.gz", whole[:length]))
        assert isinstance(problem, Problem), length
        assert "compressed data" in problem
        assert line == len(before) + 1


def test_gzip_damaged_anywhere(put: Put) -> None:
    """A flipped byte in a compressed file is at most a problem, never a crash."""
    whole = gzip.compress(b'{"prompt": "one"}\n{"prompt": "two"}\n' * 3)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        records(put("a.jsonl.gz", bytes(damaged)))
    [(line, problem)] = records(put("a.jsonl.gz", b'{"prompt": "x"}\n'))
    assert (line, "damaged" in str(problem)) == (1, True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.jsonl", "there is no file"),
        ("rows.txt", "INPUT is .jsonl, .jsonl.gz, .csv, or -"),
        ("rows.gz", "INPUT is .jsonl, .jsonl.gz, .csv, or -"),
        (".", "cannot tell what"),
        ("nul\0.jsonl", "cannot read"),
    ],
)
def test_what_cannot_be_opened(put: Put, tmp_path: Path, name: str, says: str) -> None:
    """An input that cannot serve is refused in one sentence, exit code 2."""
    put("rows.txt", b"")
    put("rows.gz", b"")
    with pytest.raises(InputError, match=says) as caught:
        InputFile.open(str(tmp_path / name))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_a_pipe_with_a_name(tmp_path: Path) -> None:
    """A named pipe is copied like stdin."""
    pipe = tmp_path / "p.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"{}\n",))
    writer.start()
    with InputFile.open(str(pipe)) as source:
        writer.join()
        assert list(source.records()) == list(source.records()) == [(1, b"{}\n")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_file_that_changes_during_a_pass(put: Put, name: str) -> None:
    """An edit in place during a pass, the length kept, ends it before a changed record is given."""
    line = b'"' + b"x" * 997 + b'"\n'
    path = put(name, b"prompt\n" + line * 2000)
    with InputFile.open(path) as source:
        found = source.records()
        next(found)
        with Path(path).open("r+b") as file:
            file.seek(-len(line) * 1000, os.SEEK_END)
            file.write(line.replace(b"x", b"y") * 1000)
        given: list[str] = []
        with pytest.raises(InputError, match=f"{name} was changed while it was being read"):
            given.extend(str(record) for _, record in found)
    assert len(given) < 1000
    assert not any("y" in record for record in given)


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


@pytest.mark.parametrize("content", [b",a,b\n0,1,2\n", b"a,b,\n1,2,\n", b",a,,b,\n0,1,x,2,\n"])
def test_columns_without_a_name_are_left_out(put: Put, content: bytes) -> None:
    """Case 43: pandas' index (a first column without a name) and a comma at each line's end do not
    make a file unreadable."""
    assert records(put("a.csv", content)) == [(2, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "no header"),
        (b"\n\n", 1, "no header"),
        (b",,\n1,2,3\n", 1, "no column of the header has a name"),
        (b"a,b,a\n1,2,3\n", 1, "names the column 'a' twice"),
        (b"id;prompt\n1;x\n", 1, "separated by semicolons or tabs"),
        (b"id\tprompt\n1\tx\n", 1, "separated by semicolons or tabs"),
        (b"\xff,b\n1,2\n", 1, "not valid UTF-8"),
        (b"a,b\n1\n", 2, "the header names 2 columns, here are 1"),
        (b"a,b\n1,2,3\n", 2, "the header names 2 columns, here are 3"),
        (b"a,b\n1,\xff\n", 2, "not valid UTF-8"),
        (b'a,b\n1,"x\n\xff\n"\n', 2, "not valid UTF-8"),
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


def test_a_very_wide_table() -> None:
    """Case 63: a header of 100,000 columns, and one of as many that are named twice, take no
    longer than their bytes."""
    names = ",".join(f"c{n}" for n in range(100_000))
    begun = time.process_time()
    ((_, record),) = csv_records(lines(io.BytesIO(f"{names}\n{names}\n".encode())))
    assert isinstance(record, dict)
    assert len(record) == 100_000
    ((_, problem),) = csv_records(lines(io.BytesIO(f"{names},{names}\n".encode())))
    assert "twice" in str(problem)
    assert time.process_time() - begun < 5


def test_a_quote_that_is_never_closed() -> None:
    """A record that swallows the file stops at the limit, with its line, instead of growing."""
    data = io.BytesIO(b'a\n1\n"' + b"x\n" * 100)
    (_, first), (line, problem), *_ = csv_records(lines(data), limit=50)
    assert first == {"a": "1"}
    assert line == 3
    assert "is a quote missing?" in problem
