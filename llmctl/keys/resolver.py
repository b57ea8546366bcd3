"""Where a profile's key is looked for, in which order, and what is said when there is none.

A profile's `key` names the one place; without it the environment comes first, then the keyring.
Which variable that is, configuration says: a profile has the variable of its preset only at the
preset's own origin, and a stored key is found only from the origin it was stored for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from llmctl.config.settings import Profile
from llmctl.errors import NoKeyError
from llmctl.keys.bounds import PASSWORD, NoVaultError
from llmctl.keys.command import key_from
from llmctl.keys.key import Key, Slot, slot, trimmed, wrong
from llmctl.keys.keyring_store import Keyring, Vault
from llmctl.keys.rotation import Entry
from llmctl.redact import remember


class Finder:
    """Finds keys. The keyring is opened when the first stored key is needed, and only then.

    `stored` are the slots that llmctl has stored a key in: a hint that saves servers which
    want no key a look into the keyring. `ask` gets a hidden answer from a person, None where
    nobody can be asked.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        stored: Collection[Slot] = (),
        ask: Callable[[str], str] | None = None,
        open_vault: Callable[
            [Mapping[str, str], Callable[[str], str] | None], Vault
        ] = Keyring.open,
    ) -> None:
        self._environ = environ
        self._ask = ask
        self._open = open_vault
        self._vault: Vault | None = None
        self.stored = stored

    @property
    def vault(self) -> Vault:
        """The keyring, opened now if it was not. Raises `NoVaultError`."""
        if self._vault is None:
            self._vault = self._open(self._environ, self._ask)
        return self._vault

    def environment(self, profile: Profile) -> Key | None:
        """The key in the profile's variable; None when it names none, or it is unset or empty.

        Raises `NoKeyError`, without showing the key, when it cannot be one.
        """
        if profile.key is None or profile.key.env is None:
            return None
        name = profile.key.env
        # `export KEY="$(cat file)"` is clean, but a secret mounted as a file often ends its line
        value = trimmed(self._environ.get(name, ""))
        if not value:
            return None
        if why := wrong(value):
            raise NoKeyError(f"the key in ${name} {why}; set {name} again to the key alone")
        return _found(Key(value, f"${name}"))

    def keys(self, profile: Profile) -> tuple[Key, ...]:
        """The key that calls use, and the one to use when it is refused. None at all when there
        is none. Raises `NoKeyError` when a place that was named cannot be looked at."""
        if profile.key is not None and profile.key.command:
            return (self._from_command(profile.key.command, profile.key.hidden),)
        if key := self.environment(profile):
            return (key,)
        return self.in_keyring(slot(profile)) if self.looks_in_keyring(profile) else ()

    def looks_in_keyring(self, profile: Profile) -> bool:
        """Whether the profile's key may be a stored one. A profile that names no key belongs to
        a server that may want none: there the keyring is asked only when it holds something."""
        if profile.key is None:
            return slot(profile) in self.stored
        return profile.key.keyring is not None

    def in_keyring(self, place: Slot) -> tuple[Key, ...]:
        """The stored keys of a slot, the primary first."""
        pair = self.vault.read(place)
        found = ((pair.primary, "primary"), (pair.previous, "previous"))
        return tuple(_stored(entry, role) for entry, role in found if entry)

    def require(self, profile: Profile) -> tuple[Key, ...]:
        """As `keys`; empty only for a server that is called without one.

        Raises `NoKeyError` naming the places where a key should be, and how to put one there.
        """
        try:
            found = self.keys(profile)
        except NoVaultError as error:
            if profile.key is None or profile.key.env is None:
                raise
            state = self._state(profile.key.env)
            raise NoKeyError(
                f"no key for the profile {profile.name}: {state}, and {error.message}"
            ) from error
        if found or profile.key is None:
            return found
        raise NoKeyError(self._nothing(profile))

    def elsewhere(self, profile: Profile) -> list[Slot]:
        """Where a key of the profile's name is stored for another origin."""
        mine = slot(profile)
        return sorted(s for s in self.stored if s.name == mine.name and s != mine)

    def _nothing(self, profile: Profile) -> str:
        source, mine = profile.key, slot(profile)
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

    def _from_command(self, command: tuple[str, ...], hidden: tuple[str, ...]) -> Key:
        value = key_from(command, self._environ, (*hidden, PASSWORD))
        if why := wrong(value):
            raise NoKeyError(
                f"what the key's command {command[0]} printed {why}; it must print the key alone"
            )
        return _found(Key(value, "command"))


def _stored(entry: Entry, role: str) -> Key:
    if why := wrong(entry.key) if entry.key else "is empty":
        raise NoKeyError(f"the stored key {why}; store it again with `llmctl keys set`")
    return _found(Key(entry.key, "keyring", role, entry.created))


def _found(key: Key) -> Key:
    remember(key.value)
    return key
