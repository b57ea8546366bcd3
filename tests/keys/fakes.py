"""Keyring backends of the tests: in memory, forgetful, slow, failing."""

from __future__ import annotations

import threading

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from llmctl.keys.key import Slot
from llmctl.keys.rotation import Change, Pair


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


class MemoryVault:
    """A vault without a keyring: pairs in memory, and the changes that were made."""

    where = "memory"

    def __init__(self) -> None:
        self.pairs: dict[Slot, Pair] = {}
        self.changes: list[Change] = []
        self.reads = 0

    def read(self, slot: Slot) -> Pair:
        """What is kept there."""
        self.reads += 1
        return self.pairs.get(slot, Pair())

    def make(self, slot: Slot, pair: Pair, change: Change) -> Pair:
        """Make one change."""
        self.changes.append(change)
        self.pairs[slot] = pair.after(change)
        return self.pairs[slot]
