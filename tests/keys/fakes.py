"""Keyring backends of the tests: in memory, and those that go wrong in one way."""

from __future__ import annotations

from collections.abc import Callable

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from llmctl.keys.key import Change, KeyPair, KeySlot, StoredKey
from llmctl.keys.keyring_store import Keyring


class Memory(KeyringBackend):
    """Keeps what it is given, as long as it lives; counts how often it is read.

    `fault` is called before every call.
    """

    priority = 1

    def __init__(self, fault: Callable[[], object] = lambda: None) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.reads = 0
        self.fault = fault

    def get_password(self, service: str, username: str) -> str | None:
        """What is kept."""
        self.fault()
        self.reads += 1
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        self.fault()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Keep it no more."""
        self.fault()
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")


def failing(error: Exception) -> Memory:
    """A backend that raises the same error whatever is asked."""

    def fail() -> None:
        raise error

    return Memory(fail)


def put(keyring: Keyring, slot: KeySlot, *keys: str) -> None:
    """Store a primary, and a previous key, in place of what was there."""
    pair = keyring.read(slot)
    for side, key in enumerate(keys):
        pair = keyring.write(slot, pair, Change(side, StoredKey(key, 5.0, -side)))


def holding(slot: KeySlot, *keys: str) -> Keyring:
    """A keyring in memory with a primary, and a previous key."""
    keyring = Keyring(Memory())
    put(keyring, slot, *keys)
    assert keyring.read(slot) != KeyPair()
    return keyring
