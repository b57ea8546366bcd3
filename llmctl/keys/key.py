"""API keys, the keyring slots that store them, and the check of a key's form."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from msgspec import Struct

from llmctl.config.settings import Profile
from llmctl.types import Target


class Key(Struct, frozen=True):
    """An API key and where it was found (`$NAME`, `keyring`, `command`).

    `role` is `primary` or `previous` for a stored key, `created` Unix seconds (None when
    unknown), `previous` the key to use when the provider refuses this one. The repr shows only
    where the key was found.
    """

    value: str
    source: str
    role: str = "primary"
    created: float | None = None
    previous: Key | None = None

    def __repr__(self) -> str:
        return f"Key([key] from {self.source})"


class KeySlot(NamedTuple):
    """Where a key is stored: its name and its origin (scheme, host and port).

    A key of one origin cannot be found from another.
    """

    name: str
    origin: str

    @property
    def where(self) -> str:
        """The origin as people write it, without a default port."""
        for scheme, port in (("https", ":443"), ("http", ":80")):
            if self.origin.startswith(f"{scheme}://") and self.origin.endswith(port):
                return self.origin.removesuffix(port)
        return self.origin


class KeySource(Protocol):
    """A place of keys: the environment, the keyring, a command, a secrets manager."""

    async def find(self, slot: KeySlot) -> Key | None:
        """The key for the slot, None when this place has none.

        Raises `NoKeyError` when the place cannot be asked, or holds what cannot be a key.
        """
        ...


def slot_of(profile: Profile) -> KeySlot:
    """The keyring slot of a profile: its key's name, or its own, and its origin."""
    name = profile.key.keyring if profile.key and profile.key.keyring else profile.name
    return KeySlot(name, Target("", "", "", profile.base_url, "").origin)


def key_problem(value: str) -> str | None:
    """Why a text cannot be a key, as the end of a sentence; None when it can."""
    if not value:
        return "is empty"
    if value != value.strip():
        return "begins or ends with white space"
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):  # C0, DEL, C1
        return "holds a line break or another control character"
    if any(ord(c) > 0xFF for c in value):  # an HTTP header is Latin-1
        return "holds a character that no HTTP header can carry"
    if value[0] in "\"'" and value[-1] == value[0]:
        return "is in quotation marks"
    return None
