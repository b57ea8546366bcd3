"""Private, durable and locked files.

Files are 0600 and folders 0700 under any umask. Every `OSError` of a file becomes one sentence
that says what to do, in one place (`disk_error`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from llmctl.errors import BusyError, DiskError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the same command again",
    errno.EFBIG: "the file may not grow any more: raise the limit (`ulimit -f`) or write elsewhere",
    errno.EIO: "the disk reports a hardware error: check it, or write to another one",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "permission denied: check the owner and mode of the file and its folder",
    errno.EPERM: "permission denied by the system: check the owner and mode of the file",
    errno.ENOENT: "there is no such file or folder: create the folder first",
    errno.ENOTDIR: "a part of the path is not a folder: check the path",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENOLCK: "the file system cannot lock files: write to a local disk",
}


def disk_error(error: OSError, what: str, path: str | os.PathLike[str]) -> DiskError:
    """The error for a file operation that failed.

    `what` completes "cannot …" (`write to`, `read`); the sentence names the path and what to do.
    """
    reason = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, f"{reason}: check the disk and try again")
    return DiskError(f"cannot {what} {os.fspath(path)}: {advice}")


@contextlib.contextmanager
def disk(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every `OSError` in the block into the `DiskError` of `disk_error`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what, path) from error


def private_folder(path: Path) -> Path:
    """The folder, made with its missing parents as 0700; one that exists is left as it is.

    Raises `DiskError` when it cannot be made or is no folder.
    """
    with disk("create the folder", path):
        missing = [path]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for folder in reversed(missing):
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            else:
                folder.chmod(0o700)  # a umask may have taken the owner's own rights
    return path


def open_private(path: str | os.PathLike[str], flags: int) -> tuple[int, bool]:
    """Open a file, creating it as 0600 when it is missing.

    Gives the descriptor and whether the file is new. An existing file keeps its mode.
    Raises `OSError`: the caller knows what it was about to do.
    """
    flags |= getattr(os, "O_BINARY", 0)
    while True:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # removed in between: create it after all
                return os.open(path, flags), False
            if os.path.islink(path):  # noqa: PTH114 - a dangling link is created through, not over
                return os.open(path, flags | os.O_CREAT, 0o600), True
            continue
        if sys.platform != "win32":
            os.fchmod(fd, 0o600)
        return fd, True


def sync_file(fd: int) -> None:
    """Return when the file's data has reached the disk. Raises `OSError`, after which what the
    file holds is unknown: trying again would report success without having written."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync leaves the data in the drive's own cache there
    elif sys.platform == "win32":
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def sync_folder(path: Path) -> None:
    """Make the folder's entries (a file created, renamed, removed) durable."""
    if sys.platform == "win32":
        return  # no such call there; NTFS journals its entries
    with disk("sync the folder", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however small the pieces the system takes. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, whole and durable, when the block ends well.

    When it does not, the old file stays as it was and nothing is left behind. A symbolic link
    stays one: the file it points to is replaced. Raises `DiskError`.
    """
    target = Path(os.path.realpath(path))
    with disk("write", path):
        fd, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                if sys.platform != "win32":
                    os.fchmod(fd, mode)
                os.fsync(fd)
            os.replace(temporary, target)  # noqa: PTH105 - beside mkstemp's own text path
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
    sync_folder(target.parent)


def write_private(path: Path, data: bytes) -> None:
    """Replace the file's content by `data`, atomically and durably, as 0600. Raises `DiskError`."""
    with replacing(path) as file:
        file.write(data)


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


class _Descriptor:
    """An open file that is closed once, and by `with`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Give the file and its lock back; again: nothing to do."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UseLock(_Descriptor):
    """A lock file beside a file: shared by the processes that use the file, so that one that has
    it alone may put another file in its place.

    Unlike SQLite's own locks (POSIX), which belong to a process, these belong to a descriptor:
    other users within this process count, and closing one does not end the lock of another.
    """

    @classmethod
    def shared(cls, path: Path) -> Self:
        """Use the file; waits while another process replaces it. Raises `DiskError`."""
        return cls._open(path, exclusive=False)

    @classmethod
    def exclusive(cls, path: Path) -> Self:
        """Replace the file. Raises `BusyError` while anybody uses it, and `DiskError`."""
        return cls._open(path, exclusive=True)

    @classmethod
    def _open(cls, path: Path, *, exclusive: bool) -> Self:
        if sys.platform == "win32":
            return cls(-1)  # there a file that is open cannot be replaced
        lock = path.with_name(f"{path.name}.lock")
        with disk("lock", lock), contextlib.ExitStack() as stack:
            file = cls(open_private(lock, os.O_RDWR)[0])
            stack.enter_context(file)
            try:
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
            except BlockingIOError:
                raise BusyError(
                    f"another llmctl still uses {path}: run the same command again when that one "
                    "has ended"
                ) from None
            stack.pop_all()
        return file


class LockedFile(_Descriptor):
    """A file open for reading and appending, held by this process alone."""

    def __init__(self, path: Path, fd: int, *, created: bool) -> None:
        super().__init__(fd)
        self.path = path
        self.created = created

    @classmethod
    def open(cls, path: Path, *, advice: str = "wait until it has ended") -> Self:
        """Open (or create as 0600) and lock.

        Raises `BusyError` naming the file and the `advice` when another process holds it,
        `DiskError` when it cannot be opened.
        """
        while True:
            with disk("open", path), contextlib.ExitStack() as stack:
                fd, created = open_private(path, os.O_RDWR | os.O_APPEND)
                file = cls(path, fd, created=created)
                stack.enter_context(file)
                if not try_lock(fd):
                    raise BusyError(f"another llmctl holds {path}: {advice}")
                # Whoever held the lock may have replaced or removed the file meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(path.stat(), os.fstat(fd)):
                        stack.pop_all()
                        return file

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
