"""What a key is, what cannot be one, and to which place of the keyring it belongs."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from llmctl.config.settings import Profile
from llmctl.types import Target

_SHOWN = 4
_LONG_ENOUGH = 12
"""Characters a key must have before four of them may be shown: a third is the most."""


class Key(Struct, frozen=True):
    """A key and where it was found (`$NAME`, `keyring`, `command`). `role` is `primary` or
    `previous` for a stored one; `created` Unix seconds, None when nobody knows. Printing a key
    shows only where it was found."""

    value: str
    source: str
    role: str = "primary"
    created: float | None = None

    def __repr__(self) -> str:
        return f"Key([key] from {self.source})"


class Slot(NamedTuple):
    """Where a key is stored: under its name and its origin (scheme, host and port). A key of
    one origin cannot be found from another."""

    name: str
    origin: str

    @property
    def where(self) -> str:
        """The origin as people write it, without a port that goes without saying."""
        for scheme, port in (("https", ":443"), ("http", ":80")):
            if self.origin.startswith(f"{scheme}://") and self.origin.endswith(port):
                return self.origin.removesuffix(port)
        return self.origin


def origin(profile: Profile) -> str:
    """Scheme, host and port of the profile's address."""
    return Target("", "", "", profile.base_url, "").origin


def slot(profile: Profile) -> Slot:
    """The place of the profile's stored key: the name it gives, or else its own."""
    name = profile.key.keyring if profile.key and profile.key.keyring else profile.name
    return Slot(name, origin(profile))


def ending(value: str) -> str:
    """The last four characters, to tell keys apart; of a short key only dots."""
    return f"…{value[-_SHOWN:]}" if len(value) >= _LONG_ENOUGH else "…"


def trimmed(value: str) -> str:
    """The key without the line end that files and commands add to it."""
    return value.rstrip("\r\n")


def wrong(value: str) -> str | None:
    """Why this cannot be a key, as the end of a sentence that does not show it; None if it can."""
    if value != value.strip():
        return "begins or ends with white space"
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):  # C0, DEL, C1
        return "holds a line break or another control character"
    if any(ord(c) > 0xFF for c in value):  # a header is Latin-1
        return "holds a character that no HTTP header can carry"
    if value[0] in "\"'" and value[-1] == value[0]:
        return "is in quotation marks"
    return None
