"""API keys, the keyring slots that store them, and the check of a key's form."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from llmctl.config.settings import Profile
from llmctl.errors import LlmctlError, NoKeyError
from llmctl.redact import remember
from llmctl.types import Target

_PROBLEMS = {
    r"\A\Z": "is empty",
    r"\A\s|\s\Z": "begins or ends with white space",
    r"[\x00-\x1f\x7f-\x9f]": "holds a line break or another control character",
    r"[^\x00-\xff]": "holds a character that no HTTP header can carry",
    r"""\A(["'])(.*\1)?\Z""": "is in quotation marks",
}


def usable(value: str, what: str, mend: str, error: type[LlmctlError] = NoKeyError) -> str:
    """The value, cut from all messages from now on. Raises `error`: "WHAT is empty; MEND"."""
    for pattern, problem in _PROBLEMS.items():
        if re.search(pattern, value):
            raise error(f"{what} {problem}; {mend}")
    remember(value)
    return value


class Key(Struct, frozen=True):
    """An API key, where it was found (`$NAME`, `keyring`, `command`, a secret's address and
    version), and the one in reserve. `managed`: by a secrets manager, which may have a newer one at
    any time; `version` names it there."""

    value: str
    source: str
    previous: Key | None = None
    managed: bool = False
    version: str = ""

    def __repr__(self) -> str:
        return f"Key([key] from {self.source})"


class KeySlot(NamedTuple):
    """Where a key is stored: its name and its origin (scheme, host and port)."""

    name: str
    origin: str

    @property
    def where(self) -> str:
        """The origin as people write it, without a default port."""
        return re.sub(r"^(https://.*):443$|^(http://.*):80$", r"\1\2", self.origin)


class KeySource(Protocol):
    """A place of keys: the environment, the keyring, a command, a secrets manager."""

    async def find(self, slot: KeySlot, *, reserve: bool = False) -> Key | None:
        """The key for the slot, None when there is none here; with the one in `reserve`, even where
        that takes another request. Raises `NoKeyError`."""
        ...


def slot_of(profile: Profile) -> KeySlot:
    """The keyring slot of a profile: its key's name, or its own, and its origin."""
    name = profile.key.keyring if profile.key and profile.key.keyring else profile.name
    return KeySlot(name, Target("", "", "", profile.base_url, "").origin)


class StoredKey(Struct, frozen=True, tag_field="llmctl", tag=1):
    """One side of a slot. `created`: Unix seconds; `rank`: None for a candidate; `id`: the
    provider's name of a key that was made by llmctl."""

    key: str
    created: float | None = None
    rank: int | None = 0
    id: str | None = None

    def __repr__(self) -> str:
        return f"StoredKey([key], created={self.created}, rank={self.rank}, id={self.id})"

    def to_text(self) -> str:
        """The JSON text that the keyring stores."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> StoredKey:
        """The stored key of a text; text that llmctl did not write is a key as it stands."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeError):
            return cls(text)


class Change(Struct, frozen=True):
    """One durable step: the key that a side (0 or 1) gets; None deletes it."""

    side: int
    key: StoredKey | None


class KeyPair(Struct, frozen=True):
    """Both sides of a slot."""

    sides: tuple[StoredKey | None, StoredKey | None] = (None, None)

    def _ranked(self, place: int) -> StoredKey | None:
        found = [side for side in self.sides if side and side.rank is not None]
        return [*sorted(found, key=lambda side: -(side.rank or 0)), None, None][place]

    @property
    def primary(self) -> StoredKey | None:
        """The key that calls use: the one of the highest rank."""
        return self._ranked(0)

    @property
    def previous(self) -> StoredKey | None:
        """The key that calls use when the primary is refused."""
        return self._ranked(1)

    @property
    def candidate(self) -> StoredKey | None:
        """The key that may become the primary."""
        return next((side for side in self.sides if side and side.rank is None), None)

    def after(self, change: Change) -> KeyPair:
        """The pair once the change has been made."""
        first, second = self.sides
        return KeyPair((change.key, second) if change.side == 0 else (first, change.key))
