"""A key that is refused in the middle of a run: the run goes on with the other one."""

from __future__ import annotations

import asyncio

import pytest

from llmctl.config.settings import KeyPlaces, Profile
from llmctl.errors import AuthFailed, NoKeyError
from llmctl.guards.key_failover import key_failover
from llmctl.keys.key import Key, slot_of
from llmctl.keys.resolver import KeyResolver, RotatingKey
from llmctl.protocols import Emit
from llmctl.types import Answer, Request
from tests.keys.fakes import holding
from tests.support import request, response

OLD, NEW = "old-key-number-0001", "new-key-number-0002"
PROFILE = Profile("p", "openai", "openai", "https://api.openai.com/v1", "m", KeyPlaces(keyring="k"))


class World:
    """A keyring, a provider that accepts some keys, and a run in between."""

    def __init__(self, *stored: str, accepted: set[str]) -> None:
        self.accepted = accepted
        self.said: list[str] = []
        self.used: list[str | None] = []
        resolver = KeyResolver({})
        self.keyring = resolver.keyring = holding(slot_of(PROFILE), *stored)
        first = asyncio.run(resolver.require(PROFILE))
        self.key = RotatingKey(resolver, PROFILE, first, self.said.append)
        self.guard = key_failover(self._call, self.key)

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


def test_the_previous_key_helps_out() -> None:
    """However many calls are refused at once, one looks, one sentence is said, and all go on with
    the previous key; the attempts of the refused one count."""
    world = World(NEW, OLD, accepted={OLD})
    assert {answer.attempts for answer in world.run(50)} == {2}
    assert world.used == [NEW] * 50 + [OLD] * 50
    assert world.said == [
        (
            "profile p: the provider refused the key …0002; going on with the previous one, …0001 "
            "(keyring)"
        )
    ]


@pytest.mark.parametrize("keys", [(NEW,), (NEW, OLD)])
def test_no_key_is_accepted(keys: tuple[str, ...]) -> None:
    """When the provider refuses every key, each was tried once, and the refusal is the error."""
    world = World(*keys, accepted=set())
    with pytest.raises(AuthFailed) as caught:
        world.run()
    assert world.used == [*keys]
    assert caught.value.attempts == len(keys)
    with pytest.raises(AuthFailed):
        world.run()
    assert world.used[-1] == keys[-1]


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
