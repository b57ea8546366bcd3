"""Files of environment variables (`.env`): a line each, `NAME=VALUE`."""

from __future__ import annotations

import re
from pathlib import Path

from llmctl.config.paths import read_file
from llmctl.errors import ConfigError

_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*"""
    r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^'"\s#](?:[^#]|(?<!\s)\#)*)?)"""
    r"""\s*(?:(?:^|\s)\#.*)?"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of the file: quotes, escapes within double ones, `export` and comments are as
    in a shell, and nothing is substituted. Raises `ConfigError` that names the line, never its
    value."""
    raw, foreign = read_file(path)
    if foreign:
        raise ConfigError(f"{path}: belongs to another user; its variables are not used")
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
