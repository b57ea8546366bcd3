"""Reading an OUTPUT that exists: which answers it holds, and mending its torn end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
from msgspec import Struct

from llmctl.batch.index import Index
from llmctl.batch.lines import MAX_LINE
from llmctl.errors import InputError
from llmctl.storage.files import disk, sync_file, write_all
from llmctl.storage.lock import LockedFile

Format = Literal["llmctl", "openai"]

OPENAI_ID = "batch_req_"
"""What OpenAI's batch line ids begin with; ours go on with the request hash, for resuming."""

_START = b'{"id":'
_LIMIT = 4 * MAX_LINE  # an answer holds the provider's body, and its text once more


class Answers(Struct, frozen=True):
    """What an OUTPUT holds: its answers by id, each with the byte its line begins at, and what
    was cut off its end (bytes, 0 when it was whole)."""

    index: Index
    torn: int


def scan(output: LockedFile, format: Format) -> Answers:
    """Read the output through, and mend its end.

    A last line that was not written to its end is cut off; one that only lacks its line feed
    gets it. Raises `InputError` naming the line for any other damage and for rows of another
    format, `DiskError` when the file cannot be read or mended.
    """
    index = Index()
    try:
        with disk("read", output.path), output.reader() as reader:
            torn = _read(reader, output.path, format, index)
            if torn:
                output.truncate(output.size - torn)
            elif output.size and not _ends_a_line(reader):
                # No object is the beginning of another: the answer is whole, and paid for.
                with disk("write to", output.path):
                    write_all(output.fd, b"\n")
                    sync_file(output.fd)
    except BaseException:
        index.close()
        raise
    return Answers(index, torn)


@contextmanager
def scan_only(path: Path, format: Format) -> Iterator[Index]:
    """The answers in an output, as `scan` finds them, without writing to it: a torn last line
    is no answer. Raises as `scan` does."""
    with Index() as index:
        with disk("read", path), path.open("rb", buffering=1 << 17) as reader:
            _read(reader, path, format, index)
        yield index


def _ends_a_line(reader: BinaryIO) -> bool:
    reader.seek(-1, os.SEEK_END)
    return reader.read(1) == b"\n"


def _read(reader: BinaryIO, path: Path, format: Format, index: Index) -> int:
    """Fill the index; gives the bytes of a torn last line."""
    identify, add, readline = _IDENTIFY[format], index.add, reader.readline
    offset = number = 0
    while line := readline(_LIMIT):
        number += 1
        try:
            name, fingerprint = identify(orjson.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            if not line.isspace():
                if _torn(line, error) and not reader.read(1):
                    return len(line)
                raise InputError(_complaint(path, number, line, format)) from error
        else:
            add(name, fingerprint, offset)
        offset += len(line)
    return 0


def _torn(line: bytes, error: Exception) -> bool:
    """Whether a last line is what an interrupted write leaves: the beginning of a row of ours,
    or zeros. Anything else may be a file that was named by mistake, and is not ours to cut."""
    if not isinstance(error, orjson.JSONDecodeError):
        return False
    return line[: len(_START)] == _START[: len(line)] or not line.strip(b"\0\n")


def _llmctl(row: Any) -> tuple[str, bytes]:
    name, digest = row["id"], row["request_hash"]
    if type(name) is not str or "text" not in row or len(digest) != 64:
        raise KeyError
    return name, bytes.fromhex(digest[:32])


def _openai(row: Any) -> tuple[str, bytes]:
    name, digest = row["custom_id"], row["id"]
    start = len(OPENAI_ID)
    if type(name) is not str or not row["response"] or len(digest) != start + 64:
        raise KeyError
    return name, bytes.fromhex(digest[start : start + 32])


_IDENTIFY: dict[Format, Callable[[Any], tuple[str, bytes]]] = {"llmctl": _llmctl, "openai": _openai}


def _complaint(path: Path, number: int, line: bytes, format: Format) -> str:
    """Why a line cannot be an answer, and what to do."""
    where = f"{path}:{number}"
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return (
            f"{where}: damaged ({error.msg}): nothing was sent; remove or mend that line, "
            "or start over with --restart"
        )
    other: Format = "openai" if format == "llmctl" else "llmctl"
    try:
        _IDENTIFY[other](row)
    except (KeyError, TypeError, ValueError):
        return (
            f"{where}: not an answer that llmctl wrote: nothing was sent; name another output "
            "with -o, or throw the file's content away with --restart"
        )
    return (
        f"{where}: written with --format {other}: nothing was sent; use that format again, "
        "or name another output with -o"
    )
