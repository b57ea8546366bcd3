"""What `llmctl keys` works on: the places of keys, as the configuration names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from llmctl.cli.context import Context
from llmctl.cli.secret import asker
from llmctl.cli.trusting import load
from llmctl.config.overrides import Overrides
from llmctl.config.settings import Profile, Settings
from llmctl.config.tree import nearest, quoted
from llmctl.errors import UsageError
from llmctl.keys.key import Slot, slot
from llmctl.keys.resolver import Finder
from llmctl.providers.registry import LOCAL
from llmctl.redact import suspicious
from llmctl.storage import keyindex
from llmctl.storage.files import LockedFile, private_folder


class Place(Struct, frozen=True):
    """A slot of the keyring, and a profile that uses it."""

    slot: Slot
    profile: Profile


class Places:
    """The profiles, the slots they use, and the finder that looks there."""

    def __init__(self, context: Context) -> None:
        overrides = Overrides(profile=context.profile)
        self.context = context
        self.settings: Settings = load(context, overrides)
        self.state = self.settings.folders.state
        self.stored = frozenset(Slot(*pair) for pair in keyindex.read(self.state))
        self.finder = Finder(context.environ, stored=self.stored, ask=asker())

    @property
    def profiles(self) -> list[Profile]:
        """The profiles that may have a key; the ones made by the user first."""
        found = [p for p in self.settings.profiles.values() if p.provider != LOCAL]
        if self.context.profile is not None:
            found = [p for p in found if p.name == self.context.profile]
            if not found:
                raise UsageError(f"there is no profile {quoted(self.context.profile)} with a key")
        return found

    def users(self, place: Slot) -> list[str]:
        """The profiles that use the slot."""
        return [p.name for p in self.profiles if in_keyring(p) and slot(p) == place]

    def place(self, name: str) -> Place:
        """The slot that `name` means: a stored key's name, or else a profile's.

        Raises `UsageError` when it means none, or several.
        """
        mine = {slot(p): p for p in reversed(self.profiles) if in_keyring(p)}
        found = [place for place in mine if place.name == name]
        if len(found) > 1:
            where = " and ".join(sorted(place.where for place in found))
            raise UsageError(
                f"the name {name} stands for keys of {where}; choose a profile with -p"
            )
        if found:
            return Place(found[0], mine[found[0]])
        profile = self.profile(name)
        if not in_keyring(profile):
            raise UsageError(
                f"the profile {name} takes its key from {source_words(profile)}, as its `key` "
                f"says; a stored one is used with key: {{keyring: {name}}}"
            )
        return Place(slot(profile), profile)

    def removable(self, name: str, origin: str | None) -> Slot:
        """The slot to delete: also one that no profile uses any more. Raises `UsageError`."""
        noted = sorted(s for s in self.stored if s.name == name)
        if self.context.profile is not None:
            noted = [s for s in noted if s in {slot(p) for p in self.profiles}]
        if origin is not None:
            noted = [s for s in noted if origin in {s.origin, s.where}]
            if not noted:
                raise UsageError(f"no key {name} is stored for {quoted(origin)}")
        if len(noted) > 1:
            where = " and ".join(s.where for s in noted)
            raise UsageError(f"the name {name} stands for keys of {where}; choose with --origin")
        return noted[0] if noted else self.place(name).slot

    def profile(self, name: str) -> Profile:
        """The profile of this name, or one whose stored key has it. Raises `UsageError`."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        for profile in self.profiles:
            if in_keyring(profile) and slot(profile).name == name:
                return profile
        if name in self.settings.profiles:
            raise UsageError(f"the profile {name} needs no key")
        names = sorted({p.name for p in self.profiles} | {s.name for s in self.stored})
        raise UsageError(
            f"no profile and no stored key has the name {quoted(suspicious(name))}; "
            f"{nearest(name, names)}"
        )

    def orphans(self, used: Iterable[Slot]) -> list[Slot]:
        """Stored keys that no profile uses (any more)."""
        return sorted(self.stored - set(used)) if self.context.profile is None else []

    @contextmanager
    def held(self) -> Iterator[None]:
        """While open, no other llmctl changes stored keys. Raises `BusyError`, `DiskError`."""
        private_folder(self.state)
        with LockedFile.open(self.state / "keys.lock"):
            yield


def in_keyring(profile: Profile) -> bool:
    """Whether the profile's key may be a stored one."""
    return profile.key is None or profile.key.keyring is not None


def source_words(profile: Profile) -> str:
    """The one place that the profile's `key` names, for a message."""
    source = profile.key
    if source is None or not (source.env or source.command):
        return "the keyring"
    return f"${source.env}" if source.env else f"the command {(source.command or ('',))[0]}"
