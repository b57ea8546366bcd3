"""The keyring as llmctl uses it: pairs of entries, each under its name and origin.

The keyring is the truth: what role a key has, and since when, stands in its own entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from llmctl.errors import NoKeyError
from llmctl.keys.backend import name, open_backend, room
from llmctl.keys.bounds import NoVaultError, guarded
from llmctl.keys.key import Slot
from llmctl.keys.rotation import Change, Pair, entry

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

_SIDES = ("", " (2)")


class Vault(Protocol):
    """Keeps pairs. Every method raises `NoKeyError` when the keyring cannot be used."""

    @property
    def where(self) -> str:
        """What keeps the keys, for a person."""
        ...

    def read(self, slot: Slot) -> Pair:
        """What is kept there; an empty pair when nothing is."""
        ...

    def make(self, slot: Slot, pair: Pair, change: Change) -> Pair:
        """Make one change durable, read it back, and give the pair as it is then."""
        ...


class Keyring:
    """The operating system's keyring, through the library `keyring`."""

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, environ: Mapping[str, str], ask: Callable[[str], str] | None = None) -> Self:
        """The keyring of this machine. Raises `NoVaultError`."""
        return cls(open_backend(environ, ask))

    @property
    def where(self) -> str:
        """The backend's name."""
        return name(self._backend)

    def read(self, slot: Slot) -> Pair:
        """Both sides of the slot."""
        kept = [self._get(slot, side) for side in (0, 1)]
        first, second = (None if text is None else entry(text) for text in kept)
        return Pair((first, second))

    def make(self, slot: Slot, pair: Pair, change: Change) -> Pair:
        """Write or delete one side; the null backend, for one, accepts and keeps nothing."""
        after = pair.after(change)
        if change.entry is None:
            self._delete(slot, change.side)
        else:
            self._set(slot, change.side, change.entry.text(), change.entry.key)
        kept = self._get(slot, change.side)
        if (None if kept is None else entry(kept)) != change.entry:
            raise NoVaultError(f"{self.where} did not keep what was written")
        return after

    def _get(self, slot: Slot, side: int) -> str | None:
        service, user = _names(slot, side)
        text = guarded(self._backend, lambda: self._backend.get_password(service, user))
        return text or None

    def _set(self, slot: Slot, side: int, text: str, key: str) -> None:
        most = room(self._backend)
        if most is not None and len(text) > most:
            raise NoKeyError(
                f"the key has {len(key):,} characters; {self.where} keeps at most "
                f"{most - (len(text) - len(key)):,}: use an environment variable or "
                "`key: {command: …}` for this one"
            )
        service, user = _names(slot, side)
        guarded(self._backend, lambda: self._backend.set_password(service, user, text), key)

    def _delete(self, slot: Slot, side: int) -> None:
        service, user = _names(slot, side)
        guarded(self._backend, lambda: self._backend.delete_password(service, user))


def _names(slot: Slot, side: int) -> tuple[str, str]:
    """Service and user name of one side; a key's name cannot hold a space."""
    return f"llmctl {slot.origin}", f"{slot.name}{_SIDES[side]}"
