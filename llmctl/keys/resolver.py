"""Key lookup: the sources of a profile's key, and the rotating key of a run.

A profile's `key` names the one place; without it the environment comes first, then the keyring.
Configuration says which variable that is: a profile has the variable of its preset only at the
preset's own origin, and a stored key is found only from the origin it was stored for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from llmctl.config.settings import Profile
from llmctl.errors import NoKeyError
from llmctl.keys.command import key_from
from llmctl.keys.key import Key, KeySlot, KeySource, key_problem, slot_of
from llmctl.keys.keyring_store import PASSWORD, Keyring, KeyringUnavailable
from llmctl.keys.rotation import PairStorage, StoredKey
from llmctl.redact import last_chars, remember


class EnvironmentSource(Struct, frozen=True):
    """A key in an environment variable."""

    environ: Mapping[str, str]
    variable: str

    def read(self) -> Key | None:
        """The variable's key, None when it is unset or empty.

        Raises `NoKeyError`, without showing the value, when it cannot be a key.
        """
        # `export KEY="$(cat file)"` is clean, but a secret mounted as a file often ends its line
        value = self.environ.get(self.variable, "").rstrip("\r\n")
        if not value:
            return None
        if why := key_problem(value):
            raise NoKeyError(
                f"the key in ${self.variable} {why}; set {self.variable} again to the key alone"
            )
        remember(value)
        return Key(value, f"${self.variable}")

    async def find(self, slot: KeySlot) -> Key | None:
        """As `read`, whatever the slot is."""
        del slot
        return self.read()


class CommandSource(Struct, frozen=True):
    """A key that a program prints. It does not see the variables in `hidden`."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    hidden: Collection[str] = ()

    async def find(self, slot: KeySlot) -> Key | None:
        """The printed key, whatever the slot is. Raises `NoKeyError` when there is none."""
        del slot
        value = await key_from(self.command, self.environ, (*self.hidden, PASSWORD))
        if why := key_problem(value):
            raise NoKeyError(
                f"what the key's command {self.command[0]} printed {why}; "
                "it must print the key alone"
            )
        remember(value)
        return Key(value, "command")


class KeyringSource(Struct, frozen=True):
    """The stored keys; `open_keyring` is called when the first one is looked for."""

    open_keyring: Callable[[], PairStorage]

    async def find(self, slot: KeySlot) -> Key | None:
        """The slot's primary key, with the previous one. Raises `NoKeyError`."""
        pair = await asyncio.to_thread(lambda: self.open_keyring().read(slot))
        previous = _stored(pair.previous, "previous", None)
        return _stored(pair.primary, "primary", previous)


def _stored(stored: StoredKey | None, role: str, previous: Key | None) -> Key | None:
    if stored is None:
        return None
    if why := key_problem(stored.key):
        raise NoKeyError(f"the stored key {why}; store it again with `llmctl keys set`")
    remember(stored.key)
    return Key(stored.key, "keyring", role, stored.created, previous)


class KeyResolver:
    """Finds the keys of profiles.

    The keyring is opened only when a stored key is needed. `stored` are the slots that llmctl has
    stored a key in: a hint that saves servers which want no key a look into the keyring. `ask`
    gets a hidden answer from a person, None where nobody can be asked.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        stored: Collection[KeySlot] = (),
        ask: Callable[[str], str] | None = None,
        open_keyring: Callable[
            [Mapping[str, str], Callable[[str], str] | None], PairStorage
        ] = Keyring.open,
    ) -> None:
        self._environ = environ
        self._ask = ask
        self._open = open_keyring
        self._keyring: PairStorage | None = None
        self.stored = stored

    @property
    def keyring(self) -> PairStorage:
        """The keyring, opened now if it was not. Raises `KeyringUnavailable`."""
        if self._keyring is None:
            self._keyring = self._open(self._environ, self._ask)
        return self._keyring

    def environment(self, profile: Profile) -> Key | None:
        """The key in the profile's variable, read as by `EnvironmentSource`."""
        if profile.key is None or profile.key.env is None:
            return None
        return EnvironmentSource(self._environ, profile.key.env).read()

    def sources(self, profile: Profile) -> list[KeySource]:
        """The places of the profile's key, in the order in which they are asked."""
        source, keyring = profile.key, KeyringSource(lambda: self.keyring)
        if source is None:  # a server that may want no key: the hint saves opening the keyring
            return [keyring] if slot_of(profile) in self.stored else []
        if source.command:
            return [CommandSource(source.command, self._environ, source.hidden)]
        found: list[KeySource] = []
        if source.env:
            found.append(EnvironmentSource(self._environ, source.env))
        if source.keyring:
            found.append(keyring)
        return found

    async def find(self, profile: Profile) -> Key | None:
        """The key that calls use, None when there is none.

        Raises `NoKeyError` when a place that was named cannot be looked at.
        """
        for source in self.sources(profile):
            if key := await source.find(slot_of(profile)):
                return key
        return None

    async def require(self, profile: Profile) -> Key | None:
        """As `find`; None only for a server that is called without a key.

        Raises `NoKeyError` naming the places where a key should be, and how to put one there.
        """
        try:
            key = await self.find(profile)
        except KeyringUnavailable as error:
            if profile.key is None or profile.key.env is None:
                raise
            state = self._state(profile.key.env)
            raise NoKeyError(
                f"no key for the profile {profile.name}: {state}, and {error.message}"
            ) from error
        if key is None and profile.key is not None:
            raise NoKeyError(self._missing(profile))
        return key

    def elsewhere(self, profile: Profile) -> list[KeySlot]:
        """The slots of other origins that store a key of the profile's key name."""
        mine = slot_of(profile)
        return sorted(s for s in self.stored if s.name == mine.name and s != mine)

    def _missing(self, profile: Profile) -> str:
        source, mine = profile.key, slot_of(profile)
        assert source is not None
        why, ways = [], []
        if source.env:
            why.append(self._state(source.env))
            ways.append(f"set it with `export {source.env}=…`")
        if source.keyring:
            others = " and ".join(s.where for s in self.elsewhere(profile))
            why.append(
                f"the stored key {mine.name} belongs to {others} and is not sent to {mine.where}"
                if others
                else f"no key {mine.name} is stored for {mine.where}"
            )
            ways.append(f"store one with `llmctl keys set {mine.name}`")
        return (
            f"no key for the profile {profile.name}: {', and '.join(why)}; {', '.join(ways)}, "
            "or choose another profile with -p"
        )

    def _state(self, name: str) -> str:
        return f"${name} is {'empty' if name in self._environ else 'not set'}"


class RotatingKey:
    """The key of a run, which may be rotated while the run goes on.

    When the provider refuses it, its source is asked again: the keyring may hold a newer primary
    by now, or the previous key. Each key is tried once a run.
    """

    def __init__(
        self,
        resolver: KeyResolver,
        profile: Profile,
        first: Key | None,
        say: Callable[[str], None],
    ) -> None:
        self._resolver = resolver
        self._profile = profile
        self._say = say
        self._current = first
        self.value = first.value if first else None
        """The key, or None for a server that is called without one."""
        self.may_change = first is not None and not first.source.startswith("$")
        """Whether there may be another key; a process cannot see its environment change."""
        self._refused: set[str] = set()
        self._asking = asyncio.Lock()

    async def refused(self, value: str | None) -> bool:
        """The provider refused this key: whether there is another one to use now.

        Many calls may report it at once; one of them looks, the others wait for its result.
        """
        async with self._asking:
            if self.value != value:
                return True
            if value is None or value in self._refused:
                return False
            self._refused.add(value)
            key = await self._look_again()
            while key is not None and key.value in self._refused:
                key = key.previous
            if key is None:
                return False
            what = "the previous one" if key.role == "previous" else "the one it was replaced by"
            self._say(
                f"profile {self._profile.name}: the provider refused the key {last_chars(value)}; "
                f"going on with {what}, {last_chars(key.value)} ({key.source})"
            )
            self._current, self.value = key, key.value
            return True

    async def _look_again(self) -> Key | None:
        """The key that the source has now; None when the source fails now."""
        if not self.may_change:
            return None
        try:
            return await self._resolver.find(self._profile)
        except NoKeyError as error:
            self._say(f"no other key: {error.message}")
            return None
