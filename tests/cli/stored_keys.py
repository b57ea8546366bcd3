"""The keyring as it stands, read and written without a process."""

from __future__ import annotations

from pathlib import Path

from keyring.backends.SecretService import Keyring as SecretServiceBackend

from llmctl.keys.key import Change, KeyPair, KeySlot, StoredKey
from llmctl.keys.keyring_store import Keyring, mark_stored


class StoredKeys:
    """The keys of one name at one origin, in the Secret Service of $DBUS_SESSION_BUS_ADDRESS."""

    def __init__(self, home: Path, origin: str, name: str = "sim") -> None:
        self._state = home / ".local/state/llmctl"
        self._slot = KeySlot(name, origin)
        self._keyring = Keyring(SecretServiceBackend())  # type: ignore[no-untyped-call]

    def put(self, primary: StoredKey | str, previous: str | None = None) -> None:
        """Store these where nothing is stored yet."""
        mark_stored(self._state, self._slot, stored=True)
        first = primary if isinstance(primary, StoredKey) else StoredKey(primary, 1e9, 1)
        pair = self._keyring.write(self._slot, KeyPair(), Change(0, first))
        if previous is not None:
            self._keyring.write(self._slot, pair, Change(1, StoredKey(previous, 1e9, 0)))

    @property
    def standing(self) -> dict[str, str]:
        """The last four characters of each role."""
        pair = self._keyring.read(self._slot)
        roles = {"primary": pair.primary, "previous": pair.previous, "new": pair.candidate}
        return {role: key.key[-4:] for role, key in roles.items() if key}
