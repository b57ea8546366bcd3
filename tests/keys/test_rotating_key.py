"""A key that is refused in the middle of a run: the run goes on with the other one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from llmctl.config.settings import KeySource, Profile
from llmctl.errors import AuthFailed, NoKeyError
from llmctl.guards.key_failover import key_failover
from llmctl.keys.key import Key, slot_of
from llmctl.keys.resolver import KeyResolver, RotatingKey
from llmctl.keys.rotation import KeyPair, StoredKey
from llmctl.protocols import Emit
from llmctl.types import Answer, Request
from tests.keys.fakes import MemoryPairs
from tests.support import request, response

OLD, NEW = "old-key-number-0001", "new-key-number-0002"
PROFILE = Profile("p", "openai", "openai", "https://api.openai.com/v1", "m", KeySource(keyring="k"))


class World:
    """A keyring, a provider that accepts some keys, and a run in between."""

    def __init__(self, primary: str, previous: str | None, accepted: set[str]) -> None:
        self.vault = MemoryPairs()
        self.accepted = accepted
        self.said: list[str] = []
        self.used: list[str | None] = []
        self.store(primary, previous)
        resolver = KeyResolver({}, open_keyring=lambda *_: self.vault)
        first = asyncio.run(resolver.require(PROFILE))
        self.key = RotatingKey(resolver, PROFILE, first, self.said.append)
        self.guard = key_failover(self._call, self.key)

    def store(self, primary: str, previous: str | None) -> None:
        """What the keyring holds from now on."""
        old = StoredKey(previous, 1.0, 0) if previous else None
        self.vault.pairs[slot_of(PROFILE)] = KeyPair((StoredKey(primary, 2.0, 1), old))

    async def _call(self, _: Request, __: Emit | None) -> Answer:
        key = self.key.value
        self.used.append(key)
        await asyncio.sleep(0)
        if key not in self.accepted:
            error = AuthFailed("refused")
            error.attempts = 1
            raise error
        return response(attempts=1)

    def run(self, calls: int = 1) -> list[Answer]:
        """So many calls at once."""

        async def all_() -> list[Answer]:
            return await asyncio.gather(*(self.guard(request(), None) for _ in range(calls)))

        return asyncio.run(all_())


def test_an_accepted_primary_is_all_there_is() -> None:
    """While the primary is accepted the previous key is not used, and nothing is said."""
    world = World(NEW, OLD, {OLD, NEW})
    world.run(3)
    assert set(world.used) == {NEW}
    assert world.said == []
    assert world.vault.reads == 1


def test_the_previous_key_helps_out() -> None:
    """A 401 on the primary falls to the previous key, once, and says so."""
    world = World(NEW, OLD, {OLD})
    (answer,) = world.run()
    assert world.used == [NEW, OLD]
    assert answer.attempts == 2
    assert world.said == [
        (
            "profile p: the provider refused the key …0002; going on with the previous one, "
            "…0001 (keyring)"
        )
    ]


def test_a_run_that_began_before_the_rotation() -> None:
    """A run that holds the old key finds the new primary when the old one is revoked."""
    world = World(OLD, None, {OLD, NEW})
    world.run(2)
    world.store(NEW, OLD)
    world.accepted = {NEW}
    world.run(2)
    assert world.key.value == NEW
    assert "the one it was replaced by, …0002" in world.said[0]


def test_many_calls_at_once() -> None:
    """However many calls are refused at once, one looks, one sentence is said, all go on."""
    world = World(NEW, OLD, {OLD})
    assert len(world.run(50)) == 50
    assert len(world.said) == 1
    assert world.vault.reads == 2
    assert world.used.count(NEW) == 50


@pytest.mark.parametrize("previous", [OLD, None])
def test_no_key_is_accepted(previous: str | None) -> None:
    """When the provider refuses every key, each was tried once, and the refusal is the error."""
    world = World(NEW, previous, set())
    with pytest.raises(AuthFailed) as caught:
        world.run()
    assert world.used == [NEW] if previous is None else [NEW, OLD]
    assert caught.value.attempts == len(world.used)
    with pytest.raises(AuthFailed):
        world.run()
    assert world.used[-1] == (previous or NEW)


def of(source: str, found: Callable[[], str]) -> RotatingKey:
    """A rotating key of another source."""

    class Other(KeyResolver):
        async def find(self, profile: Profile) -> Key | None:
            del profile
            return Key(found(), source)

    return RotatingKey(Other({}), PROFILE, Key(OLD, source), lambda _: None)


def test_other_sources() -> None:
    """A command is run once more; the environment of a process does not change."""
    assert asyncio.run(of("command", lambda: NEW).refused(OLD))
    assert not asyncio.run(of("command", lambda: OLD).refused(OLD))
    assert not asyncio.run(of("$X", lambda: NEW).refused(OLD))

    def broken() -> str:
        raise NoKeyError("the vault is closed")

    assert not asyncio.run(of("command", broken).refused(OLD))
    assert not asyncio.run(
        RotatingKey(KeyResolver({}), PROFILE, None, lambda _: None).refused(None)
    )
