"""A file that one process holds: the lock is on the file itself, and ends with the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO, Self

from llmctl.errors import BusyError
from llmctl.storage.files import disk, open_private

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(fd: int) -> bool:
    """Lock the open file for this process alone; False when another holds it.

    The lock goes with the descriptor, however the process ends. Raises `OSError`.
    """
    try:
        if sys.platform == "win32":
            # Far beyond any content: msvcrt locks bytes, and those would become unreadable.
            os.lseek(fd, 1 << 62, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


class LockedFile:
    """A file open for reading and appending, held by this process alone."""

    def __init__(self, path: Path, fd: int, *, created: bool) -> None:
        self.path = path
        self.fd = fd
        self.created = created

    @classmethod
    def open(cls, path: Path, *, advice: str = "wait until it has ended") -> Self:
        """Open (or create as 0600) and lock.

        Raises `BusyError` naming the file and the `advice` when another process holds it,
        `DiskError` when it cannot be opened.
        """
        while True:
            with disk("open", path):
                fd, created = open_private(path, os.O_RDWR | os.O_APPEND)
                file = cls(path, fd, created=created)
                try:
                    held = try_lock(fd)
                    # Whoever held the lock may have replaced or removed the file meanwhile.
                    current = _names(path, fd)
                except BaseException:
                    file.close()
                    raise
            if held and current:
                return file
            file.close()
            if not held:
                raise BusyError(f"another llmctl holds {path}: {advice}")

    @property
    def size(self) -> int:
        """The file's length in bytes. Raises `DiskError`."""
        with disk("read", self.path):
            return os.fstat(self.fd).st_size

    def reader(self) -> BinaryIO:
        """The file from its start; closing the reader keeps the lock."""
        with disk("read", self.path):
            os.lseek(self.fd, 0, os.SEEK_SET)
            return os.fdopen(self.fd, "rb", buffering=1 << 17, closefd=False)

    def truncate(self, length: int) -> None:
        """Cut the file to `length` bytes, durably. Raises `DiskError`."""
        with disk("cut", self.path):
            os.ftruncate(self.fd, length)
            os.fsync(self.fd)

    def leave_no_trace(self) -> None:
        """Remove the file if opening it created it and nothing was written since."""
        with disk("remove", self.path):
            if self.created and os.fstat(self.fd).st_size == 0:
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back; again: nothing to do."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _names(path: Path, fd: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
