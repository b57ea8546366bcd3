"""The seam of a provider's keys: made, found and revoked there by an admin key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from msgspec import Struct

from llmctl.protocols import WireRequest

Fetch = Callable[[WireRequest], Awaitable[bytes]]
"""The body of a successful reply; raises the mapped `CallError`."""


class MadeKey(Struct, frozen=True):
    """A new key, and its `id` at the provider, by which it is revoked."""

    value: str
    id: str

    def __repr__(self) -> str:
        return f"MadeKey([key], id={self.id!r})"


class KeyApi(ABC):
    """A provider's keys. Every method raises the mapped `CallError`.

    Attributes:
        makes: whether the provider lets a program make keys.
        fetch: asks the provider, by the admin key.
        project: the id of the one where keys are made, of OpenAI.

    """

    makes: ClassVar[bool] = True

    def __init__(self, fetch: Fetch, project: str | None) -> None:
        self.fetch, self.project = fetch, project

    @property
    def lacks(self) -> str | None:
        """The variable that must be set before keys can be made or revoked; None: all is there."""
        return None

    @abstractmethod
    async def create(self, name: str, like: str | None) -> MadeKey:
        """Make a key of this name; with the limits of the key of the id `like`, where the
        provider's keys have any."""

    @abstractmethod
    async def named(self, name: str) -> list[str]:
        """The ids of the keys of this name."""

    @abstractmethod
    async def revoke(self, name: str) -> None:
        """Revoke the key of this id; nothing where there is none any more."""

    async def find(self, key: str) -> str | None:  # noqa: ARG002 - most show too little
        """The id of a key that was made by hand, by what the provider shows of it; None where that
        could be another one."""
        return None
