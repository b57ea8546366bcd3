"""Key lookup: the sources of a profile's key, and the rotating key of a run.

A profile's `key` names the one place; without it the environment comes first, then the keyring.
A profile has the variable of its preset only at the preset's own origin, and a stored key is
found only from the origin it was stored for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import cached_property

from msgspec import Struct

from llmctl.clock import Clock, SystemClock
from llmctl.config.env_file import variables_of
from llmctl.config.settings import Profile
from llmctl.errors import LlmctlError, NoKeyError
from llmctl.keys.command import CommandSource
from llmctl.keys.key import Key, KeySlot, KeySource, slot_of, usable
from llmctl.keys.keyring_store import PASSWORD, Keyring, KeyringUnavailable
from llmctl.keys.secrets import SecretReader, SecretSource
from llmctl.redact import last_chars

REREAD = 300.0
"""Seconds after which a secrets manager is asked again for a key in use: managers charge by the
call, and rotations leave the old key valid for longer."""


class EnvironmentSource(Struct, frozen=True):
    """A key in an environment variable."""

    environ: Mapping[str, str]
    variable: str

    def read(self) -> Key | None:
        """The variable's key, None when it is unset or empty. Raises `NoKeyError`."""
        # `export KEY="$(cat file)"` is clean, but a secret mounted as a file often ends its line
        value = self.environ.get(self.variable, "").rstrip("\r\n")
        if not value:
            return None
        mend = f"set {self.variable} again to the key alone"
        return Key(usable(value, f"the key in ${self.variable}", mend), f"${self.variable}")

    async def find(self, _: KeySlot, *, reserve: bool = False) -> Key | None:  # noqa: ARG002
        """As `read`, whatever the slot is."""
        return self.read()


class KeyringSource(Struct, frozen=True):
    """The stored keys; `open_keyring` is called when the first one is looked for."""

    open_keyring: Callable[[], Keyring]

    async def find(self, slot: KeySlot, *, reserve: bool = False) -> Key | None:  # noqa: ARG002
        """The slot's primary key, with the previous one. Raises `NoKeyError`."""
        pair = await asyncio.to_thread(lambda: self.open_keyring().read(slot))
        mend = "store it again with `llmctl keys set`"
        key = None
        for stored in (pair.previous, pair.primary):
            if stored:
                key = Key(usable(stored.key, "the stored key", mend), "keyring", key)
        return key


class KeyResolver:
    """Finds the keys of profiles; the keyring is opened only when a stored key is needed.

    `stored` are the slots with a stored key: a hint that saves servers which want no key a look
    into the keyring.
    """

    def __init__(self, environ: Mapping[str, str], stored: Collection[KeySlot] = ()) -> None:
        self._environ = environ
        self.stored = stored
        self._readers: dict[str, SecretReader] = {}

    @cached_property
    def keyring(self) -> Keyring:
        """The keyring, opened now if it was not. Raises `KeyringUnavailable`."""
        return Keyring.open(self._environ)

    def keyring_for(self, profile: Profile) -> Keyring:
        """As `keyring`; what is raised names the profile's variable."""
        try:
            return self.keyring
        except KeyringUnavailable as error:
            variable = profile.key.env if profile.key else None
            raise KeyringUnavailable(error.why, variable) from None

    def environment(self, profile: Profile) -> Key | None:
        """The key in the profile's variable. Raises `NoKeyError` when it cannot be one."""
        variable = profile.key and profile.key.env
        return EnvironmentSource(self._of(profile), variable).read() if variable else None

    def _of(self, profile: Profile) -> Mapping[str, str]:
        """The environment, over the variables of the profile's own file."""
        return variables_of(profile, self._environ)

    def sources(self, profile: Profile) -> list[KeySource]:
        """The places of the profile's key, in the order in which they are asked."""
        source, keyring = profile.key, KeyringSource(lambda: self.keyring_for(profile))
        if source is None:  # a server that may want no key: the hint saves opening the keyring
            return [keyring] if slot_of(profile) in self.stored else []
        if source.secret:
            return [SecretSource(source.secret, self._readers, self._of(profile))]
        if source.command:
            return [CommandSource(source.command, self._environ, (*source.hidden, PASSWORD))]
        variable = [EnvironmentSource(self._of(profile), source.env)] if source.env else []
        return [*variable, *([keyring] if source.keyring else [])]

    async def find(self, profile: Profile, *, reserve: bool = False) -> Key | None:
        """The key that calls use, None when there is none; see `KeySource`. Raises `NoKeyError`."""
        for source in self.sources(profile):
            if key := await source.find(slot_of(profile), reserve=reserve):
                return key
        return None

    async def require(self, profile: Profile) -> Key | None:
        """As `find`; None only for a server that is called without a key.

        Raises `NoKeyError` naming the places where a key should be, and how to put one there.
        """
        missing = f"no key for the profile {profile.name}: "
        source, mine = profile.key, slot_of(profile)
        why, ways = [], []
        if source and source.env:
            state = "empty" if source.env in self._of(profile) else "not set"
            why.append(f"${source.env} is {state}")
            ways.append(f"set it with `export {source.env}=…`")
        try:
            key = await self.find(profile)
        except KeyringUnavailable as error:
            if not why:
                raise
            raise NoKeyError(f"{missing}{why[0]}, and {error.message}") from error
        except NoKeyError as error:
            if source and source.secret:
                raise NoKeyError(f"{missing}{error.message}") from error
            raise
        if key or source is None:
            return key
        if source.keyring:
            others = " and ".join(slot.where for slot in self.elsewhere(profile))
            why.append(
                f"the stored key {mine.name} belongs to {others} and is not sent to {mine.where}"
                if others
                else f"no key {mine.name} is stored for {mine.where}"
            )
            ways.append(f"store one with `llmctl keys set {mine.name}`")
        ways.append("or choose another profile with -p")
        raise NoKeyError(f"{missing}{', and '.join(why)}; {', '.join(ways)}")

    def elsewhere(self, profile: Profile) -> list[KeySlot]:
        """The slots of other origins that store a key of the profile's key name."""
        mine = slot_of(profile)
        return sorted(s for s in self.stored if s.name == mine.name and s != mine)


class RotatingKey:
    """The key of a run, which may be rotated meanwhile; each key is tried once a run.

    When the provider refuses it, its source is asked again: the keyring may hold a newer primary
    by now, or the previous key. A secrets manager is asked every `REREAD` seconds, too, so that a
    rotation there is followed before the old key is revoked; while it is down, the known key goes
    on.
    """

    def __init__(
        self,
        resolver: KeyResolver,
        profile: Profile,
        first: Key | None,
        say: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._resolver = resolver
        self._profile = profile
        self._say = say
        self._clock = clock or SystemClock()
        self._due = self._clock.monotonic() + REREAD
        self._key = first
        self.value = None if first is None else first.value
        """The key now, or None for a server that is called without one."""
        self.source = None if first is None else first.source
        self.may_change = first is not None and not first.source.startswith("$")
        """Whether there may be another key; a process cannot see its environment change."""
        self._refused: set[str] = set()
        self._unread = False  # whether the manager could not be asked the last time
        self._asking = asyncio.Lock()

    async def current(self) -> str | None:
        """The key for the next request, read again first where a manager has it and it is time."""
        managed = self._key is not None and self._key.managed
        if managed and self._clock.monotonic() >= self._due and not self._asking.locked():
            async with self._asking:
                await self._read_again()
        return self.value

    async def _read_again(self) -> None:
        try:
            key = await self._resolver.find(self._profile)
        except LlmctlError as error:
            self._due = self._clock.monotonic() + REREAD / 10
            if not self._unread:
                self._say(f"going on with the key that is known: {error.message}")
            self._unread = True
            return
        self._due, self._unread = self._clock.monotonic() + REREAD, False
        if key is not None and key.value not in self._refused:
            self._key, self.value, self.source = key, key.value, key.source

    async def refused(self, value: str | None) -> bool:
        """The provider refused this key: whether there is another one to use now.

        Many calls may report it at once; one of them looks, the others wait for its result.
        """
        async with self._asking:
            if self.value != value:
                return True
            if self._key is None or not self.may_change or self._key.value in self._refused:
                return False
            self._refused.add(self._key.value)
            try:
                key = primary = await self._resolver.find(self._profile, reserve=True)
            except LlmctlError as error:
                self._say(f"no other key: {error.message}")
                return False
            while key is not None and key.value in self._refused:
                key = key.previous
            if key is None:
                return False
            what = "the one it was replaced by" if key is primary else "the previous one"
            self._say(
                f"profile {self._profile.name}: the provider refused the key "
                f"{last_chars(self._key.value)}; going on with {what}, "
                f"{last_chars(key.value)} ({key.source})"
            )
            self._key, self.value, self.source = key, key.value, key.source
            return True
