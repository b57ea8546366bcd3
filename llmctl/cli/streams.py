"""Standard streams of the process: always open, in UTF-8, and what happens when they fail."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from time import monotonic

TYPE_CHECKING = False  # not typing's, as in app.py
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SIGPIPE = 141  # exit code of a program whose reader has gone: 128 + the signal's number
_PATIENCE = 1.0  # seconds without input after which a person is told what is waited for


class Stdout(io.FileIO):
    """File descriptor 1. What fails to be written raises once; what comes later is dropped.

    Attributes:
        failure: `BrokenPipeError` when the reader has gone, `DiskError` for all else.

    """

    failure: Exception | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, and wait for the reader of a pipe that somebody made non-blocking."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except BrokenPipeError as error:
            self.failure = error
            raise
        except OSError as error:
            from llmctl.errors import DiskError

            self.failure = DiskError(
                f"stdout cannot be written ({error.strerror}); send the output to another place"
            )
            raise self.failure from error
        else:
            return count
        finally:
            if self.failure is not None:
                # Python flushes once more when it ends, and would complain then.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


class _Stderr(io.FileIO):
    """File descriptor 2. A note that cannot be written is lost: it must not end a run."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            return memoryview(data).nbytes
        return count


def open_streams() -> Stdout:
    """Replace `sys.stdout` and `sys.stderr`; gives what stands below stdout.

    A descriptor that is closed is opened first, so that no file of ours gets its number: stdout
    then fails at the first write.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    stdout, stderr = Stdout(1, "wb", closefd=False), _Stderr(2, "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(stdout), "utf-8", errors="replace", line_buffering=stdout.isatty()
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(stderr), "utf-8", errors="backslashreplace", line_buffering=True
    )
    return stdout


def require_stream(number: int, name: str) -> None:
    """Raises `DiskError` when stdout or stderr was closed by whoever started the program."""
    import fcntl

    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        from llmctl.errors import DiskError

        raise DiskError(f"{name} is closed, nothing was sent: direct it to a file, or to /dev/null")


def stdin_pieces(note: str) -> Iterator[bytes]:
    """All of stdin; `note` is printed once on stderr when the end is not there after a second.

    Raises `OSError`.
    """
    late = monotonic() + _PATIENCE
    while True:
        if note and note_slow_stdin(note, max(0.0, late - monotonic())):
            note = ""
        piece = os.read(0, 1 << 20)
        if not piece:
            return
        yield piece


def note_slow_stdin(note: str, patience: float = _PATIENCE) -> bool:
    """Print the note when stdin has nothing to read after `patience` seconds; whether it did."""
    from llmctl.cli.output import say

    if sys.stdin is None or select.select([0], [], [], patience)[0]:
        return False
    say(note)
    return True
