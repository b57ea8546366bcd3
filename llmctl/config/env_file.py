"""Files of environment variables (`.env`): a line each, `NAME=VALUE`."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from llmctl.config.paths import read_file
from llmctl.config.settings import Profile
from llmctl.errors import ConfigError

_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*"""
    r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^'"\s#](?:[^#]|(?<!\s)\#)*)?)"""
    r"""\s*(?:(?:^|\s)\#.*)?"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def variables_of(profile: Profile, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, over the variables of the profile's own file. Raises `ConfigError`."""
    file = profile.env_file
    if file is None:
        return environ
    told = "write `env_file: {path: …, shared: true}`"
    return {**read_env_file(file.path, told, shared=file.shared), **environ}


def read_env_file(path: Path, told: str, *, shared: bool = False) -> dict[str, str]:
    """The variables of the file: quotes, escapes within double ones, `export` and comments are as
    in a shell, and nothing is substituted.

    One that others can read is refused unless it is `shared`; `told` says how the user says so.
    Raises `ConfigError` that names the line, never its value.
    """
    raw, foreign = read_file(path)
    if foreign:
        raise ConfigError(f"{path}: belongs to another user; its variables are not used")
    _check_modes(path, told, shared=shared)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"{path}:{number}: is no NAME=VALUE; put quotes around the value")
        single, double, bare = match["single"], match["double"], match["bare"]
        if double is not None:
            double = re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), double)
        quoted = (value for value in (single, double) if value is not None)
        found[match["name"]] = next(quoted, (bare or "").strip())
    return found


def _check_modes(path: Path, told: str, *, shared: bool) -> None:
    """Raises `ConfigError` for a file that others can read or change."""
    if sys.platform == "win32":
        return
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError as error:  # removed meanwhile
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_ISREG(file.st_mode) and file.st_mode & (0o022 if shared else 0o077):
        what = "change" if file.st_mode & 0o022 else "read"
        more = "" if shared or what == "change" else f", or {told} to use it all the same"
        raise ConfigError(f"{path}: others can {what} it; `chmod 600 {path}`{more}")
    # Not by its group: that is the user's own on many systems. Where a folder is sticky, as /tmp
    # is, nobody else can put another file in the place of this one.
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise ConfigError(
            f"{path}: everybody can put another file in its place; `chmod o-w {path.parent}`"
        )
