"""Keyring backends of the tests: in memory, forgetful, slow, failing."""

from __future__ import annotations

import threading

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from llmctl.keys.key import KeySlot
from llmctl.keys.rotation import Change, KeyPair


class Memory(KeyringBackend):
    """Keeps what it is given, as long as it lives."""

    priority = 1

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """What is kept."""
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Keep it no more."""
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")


class Forgetful(Memory):
    """Accepts and keeps nothing."""

    priority = 1

    def set_password(self, service: str, username: str, password: str) -> None:
        """Do nothing."""
        del service, username, password


class Failing(Memory):
    """Raises the same error whatever is asked."""

    priority = 1

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def get_password(self, service: str, username: str) -> str | None:
        """Fail."""
        del service, username
        raise self.error

    def set_password(self, service: str, username: str, password: str) -> None:
        """Fail."""
        del service, username, password
        raise self.error


class Silent(Memory):
    """Answers only once it is told to."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        """Wait."""
        del service, username
        self.released.wait()
        return None


class MemoryPairs:
    """Key pairs in memory, without a keyring; counts how often they are read."""

    where = "memory"

    def __init__(self) -> None:
        self.pairs: dict[KeySlot, KeyPair] = {}
        self.reads = 0

    def read(self, slot: KeySlot) -> KeyPair:
        """What is kept there."""
        self.reads += 1
        return self.pairs.get(slot, KeyPair())

    def write(self, slot: KeySlot, pair: KeyPair, change: Change) -> KeyPair:
        """Make one change."""
        self.pairs[slot] = pair.after(change)
        return self.pairs[slot]
