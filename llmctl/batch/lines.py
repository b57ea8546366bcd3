"""Lines of a byte stream, split on the line feed only, each of bounded length."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator

MAX_LINE = 64 << 20
"""Bytes a record may have: far above any prompt, far below the memory of a small machine."""

_BUFFER = 1 << 17
_BOM = b"\xef\xbb\xbf"


class Problem(str):
    """What is wrong with a record: a sentence without the file's name and line."""

    __slots__ = ()


def lines(
    stream: io.BufferedIOBase, limit: int = MAX_LINE
) -> Iterator[tuple[int, bytes | Problem]]:
    """The stream's lines with their 1-based numbers, without a byte order mark.

    A line keeps its end. A longer line than `limit` is a `Problem` (and skipped); so is damage
    to compressed data or a failing disk, after which nothing can follow.
    """
    number = 0
    readline = stream.readline
    try:
        line = readline(limit + 1)
        if line.startswith(_BOM):
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


def buffered(fd: int, *, zipped: bool) -> io.BufferedIOBase:
    """The open file, unzipped where it is zipped, behind a buffer that is fast to split.

    Closing (or losing) the reader leaves the descriptor open.
    """
    plain = io.BufferedReader(io.FileIO(fd, closefd=False), _BUFFER)
    if not zipped:
        return plain
    return io.BufferedReader(gzip.GzipFile(fileobj=plain, mode="rb"), _BUFFER)
