"""A profile's key: found in the environment, never shown.

Which variable holds it is the profile's to say: configuration gives a profile the variable of
its preset only at the preset's own origin, so no key is sent elsewhere by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmctl.errors import NoKeyError
from llmctl.settings import Profile


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key and where it was found (`$NAME`). Printing it shows only the latter."""

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Key([key] from {self.source})"


def find(profile: Profile, environ: Mapping[str, str]) -> Key | None:
    """The profile's key; None when it names no variable, or the variable is unset or empty.

    Raises `NoKeyError`, without showing the key, when it cannot be one.
    """
    if profile.key is None:
        return None
    name = profile.key.env
    # `export KEY="$(cat file)"` is clean, but a secret mounted as a file often ends its line
    value = environ.get(name, "").rstrip("\r\n")
    if not value:
        return None
    if wrong := _wrong(value):
        raise NoKeyError(f"the key in ${name} {wrong}; set {name} again to the key alone")
    return Key(value, f"${name}")


def require(profile: Profile, environ: Mapping[str, str]) -> Key | None:
    """The profile's key; None only for a server that is called without one.

    Raises `NoKeyError` naming the variable that should hold it.
    """
    if profile.key is None:
        return None
    key = find(profile, environ)
    if key is None:
        name = profile.key.env
        state = "empty" if name in environ else "not set"
        raise NoKeyError(
            f"no key for the profile {profile.name}: ${name} is {state}; set it with "
            f"`export {name}=…`, or choose another profile with -p"
        )
    return key


def _wrong(value: str) -> str | None:
    if value != value.strip():
        return "begins or ends with white space"
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):  # C0, DEL, C1
        return "holds a line break or another control character"
    if any(ord(c) > 0xFF for c in value):  # a header is Latin-1
        return "holds a character that no HTTP header can carry"
    if value[0] in "\"'" and value[-1] == value[0]:
        return "is in quotation marks"
    return None
