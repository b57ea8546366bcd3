"""Where llmctl keeps things, and which files configure it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llmctl.config.settings import Folders
from llmctl.errors import ConfigError

CONFIG_FILE = "config.yaml"  # the user's own file, in the configuration folder
MAX_BYTES = 1_000_000  # of a configuration
STORE_KEY = "LLMCTL_STORE_KEY"
"""The variable that holds the secret of what is kept signed or encrypted."""

VARIABLES = tuple(
    f"LLMCTL_{name}"
    for name in (
        *("PROFILE", "MODEL", "CONFIG", "MAX_TOKENS", "TEMPERATURE", "CONCURRENCY", "RPM", "TPM"),
        "RPD",
        *("CONFIG_DIR", "STATE_DIR", "CACHE_DIR", "DATA_DIR", "KEYRING_PASSWORD"),
        "STORE_KEY",
        "PRICES_URL",
    )
)
"""All variables of the environment that are read; the README says what for."""


def home(environ: Mapping[str, str]) -> Path:
    """The user's home folder: `HOME`, or what the system says. Raises `ConfigError`."""
    named = Path(environ.get("HOME", ""))
    with suppress(RuntimeError):
        named = named if named.is_absolute() else Path.home()
    if named.is_absolute():
        return named
    raise ConfigError(
        "no home folder is known: set HOME, or LLMCTL_CONFIG_DIR, "
        "LLMCTL_STATE_DIR, LLMCTL_CACHE_DIR and LLMCTL_DATA_DIR"
    )


def named_path(written: str, file: Path, environ: Mapping[str, str]) -> Path:
    """The path that a configuration file names: in the home folder after `~/`, else relative to
    the file's own folder. Raises `ConfigError` when no home folder is known."""
    named = home(environ) / written[2:] if written.startswith("~/") else file.parent / written
    return Path(os.path.normpath(named))


def find_folders(environ: Mapping[str, str], cwd: Path) -> Folders:
    """The four folders; none is made or looked at.

    `LLMCTL_*_DIR` names one exactly (relative to `cwd`); otherwise each is `llmctl` under its
    `XDG_*_HOME` (a relative one does not count), or under XDG's default in the home folder; on
    Windows, where nobody has set HOME, the defaults are Windows' own.
    """

    def folder(kind: str, default: str) -> Path:
        if own := environ.get(f"LLMCTL_{kind}_DIR"):
            return cwd / own
        base = environ.get(f"XDG_{kind}_HOME", "")
        if Path(base).is_absolute():
            return Path(base) / "llmctl"
        if sys.platform == "win32" and not environ.get("HOME"):
            from platformdirs.windows import Windows

            windows = Windows("llmctl", appauthor=False)
            return Path(getattr(windows, f"user_{kind.lower()}_dir"))
        return home(environ) / default / "llmctl"

    return Folders(
        config=folder("CONFIG", ".config"),
        state=folder("STATE", ".local/state"),
        cache=folder("CACHE", ".cache"),
        data=folder("DATA", ".local/share"),
    )


def project_file(cwd: Path) -> Path | None:
    """The nearest `llmctl.yaml` from `cwd` upward to the repository's root, the folder with
    `.git`; outside a repository only `cwd` is looked at, for a parent may be anybody's."""
    folders = (cwd, *cwd.parents)
    root = next((n for n, folder in enumerate(folders) if os.path.lexists(folder / ".git")), 0)
    found = (folder / "llmctl.yaml" for folder in folders[: root + 1])
    return next((path for path in found if os.path.lexists(path)), None)


def read_file(path: Path) -> tuple[bytes, bool]:
    """What the file holds, and whether it is `foreign`: neither the user's nor root's, nor, where
    root is the user, that of who became root by sudo; the same of a link to it, as git's
    `safe.directory` has it. Raises `ConfigError`, also for pipes and devices, unopened."""
    if str(path) == os.devnull:
        return b"", False
    try:
        # Looked at before it is opened, which may block, and after, for it may be another by then.
        kinds = [path.stat().st_mode]
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            kinds.append(status.st_mode)
            if not all(map(stat.S_ISREG, kinds)):
                raise ConfigError(f"{path}: is no regular file, which a configuration must be")
            raw = file.read(MAX_BYTES + 1)
        owners = {status.st_uid, path.lstat().st_uid}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the name is not valid"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is too large for a configuration (over {MAX_BYTES} bytes)")
    if sys.platform == "win32":
        return raw, False
    trusted = {0, user := os.geteuid()}
    if user == 0 and (sudo := os.environ.get("SUDO_UID", "")).isdecimal():
        trusted.add(int(sudo))
    return raw, not owners <= trusted


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
