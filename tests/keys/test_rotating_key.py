"""A key that is refused in the middle of a run: the run goes on with the other one."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from llmctl.auth.key_auth import FixedKey, KeyAuth, bearer
from llmctl.config.settings import KeyPlaces, Profile, SecretUri, parse_secret_uri
from llmctl.errors import (
    AuthFailed,
    CallError,
    ConfigError,
    ConnectionFailed,
    LlmctlError,
    NoKeyError,
)
from llmctl.guards.key_failover import key_failover
from llmctl.keys.key import Key, KeySource, slot_of
from llmctl.keys.resolver import REREAD, KeyResolver, RotatingKey
from llmctl.keys.secrets import Secret, SecretSource
from llmctl.protocols import Emit
from llmctl.types import Answer, Request, Usage
from tests.keys.fakes import holding
from tests.support import FakeClock, request, response

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
        self.guard = key_failover(self._call, KeyAuth(bearer, self.key))

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
        async def find(self, profile: Profile, *, reserve: bool = False) -> Key | None:
            del profile, reserve
            if now is None:
                raise NoKeyError("the vault is closed")
            return Key(now, source)

    key = RotatingKey(Other({}), PROFILE, Key(OLD, source), lambda _: None)
    assert asyncio.run(key.refused(OLD)) is other
    assert not asyncio.run(RotatingKey(Other({}), PROFILE, None, lambda _: None).refused(None))


def test_a_renewal_that_fails_forgets_no_attempt() -> None:
    """When a token cannot be renewed because its server is down, that is the error, with the
    attempts and the possible bill of the call that was refused."""

    class Unreachable(KeyAuth):
        async def refused(self, _: str | None, __: CallError) -> bool:
            raise ConnectionFailed("the token server cannot be reached")

    async def refuse(_: Request, __: Emit | None) -> Answer:
        error = AuthFailed("refused")
        error.attempts, error.uncertain, error.limited = 3, 1, 1
        error.earlier = ((Usage(input=5), None),)
        raise error

    guard = key_failover(refuse, Unreachable(bearer, FixedKey("token-1234567")))
    with pytest.raises(ConnectionFailed) as caught:
        asyncio.run(guard(request(), None))
    error = caught.value
    assert (error.attempts, error.uncertain, error.limited) == (3, 1, 1)
    assert error.earlier == ((Usage(input=5), None),)


MANAGED = replace(PROFILE, key=KeyPlaces(secret=parse_secret_uri("doppler://llm/dev/KEY")))


class Memory:
    """A reader of a manager that keeps versions: the newest is the last. None: it is down."""

    name = "Doppler"

    def __init__(self, *values: str) -> None:
        self.values: list[str] | None = list(values)
        self.failure: LlmctlError | None = None
        self.reads = 0

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """As managers do."""
        del uri
        self.reads += 1
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        if self.values is None:
            raise ConnectionFailed("no connection to the manager")
        known = self.values[:-1] if previous else self.values
        return Secret(known[-1]) if known else None


class Managed:
    """A run whose key is in a manager."""

    def __init__(self, *values: str) -> None:
        self.manager, self.clock = Memory(*values), FakeClock()
        self.said: list[str] = []
        resolver = Shared(self.manager)
        first = asyncio.run(resolver.require(MANAGED))
        self.key = RotatingKey(resolver, MANAGED, first, self.said.append, self.clock)

    def current(self, *, later: float = 0.0, calls: int = 1) -> set[str | None]:
        """The keys that so many calls at once go with."""
        self.clock.now += later

        async def all_() -> list[str | None]:
            return await asyncio.gather(*(self.key.current() for _ in range(calls)))

        return set(asyncio.run(all_()))


class Shared(KeyResolver):
    """A resolver with this reader."""

    def __init__(self, reader: Memory) -> None:
        super().__init__({})
        self._reader = reader

    def sources(self, profile: Profile) -> list[KeySource]:
        """The secret alone."""
        assert profile.key
        assert profile.key.secret
        return [SecretSource(profile.key.secret, {"doppler": self._reader}, {})]


def test_a_manager_is_asked_again_every_five_minutes() -> None:
    """Between, no call asks it; then one of however many calls does, while the others go on, and a
    rotation is followed without a word and without a refusal."""
    run = Managed(OLD)
    assert run.manager.values
    run.manager.values.append(NEW)
    assert run.current(later=REREAD - 1, calls=50) == {OLD}
    assert run.manager.reads == 1
    assert NEW in run.current(later=1, calls=50)
    assert run.manager.reads == 2
    assert run.current(later=REREAD - 1) == {NEW}
    assert run.manager.reads == 2
    assert "doppler://llm/dev/KEY" in (run.key.source or "")
    assert run.said == []


def test_the_known_key_goes_on_while_the_manager_is_down() -> None:
    """That is said once, with the manager's name, however long it is down; it is asked again every
    half a minute, and when it is back, a rotation is followed; the next outage is said again."""
    run = Managed(OLD)
    run.manager.values = None
    assert run.current(later=REREAD) == {OLD}
    reads = run.manager.reads
    assert run.current(later=29, calls=9) == {OLD}
    assert run.manager.reads == reads
    assert run.current(later=1) == {OLD}
    assert run.manager.reads > reads
    assert len(run.said) == 1
    assert run.said[0].startswith("going on with the key that is known: Doppler, doppler://llm/")
    run.manager.values = [OLD, NEW]
    assert run.current(later=30) == {NEW}
    run.manager.values = None
    assert run.current(later=REREAD) == {NEW}
    assert len(run.said) == 2


def test_what_a_manager_needs_is_missing_later() -> None:
    """A file that is removed during the run, and a program, are no end of the known key either."""
    run = Managed(OLD)
    run.manager.failure = ConfigError("ca.pem: cannot be read")
    assert run.current(later=REREAD) == {OLD}
    assert not asyncio.run(run.key.refused(OLD))
    assert [said.partition(":")[0] for said in run.said] == [
        "going on with the key that is known", "no other key"
    ]  # fmt: skip


def test_json_is_no_key() -> None:
    """A secret of several fields is not sent to the provider whole."""
    with pytest.raises(NoKeyError, match=r"the secret is JSON and no key; .*with #FIELD"):
        Managed('{"key": "sk-1234", "password": "x"}')


def test_a_refused_managed_key() -> None:
    """The manager is asked at once for a newer key; else the version before is tried, once; with
    the manager down there is no other, and why is said."""
    run = Managed(OLD)
    assert run.manager.values
    run.manager.values.append(NEW)
    assert asyncio.run(run.key.refused(OLD))
    assert run.current() == {NEW}
    assert not asyncio.run(run.key.refused(NEW))  # the version before was refused already
    run = Managed(OLD, NEW)
    assert asyncio.run(run.key.refused(NEW))
    assert run.current() == {OLD}
    assert run.current(later=REREAD) == {OLD}  # the newest one is the refused one
    run = Managed(NEW)
    run.manager.values = None
    assert not asyncio.run(run.key.refused(NEW))
    (said,) = run.said
    assert said.startswith("no other key: Doppler, doppler://llm/dev/KEY: no connection to the man")


def test_a_missing_secret_names_the_profile() -> None:
    """What is said at the start names profile, manager and address."""
    manager = Memory()
    with pytest.raises(NoKeyError) as caught:
        asyncio.run(Shared(manager).require(MANAGED))
    assert caught.value.message == (
        "no key for the profile p: Doppler, doppler://llm/dev/KEY: there is no such secret; check "
        "`key.secret`"
    )
