"""Reading the output of an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.answers import Answers, Format, scan
from llmctl.batch.records import record
from llmctl.errors import InputError, ServerFailed
from llmctl.storage.lock import LockedFile
from llmctl.types import CallRecord

Ended = Callable[..., CallRecord]
FORMATS: tuple[Format, ...] = ("llmctl", "openai")


def read(path: Path, format: Format = "llmctl") -> tuple[int, int]:
    """How many answers the file holds, and how many bytes were cut off."""
    with LockedFile.open(path) as output:
        answers: Answers = scan(output, format)
        with answers.index:
            return answers.index.size, answers.torn


def lines(ended: Ended, format: Format) -> list[bytes]:
    """Three answers as lines."""
    return [record(ended(x, prompt="é \u2028", body=b'{"a":1}'), format) for x in "abc"]


@pytest.mark.parametrize("format", FORMATS)
def test_torn_anywhere(tmp_path: Path, ended: Ended, format: Format) -> None:
    """Wherever the last line was torn, the file is mended to whole lines and reads clean again;
    an answer that is whole but for its line feed is kept."""
    path = tmp_path / "out.jsonl"
    *before, last = lines(ended, format)
    whole = b"".join(before)
    for length in range(len(last) + 1):
        path.write_bytes(whole + last[:length])
        kept = length >= len(last) - 1
        assert read(path, format) == ((3, 0) if kept else (2, length)), length
        assert path.read_bytes() == (whole + last if kept else whole)
        assert read(path, format) == (3 if kept else 2, 0)


def test_other_torn_ends(tmp_path: Path, ended: Ended) -> None:
    """Zeros that a crash left at the end are cut off, and so is half a row with a line feed."""
    path = tmp_path / "out.jsonl"
    *before, last = lines(ended, "llmctl")
    for tail in (b"\0" * 5000, last[:50] + b"\n", b"\0\n"):
        path.write_bytes(b"".join(before) + tail)
        assert read(path) == (2, len(tail))
        assert path.read_bytes() == b"".join(before)


def test_blank_lines(tmp_path: Path, ended: Ended) -> None:
    """Blank lines between the answers mean nothing."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"\n".join(lines(ended, "llmctl")) + b"\n \n")
    assert read(path) == (3, 0)


@pytest.mark.parametrize("damage", [b"{\n", b"\0\0\n", b'{"id":"a","text"\n', b"\xff\n", b"[\n"])
def test_damage_in_the_middle(tmp_path: Path, ended: Ended, damage: bytes) -> None:
    """Damage before the last line stops the run with its line number, and nothing is changed."""
    path = tmp_path / "out.jsonl"
    one, two, three = lines(ended, "llmctl")
    content = one + two + damage + three
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"out\.jsonl:3: damaged .* --restart"):
        read(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"notes",
        b"notes\n",
        b"{}",
        b'{"id":"a"}\n',
        b"[1]\n",
        b"5\n",
        b'{"a": 1',
        b'{"id":5,"text":"","request_hash":"' + b"0" * 64 + b'"}\n',
        b'{"id":"a","text":"","request_hash":"xy"}\n',
    ],
)
def test_somebody_elses_file(tmp_path: Path, content: bytes) -> None:
    """A file that llmctl did not write is never cut or continued."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"out\.jsonl:1: "):
        read(path)
    assert path.read_bytes() == content


def test_an_errors_file(tmp_path: Path, ended: Ended) -> None:
    """A file of error rows is not taken for answers."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(ended(error=ServerFailed("x")), "llmctl"))
    with pytest.raises(InputError, match="not an answer"):
        read(path)


@pytest.mark.parametrize(("has", "wants"), [FORMATS, FORMATS[::-1]])
def test_the_other_format(tmp_path: Path, ended: Ended, has: Format, wants: Format) -> None:
    """An output of one format is not continued in the other: the message names both ways out."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"".join(lines(ended, has)))
    with pytest.raises(InputError, match=f"out.jsonl:1: written with --format {has}"):
        read(path, wants)


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    start: bool,  # noqa: FBT001
) -> None:
    """Whatever a file holds, it is read, mended or refused, and reads the same again."""
    path = tmp_path_factory.mktemp("any") / "out.jsonl"
    path.write_bytes(b'{"id":' + data if start else data)
    try:
        first = read(path)
    except InputError:
        return
    assert read(path) == (first[0], 0)
