"""Private, durable and locked files: 0600 in folders of 0700, under any umask."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from llmctl.errors import BusyError, DiskError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PAUSE = 0.001  # seconds between two tries to lock

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
    """The error for a failed operation: `what` completes "cannot …" (`write to`, `read`)."""
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


def gone(path: Path) -> DiskError:
    """The error for a file that was removed or replaced while it was in use."""
    return DiskError(
        f"{path} was removed or replaced during the run: nothing more is sent; put it back if you "
        "can, then run the same command again"
    )


def private_folder(path: Path) -> Path:
    """A folder of llmctl's own, made with its missing parents as 0700; one that exists is left as
    it is. Raises `DiskError` when it cannot be made or is no folder."""
    missing = [path]
    try:
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
    except OSError as error:
        refused = disk_error(error, "create the folder", path)
        others = "LLMCTL_STATE_DIR, LLMCTL_CACHE_DIR, LLMCTL_DATA_DIR, LLMCTL_CONFIG_DIR"
        raise DiskError(f"{refused.message} ({others} name other folders)") from error
    return path


def mend_folder(path: Path) -> bool:
    """Whether the folder is the user's, others could write into it, and it is 0700 from now on. One
    that is missing, or sticky as `/tmp` is, is left alone."""
    if sys.platform == "win32":
        return False
    try:
        status = path.stat()
        mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
        if not mine or status.st_mode & stat.S_ISVTX or not status.st_mode & 0o022:
            return False
        path.chmod(0o700)
    except OSError:
        return False
    return True


def open_private(
    path: str | os.PathLike[str], flags: int, *, private: bool = True
) -> tuple[int, bool]:
    """Open a file, creating it as 0600, or by the umask where it is not `private`, when it is
    missing; an existing one keeps its mode. Gives the descriptor and whether the file is new.
    Raises `OSError`."""
    mode = 0o600 if private else 0o666
    flags |= getattr(os, "O_BINARY", 0)
    while True:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # removed in between: create it after all
                return os.open(path, flags), False
            if os.path.islink(path):  # noqa: PTH114 - a dangling link is created through, not over
                return os.open(path, flags | os.O_CREAT, mode), True
            continue
        if private and sys.platform != "win32":
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


def pwrite_all(fd: int, data: bytes, at: int) -> int:
    """Write all of `data` to that place of the file; gives its length. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.pwrite(fd, rest, at + len(data) - len(rest)) :]
    return len(data)


_PART = ".llmctl-part"  # how the names of scratch folders end


def _scratch_start(target: Path) -> str:
    return f".{target.name[:100]}."


@contextlib.contextmanager
def _locked(folder: Path, *, otherwise: bool) -> Iterator[bool]:
    """Whether the folder is there, and no other process's, as long as the context is open;
    `otherwise` where the system cannot lock folders (Windows, NFS)."""
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            stack.callback(os.close, fd)
            own = try_lock(fd) and folder.exists()
        except FileNotFoundError:
            own = False
        except OSError:
            own = otherwise
        yield own


def sweep(path: Path) -> None:
    """Remove the scratch folders that killed processes have left beside the file, as far as the
    system allows. That of a living one is locked."""
    target = Path(os.path.realpath(path))
    for folder in target.parent.glob(f"{glob.escape(_scratch_start(target))}*{_PART}/"):
        with _locked(folder, otherwise=False) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder of 0700 beside the file, for what is to take its place; removed at the end, with
    those that killed processes have left. Raises `DiskError`, for an `OSError` in the block, too.
    """
    target = Path(os.path.realpath(path))
    with disk("write", path):
        sweep(target)
        while True:
            with (
                tempfile.TemporaryDirectory(
                    _PART, _scratch_start(target), target.parent, ignore_cleanup_errors=True
                ) as folder,
                _locked(Path(folder), otherwise=True) as own,
            ):
                if own:  # else a sweep came in between
                    yield Path(folder)
                    return


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, whole and durable, when the block ends well.

    When it does not, the old file stays as it was and nothing is left behind. A symbolic link
    stays one: the file it points to is replaced. Raises `DiskError`.
    """
    target = Path(os.path.realpath(path))
    with scratch(target) as folder:
        new = folder / "new"
        with os.fdopen(open_private(new, os.O_WRONLY)[0], "wb") as file:
            yield file
            file.flush()
            if sys.platform != "win32":
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        new.replace(target)
    sync_folder(target.parent)


def write_private(path: Path, data: bytes) -> None:
    """Replace the file's content by `data`, atomically and durably, as 0600. Raises `DiskError`."""
    with replacing(path) as file:
        file.write(data)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock the open file for this process alone, or `shared` with others that do so (not on
    Windows); False when another holds it.

    The lock goes with the descriptor, however the process ends. Raises `OSError`.
    """
    try:
        if sys.platform == "win32":
            # Far beyond any content: msvcrt locks bytes, and those would become unreadable.
            os.lseek(fd, 1 << 62, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def turn(fd: int, path: Path) -> Iterator[None]:
    """Hold the lock of the open file while the context is open; other processes wait for it, first
    come, first served. Raises `DiskError`; there is no such lock on Windows."""
    if sys.platform == "win32":
        raise DiskError(f"{path} cannot be shared between processes on Windows")
    with disk("lock", path):
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with disk("unlock", path):
            fcntl.flock(fd, fcntl.LOCK_UN)


class Span(io.RawIOBase):
    """The bytes of an open file from `start` to before `end` (None: its end), at a position of its
    own. `check` is called after every read from the disk."""

    def __init__(
        self,
        fd: int,
        start: int = 0,
        end: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._fd, self._at, self._end, self._check = fd, start, end, check

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As `RawIOBase.readinto`."""
        view = memoryview(buffer)
        size = len(view) if self._end is None else min(len(view), self._end - self._at)
        if sys.platform == "win32":
            os.lseek(self._fd, self._at, os.SEEK_SET)
            data = os.read(self._fd, size)
        else:
            data = os.pread(self._fd, size, self._at)
        view[: len(data)] = data
        self._at += len(data)
        self._check()
        return len(data)


@contextlib.contextmanager
def use_lock(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold a lock file beside the file: shared by those who use the file, and `alone` by one who
    puts another in its place.

    Unlike SQLite's own locks, which belong to a process, it belongs to a descriptor: users within
    one process count each. Waits while the file is replaced. Raises `DiskError`, and `BusyError`
    where who would be alone is not.
    """
    if sys.platform == "win32":
        yield  # there a file that is open cannot be replaced
        return
    lock = path.with_name(f"{path.name}.lock")
    with disk("lock", lock):
        fd = open_private(lock, os.O_RDWR)[0]
    try:
        with disk("lock", lock):
            if not alone:
                fcntl.flock(fd, fcntl.LOCK_SH)
            elif not try_lock(fd):
                raise BusyError(
                    f"another llmctl still uses {path}: run the same command again when that one "
                    "has ended"
                )
        yield
    finally:
        os.close(fd)


class LockedFile:
    """A file open for reading and appending, held by this process alone, or by a group of them."""

    def __init__(self, path: Path, fd: int, *, created: bool) -> None:
        self.path = path
        self.fd = fd
        self.created = created

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        advice: str = "wait until it has ended",
        private: bool = True,
        shared: bool = False,
    ) -> Self:
        """Open (or create as 0600, or by the umask where it is not `private`) and lock, `shared`
        with others that do so.

        Raises `BusyError` naming the file and the `advice` when another process holds it,
        `DiskError` when it cannot be opened.
        """
        while True:
            with disk("open", path), contextlib.ExitStack() as stack:
                fd, created = open_private(path, os.O_RDWR | os.O_APPEND, private=private)
                file = cls(path, fd, created=created)
                stack.enter_context(file)
                if not try_lock(fd, shared=shared):
                    raise BusyError(f"another llmctl holds {path}: {advice}")
                # Whoever held the lock may have replaced or removed the file meanwhile.
                if file._is_in_place():
                    stack.pop_all()
                    return file

    @classmethod
    def wait(cls, path: Path, seconds: float) -> Self:
        """As `open`, but waits so long for another process before it raises `BusyError`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls.open(path)
            except BusyError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    def relock(self, *, shared: bool) -> bool:
        """Share the lock from now on, or hold it alone; False when another process is in the way,
        and then it is lost. Others may have it in between. Raises `DiskError`."""
        with disk("lock", self.path):
            return try_lock(self.fd, shared=shared)

    def refresh(self) -> None:
        """Let the system look for what other machines wrote: file systems of a network do so when
        a file is opened. Raises `DiskError`."""
        with disk("open", self.path):
            os.close(os.open(self.path, os.O_RDONLY))

    def close(self) -> None:
        """Give the file and its lock back; again: nothing to do."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_in_place(self) -> None:
        """Raise `DiskError` when the file was removed, or another one has taken its place."""
        with disk("look at", self.path):
            if not self._is_in_place():
                raise gone(self.path)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.fd))
        except FileNotFoundError:
            return False

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
