"""A key that is refused in the middle of a run: the run goes on with the other one."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import KeySource as KeyPlaces
from llmctl.config.settings import Profile
from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, slot_of
from llmctl.keys.resolver import KeyResolver, RotatingKey
from tests.keys.fakes import holding, put

OLD, NEW = "old-key-number-0001", "new-key-number-0002"
PROFILE = Profile("p", "openai", "openai", "https://api.openai.com/v1", "m", KeyPlaces(keyring="k"))


class World:
    """A keyring, and a run that has found its key there."""

    def __init__(self, *stored: str) -> None:
        self.said: list[str] = []
        self.resolver = KeyResolver({})
        self.resolver.keyring = holding(slot_of(PROFILE), *stored)
        first = asyncio.run(self.resolver.require(PROFILE))
        self.key = RotatingKey(self.resolver, PROFILE, first, self.said.append)

    def refused(self, value: str | None, calls: int = 1) -> set[bool]:
        """What so many calls at once are told whose key was refused."""

        async def report() -> list[bool]:
            return await asyncio.gather(*(self.key.refused(value) for _ in range(calls)))

        return set(asyncio.run(report()))


def test_the_previous_key_helps_out() -> None:
    """However many calls report the primary at once, one looks, one sentence is said, and all go
    on with the previous key; when that is refused, too, there is no other."""
    world = World(NEW, OLD)
    assert world.key.value == NEW
    assert world.said == []
    assert world.refused(NEW, 50) == {True}
    assert world.key.value == OLD
    assert world.said == [
        (
            "profile p: the provider refused the key …0002; going on with the previous one, …0001 "
            "(keyring)"
        )
    ]
    assert world.refused(NEW) == {True}
    assert world.refused(OLD) == {False}
    assert len(world.said) == 1


def test_a_run_that_began_before_the_rotation() -> None:
    """A run that holds the old key finds the new primary when the old one is revoked."""
    world = World(OLD)
    put(world.resolver.keyring, slot_of(PROFILE), NEW, OLD)
    assert world.refused(OLD) == {True}
    assert world.key.value == NEW
    assert "the one it was replaced by, …0002" in world.said[0]


@pytest.mark.parametrize(
    ("source", "now", "other"),
    [("command", NEW, True), ("command", OLD, False), ("command", None, False), ("$X", NEW, False)],
)
def test_other_sources(source: str, now: str | None, *, other: bool) -> None:
    """A command is run once more; the environment of a process does not change."""

    class Other(KeyResolver):
        async def find(self, profile: Profile) -> Key | None:
            del profile
            if now is None:
                raise NoKeyError("the vault is closed")
            return Key(now, source)

    key = RotatingKey(Other({}), PROFILE, Key(OLD, source), lambda _: None)
    assert asyncio.run(key.refused(OLD)) is other
    assert not asyncio.run(RotatingKey(Other({}), PROFILE, None, lambda _: None).refused(None))
