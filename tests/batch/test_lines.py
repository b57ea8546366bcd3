"""Lines of a byte stream."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.lines import Problem, lines
from llmctl.batch.read import Record, Source
from llmctl.errors import InputError


class Dribble(io.RawIOBase):
    """A file that gives what it has in pieces of the sizes it is told."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = iter(sizes)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """The next piece."""
        size = min(next(self._sizes, 7), len(buffer))
        piece, self._data = self._data[:size], self._data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def text_of(found: list[tuple[int, bytes | Problem]]) -> bytes:
    """The lines put together again."""
    return b"".join(line for _, line in found if isinstance(line, bytes))


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=40))
def test_pieces_do_not_matter(data: bytes, sizes: list[int]) -> None:
    """However a stream is cut into pieces, its lines are the same, numbered from 1."""
    stream = io.BufferedReader(Dribble(data, sizes), 16)  # type: ignore[type-var]
    found = list(lines(stream))
    assert found == list(lines(io.BytesIO(data)))
    assert [number for number, _ in found] == list(range(1, len(found) + 1))


@given(st.binary(max_size=300))
def test_nothing_is_lost_but_the_mark(data: bytes) -> None:
    """The lines together are the stream without its mark, and only a line feed ends one."""
    found = list(lines(io.BytesIO(data)))
    bare = data.removeprefix(b"\xef\xbb\xbf")
    assert text_of(found) in (bare, bare + b"\n")
    assert all(b"\n" not in line[:-1] for _, line in found if isinstance(line, bytes))


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_long_lines_are_problems_of_their_own(lengths: list[int], limit: int) -> None:
    """A line over the limit is reported by its number, and the lines around it are read."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    found = list(lines(io.BytesIO(data), limit))
    assert [number for number, _ in found] == list(range(1, len(lengths) + 1))
    assert [isinstance(line, Problem) for _, line in found] == [n > limit for n in lengths]


def test_sixty_four_mebibytes(tmp_path: Path) -> None:
    """A line of 64 MiB is read; one byte more is a problem that says so; the next line is fine."""
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        for size in (64 << 20, (64 << 20) + 1):
            file.write(b"x" * size + b"\n")
        file.write(b"{}\n")
    with Source.open(str(path)) as source:
        sizes: list[int] = []
        problems: list[str] = []
        for _, data in source.records():
            if isinstance(data, str):
                problems.append(data)
            else:
                sizes.append(len(data))
    assert sizes == [(64 << 20) + 1, 3]
    assert len(problems) == 1
    assert "longer than 64 MiB" in problems[0]


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.csv"]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    """Whatever a file holds, reading it gives records and problems, and never fails."""
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    with Source.open(str(path)) as source:
        list(source.records())


def records(path: str) -> list[Record]:
    """The file's records, the same at both readings."""
    with Source.open(path) as source:
        once = list(source.records())
        assert list(source.records()) == once, "a source is read twice"
        return once


def test_gzip(put: Callable[[str, bytes], str]) -> None:
    """A compressed file is read like a plain one."""
    assert records(put("a.jsonl.gz", gzip.compress(b"{}\r\n\n{}"))) == [(1, b"{}\r\n"), (3, b"{}")]


def test_gzip_cut_off_anywhere(put: Callable[[str, bytes], str]) -> None:
    """Wherever a compressed file is cut off, the last thing reported is that, with its line."""
    whole = gzip.compress(b'{"prompt": "one"}\n{"prompt": "two"}\n' * 3)
    for length in range(1, len(whole)):
        *before, (line, problem) = records(put("a.jsonl.gz", whole[:length]))
        assert isinstance(problem, Problem), length
        assert "compressed data" in problem
        assert line == len(before) + 1


def test_gzip_damaged_anywhere(put: Callable[[str, bytes], str]) -> None:
    """A flipped byte in a compressed file is at most a problem, never a crash."""
    whole = gzip.compress(b'{"prompt": "one"}\n{"prompt": "two"}\n' * 3)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        records(put("a.jsonl.gz", bytes(damaged)))


def test_not_gzip(put: Callable[[str, bytes], str]) -> None:
    """A file that is only called .gz is reported at its first line."""
    [(line, problem)] = records(put("a.jsonl.gz", b'{"prompt": "x"}\n'))
    assert line == 1
    assert isinstance(problem, Problem)
    assert "damaged" in problem


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.jsonl", "there is no file"),
        ("rows.txt", "INPUT is .jsonl, .jsonl.gz, .csv, or -"),
        ("rows.gz", "INPUT is .jsonl, .jsonl.gz, .csv, or -"),
        (".", "is a folder"),
        ("nul\0.jsonl", "cannot read"),
    ],
)
def test_what_cannot_be_opened(
    put: Callable[[str, bytes], str], tmp_path: Path, name: str, says: str
) -> None:
    """An input that cannot serve is refused in one sentence, exit code 2."""
    put("rows.txt", b"")
    put("rows.gz", b"")
    with pytest.raises(InputError, match=says) as caught:
        Source.open(str(tmp_path / name))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_stdin_is_read_twice() -> None:
    """`-` is stdin, kept in a file without a name so that it can be read again."""
    with Source.open("-", io.BytesIO(b"\xef\xbb\xbf{}\n\n[]")) as source:
        assert source.name == "stdin"
        assert list(source.records()) == [(1, b"{}\n"), (3, b"[]")]
        assert list(source.records()) == [(1, b"{}\n"), (3, b"[]")]


def test_a_pipe_with_a_name(tmp_path: Path) -> None:
    """A named pipe is copied like stdin."""
    import os
    import threading

    pipe = tmp_path / "p.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"{}\n",))
    writer.start()
    with Source.open(str(pipe)) as source:
        writer.join()
        assert list(source.records()) == list(source.records()) == [(1, b"{}\n")]


def test_a_file_that_changes(put: Callable[[str, bytes], str]) -> None:
    """A file that changed between its two readings is refused: it is not what was checked."""
    path = put("a.jsonl", b"{}\n")
    with Source.open(path) as source:
        list(source.records())
        with Path(path).open("ab") as file:
            file.write(b"{}\n")
        with pytest.raises(InputError, match="was changed"):
            source.records()
