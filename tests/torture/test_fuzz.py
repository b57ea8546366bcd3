"""The input lines of T13 that have a name; `fuzz` makes the others."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from llmctl.batch.input import MAX_LINE, InputFile, Problem, lines
from llmctl.batch.rows import RowError
from llmctl.batch.rows import RowReader as Rows


@pytest.mark.parametrize(
    "row",
    [
        b'{"prompt": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"options": {"a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_002,
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
    ],
    ids=["NaN", "Infinity", "100,000 lists", "100,000 objects", "no UTF-8", "half a character"],
)
def test_the_named_lines(row: bytes) -> None:
    """What is no row is one sentence about that row."""
    with pytest.raises(RowError) as caught:
        Rows().parse((1, row))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_longest_line(tmp_path: Path) -> None:
    """A line of 64 MiB is a row; a longer one is a problem, and the next one is read."""
    path = tmp_path / "long.jsonl"
    frame = len(b'{"prompt": ""}\n')
    with path.open("wb") as file:
        for size in (MAX_LINE - frame, MAX_LINE + 1):
            file.write(b'{"prompt": "' + b"x" * size + b'"}\n')
        file.write(b'{"prompt": "y"}\n')
    with path.open("rb") as file:
        (_, first), (_, second), (number, third) = lines(file)
    assert not isinstance(first, Problem)
    assert len(orjson.loads(first)["prompt"]) == MAX_LINE - frame
    assert isinstance(second, Problem)
    assert (number, third) == (3, b'{"prompt": "y"}\n')


def test_a_line_separator_ends_no_line(tmp_path: Path) -> None:
    """U+2028, and a lone CR, are part of their row."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"prompt": "a\u2028b"}\r\n\n{"prompt": "c"}'.encode())
    with InputFile.open(str(path)) as source:
        found = [Rows().parse(record) for record in source.records()]
    assert [(row.id, row.question.messages[-1].content) for row in found] == [
        ("1", "a\u2028b"),
        ("3", "c"),
    ]
