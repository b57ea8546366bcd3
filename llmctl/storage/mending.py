"""A cache that a run can always have: a damaged file is replaced, and without a disk it is in
memory."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmctl.behind import Write
from llmctl.clock import Clock, SystemClock
from llmctl.errors import BusyError, DiskError, LlmctlError
from llmctl.protocols import CachedAnswer
from llmctl.storage.cache import SqliteCache
from llmctl.storage.cache_tables import cache_database
from llmctl.storage.files import disk
from llmctl.storage.memory import MemoryCache
from llmctl.storage.sqlite import DamagedError, NewerError

if sys.platform != "win32":
    import fcntl

Warn = Callable[[str], None]
"""Takes one sentence for the user."""

# The bytes on which every process that has a WAL database open keeps a shared lock: part of
# SQLite's file format (sqlite.org/fileformat2.html, "the lock-byte page"; SHARED_FIRST and
# SHARED_SIZE in its os.h).
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


class MendingCache:
    """The `CacheStore` at `path`. Opening it never fails.

    A damaged file, found at once or later, is set aside as `NAME.damaged-TIME` and a new one
    takes its place. Where there can be no file (its folder cannot be written, it belongs to a
    newer llmctl, it is damaged and another process still uses it) answers are kept in memory.
    `warn` is told each time. Getting and putting raise `DiskError` and `BusyError`: a disk that
    refuses in the middle of a run is not the cache's to excuse. `grown` is told now and then how
    many bytes the file has.
    """

    def __init__(
        self,
        path: Path,
        warn: Warn,
        clock: Clock | None = None,
        grown: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._grown = grown
        self._warn = warn
        self._clock = clock or SystemClock()
        self._inode: int | None = None
        self._store: SqliteCache | MemoryCache
        try:
            self._store = self._open()
        except DamagedError as error:
            self._store = self._replacement(error)
        except (DiskError, BusyError, NewerError) as error:
            self._store = self._spare(error)

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, however old, or None."""
        store = self._store
        try:
            return store.get(key)
        except DamagedError as error:
            self._mend(store, error)
            return None

    def get_all(self, keys: Sequence[str]) -> dict[str, CachedAnswer]:
        """The answers, however old, to those of the keys that have one."""
        store = self._store
        try:
            return store.get_all(keys)
        except DamagedError as error:
            self._mend(store, error)
            return {}

    def put(self, key: str, answer: CachedAnswer) -> Write[None]:
        """Keep the answer, instead of an older one; this process's claim to find it ends."""
        store = self._store
        kept: Write[None] = Write()

        def mended(error: BaseException | None) -> None:
            if isinstance(error, DamagedError):
                self._mend(store, error)
                self._store.put(key, answer).then(kept.end)
            else:
                kept.end(error)

        store.put(key, answer).then(mended)
        return kept

    def hurry(self) -> None:
        """Somebody waits now for what was put."""
        self._store.hurry()

    async def claim(self, key: str) -> bool:
        """True when this process is to find the answer; False while another one is at it."""
        store = self._store
        try:
            return await store.claim(key)
        except DamagedError as error:
            self._mend(store, error)
            return await self._store.claim(key)

    async def claim_all(self, keys: Sequence[str]) -> set[str]:
        """Claim what is neither kept nor being found out by another process, in one go."""
        store = self._store
        try:
            return await store.claim_all(keys)
        except DamagedError as error:
            self._mend(store, error)
            return await self._store.claim_all(keys)

    def release(self, key: str) -> None:
        """The process no longer tries to find the answer."""
        self._store.release(key)

    def beat(self) -> None:
        """The process still tries to find what it has claimed."""
        self._store.beat()

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._store.close()

    def _open(self) -> SqliteCache:
        self._inode = _inode(self._path)
        store = SqliteCache(cache_database(self._path), self._clock, self._grown)
        self._inode = _inode(self._path)
        return store

    def _mend(self, store: SqliteCache | MemoryCache, error: DamagedError) -> None:
        """Go on with another store, unless another task has seen to that."""
        if self._store is store:
            store.close()
            self._store = self._replacement(error)

    def _replacement(self, error: DamagedError) -> SqliteCache | MemoryCache:
        try:
            # Another process may have done it: then the path leads to a new file already.
            if self._inode is not None and self._inode == _inode(self._path):
                aside = set_aside(self._path, self._clock.wall())
                self._warn(
                    f"{self._path} is damaged ({error.__cause__ or error}): it was set aside as "
                    f"{aside.name}, and the run goes on with an empty cache"
                )
            return self._open()
        except (DiskError, BusyError, NewerError) as refusal:
            return self._spare(refusal)

    def _spare(self, error: LlmctlError) -> MemoryCache:
        self._warn(f"answers are not cached on disk in this run: {error}")
        return MemoryCache()


def set_aside(path: Path, now: float) -> Path:
    """Rename a database that is not open here, with its WAL, to a name that tells the time
    `now` (seconds since the epoch); gives that name.

    Raises `BusyError` while another process has it open: that one would remove the WAL of the
    new file, which has its old name, when it ends. Raises `DiskError` when it cannot be done.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    number, aside = 1, path.with_name(f"{path.name}.damaged-{moment}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{moment}-{number}")
    with disk("set aside", path), _alone(path):
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(f"{path.name}{ending}").rename(f"{aside}{ending}")
    return aside


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else has the database open while this lasts."""
    if sys.platform == "win32":
        yield  # there a file that is open cannot be renamed
        return
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except (BlockingIOError, PermissionError):
            raise BusyError(
                f"{path} is damaged and another llmctl still uses it; it is set aside when that "
                "one has ended"
            ) from None
        yield
    finally:
        os.close(fd)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
