"""Use case `keys list`, and the places of keys that the configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import parsed
from llmctl.cli.output import age, print_json, print_table
from llmctl.config.load import Overrides
from llmctl.config.settings import Profile, parse_age
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import ConfigError, NoKeyError, SetupError, UsageError
from llmctl.keys.key import KeyPair, KeySlot, slot_of
from llmctl.keys.keyring_store import KeyringUnavailable, stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.keys.secrets import manager_of
from llmctl.providers.key_api import KeyApi
from llmctl.providers.registry import LOCAL
from llmctl.redact import last_chars, redact_possible_keys
from llmctl.storage.files import LockedFile, private_folder


class KeyPlaces:
    """The profiles, the slots they use, and the resolver that looks there."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = load_settings(context, Overrides(profile=context.profile))
        self.state = self.settings.folders.state
        self.stored = stored_slots(self.state)
        self.resolver = KeyResolver(context.environ, self.stored)
        wanted, found = context.profile, self.settings.profiles.values()
        self.profiles = [p for p in found if p.provider != LOCAL and wanted in {None, p.name}]
        if not self.profiles:
            raise UsageError(f"there is no profile {quoted(wanted or '')} with a key")

    def users(self, slot: KeySlot) -> list[Profile]:
        """The profiles that use the slot."""
        return [p for p in self.profiles if in_keyring(p) and slot_of(p) == slot]

    def place(self, name: str) -> tuple[KeySlot, Profile]:
        """The slot that `name` means, a stored key's or else a profile's, and a profile of it.

        Raises `UsageError` when it means none, or several.
        """
        admins = [replace(p, key=p.admin_key) for p in self.profiles if p.admin_key]
        holders = [p for p in (*self.profiles, *admins) if in_keyring(p)]
        slots = {slot_of(p) for p in holders if slot_of(p).name == name}
        if slots:
            slot = _only(name, slots, "a profile with -p")
            return slot, next(p for p in holders if slot_of(p) == slot)
        profile = self.profile(name)
        if not in_keyring(profile):
            raise UsageError(f"the profile {name} {elsewhere(profile)}")
        return slot_of(profile), profile

    def removable(self, name: str, origin: str | None) -> KeySlot:
        """The slot to delete: also one that no profile uses any more. Raises `UsageError`."""
        noted = {s for s in self.stored if s.name == name and origin in {None, s.origin, s.where}}
        if self.context.profile is not None:
            noted &= {slot_of(p) for p in self.profiles}
        if origin is not None and not noted:
            raise UsageError(f"no key {name} is stored for {quoted(origin)}")
        return _only(name, noted, "with --origin") if noted else self.place(name)[0]

    def profile(self, name: str) -> Profile:
        """The profile of this name, or one whose stored key has it. Raises `UsageError`."""
        named = [p for p in self.profiles if p.name == name]
        named += [p for p in self.profiles if in_keyring(p) and slot_of(p).name == name]
        if named:
            return named[0]
        if name in self.settings.profiles:
            raise UsageError(f"the profile {name} needs no key")
        names = sorted({p.name for p in self.profiles} | {s.name for s in self.stored})
        raise UsageError(
            f"no profile and no stored key has the name {quoted(redact_possible_keys(name))}; "
            f"{nearest(name, names)}"
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """While open, no other llmctl changes stored keys. Raises `BusyError`, `DiskError`."""
        with LockedFile.open(private_folder(self.state) / "keys.lock"):
            yield


def in_keyring(profile: Profile) -> bool:
    """Whether the profile's key may be a stored one."""
    if profile.auth is not None:
        return False
    return profile.key is None or profile.key.keyring is not None


def elsewhere(profile: Profile) -> str:
    """Where the key of a profile is that is no stored one, in words that complete "the profile
    NAME …", and how another one is used."""
    if profile.auth is not None:
        return "has an `auth`, whose tokens are renewed by themselves, and no key"
    source = profile.key
    assert source is not None
    if source.secret:
        mend = "store a new version there, and calls follow within 5 minutes"
        return f"takes its key from {source.secret}; {mend}"
    words = f"${source.env}" if source.env else f"the command {(source.command or [''])[0]}"
    mend = f"a stored one is used with key: {{keyring: {profile.name}}}"
    return f"takes its key from {words}, as its `key` says; {mend}"


@asynccontextmanager
async def key_api_of(places: KeyPlaces, profile: Profile) -> AsyncGenerator[KeyApi | None]:
    """The interface of the provider's keys; None where its admin key is not set up. Raises
    `NoKeyError` for one that cannot be used."""
    from llmctl.providers.key_admin import admin_places, open_key_api

    place, key = admin_places(profile, places.context.environ), None
    if place is not None:
        key = await places.resolver.find(replace(profile, key=place))
    if key is None:
        yield None
        return
    async with open_key_api(profile, key.value, key.source, places.context.clock) as api:
        yield api


def _only(name: str, slots: Iterable[KeySlot], way: str) -> KeySlot:
    first, *others = sorted(slots)
    if others:
        where = " and ".join(sorted(slot.where for slot in slots))
        raise UsageError(f"the name {name} stands for keys of {where}; choose {way}")
    return first


@dataclass
class KeyRow:
    """One key of `keys list`; `env` and `command` name its place, `secret` its address in a secrets
    manager. Never the key itself.

    Attributes:
        source: `environment`, `keyring`, `command`, `secret`, or `auth gcp` of a profile without a
            key.
        role: `primary`, `previous`, `new` or `missing`.
        created: Unix seconds; of stored keys alone.
        manager, version: the secrets manager's name, and its name of the newest version.
        hidden_by: the variable that is used instead of a stored key.
        problem: why the key cannot be used.

    """

    name: str
    origin: str
    source: str
    role: str
    last4: str | None = None
    env: str | None = None
    command: str | None = None
    secret: str | None = None
    manager: str | None = None
    version: str | None = None
    created: float | None = None
    age_s: float | None = None
    hidden_by: str | None = None
    problem: str | None = None
    profiles: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """The row for a person."""
        named = {"environment": f"${self.env}", "command": f"command {self.command}"}
        named["secret"] = f"{self.manager}, {self.secret}"
        where = named.get(self.source, self.source)
        where += f" ({self.version})" if self.version else ""
        where += f" (hidden by ${self.hidden_by})" if self.hidden_by else ""
        shown = f"…{self.last4 or ''}" if self.last4 is not None else "-"
        old = "?" if self.age_s is None else age(self.age_s)
        origin = KeySlot(self.name, self.origin).where
        return (self.name, origin, shown, where, old, self.role, " ".join(self.profiles) or "-")


def run_list(max_age: str | None, context: Context) -> int:
    """Print every key there is; 1 when one is older than `max_age`."""
    oldest = parsed("--max-age", "an age such as 90d, 12w or 24h", max_age, parse_age)
    places = KeyPlaces(context)
    wanted = {slot_of(p) for p in places.profiles if in_keyring(p)}
    orphans = places.stored - wanted if context.profile is None else frozenset()
    pairs: dict[KeySlot, KeyPair] = {}
    try:
        # Only what the index names: a keyring without keys of ours need not be opened.
        for slot in (wanted | orphans) & places.stored:
            pairs[slot] = places.resolver.keyring.read(slot)
    except KeyringUnavailable as error:
        if oldest is not None or places.stored:  # a list must not lie by leaving something out
            raise
        context.info(error.message.partition("\n")[0])
    rows = _rows(places, pairs, orphans)
    if context.json:
        print_json(rows)
    elif rows:
        head = ("NAME", "ORIGIN", "KEY", "SOURCE", "AGE", "ROLE", "PROFILES")
        print_table(head, [row.cells() for row in rows])
    else:
        context.info("no keys; store one with `llmctl keys set NAME`")
    for row in rows:
        if row.problem:
            context.warn(row.problem)
        if row.hidden_by and row.role == "primary":
            context.warn(f"${row.hidden_by} is set and hides the stored key {row.name}")
    return 0 if oldest is None else _check_ages(rows, oldest, context)


def _check_ages(rows: Sequence[KeyRow], oldest: float, context: Context) -> int:
    code = 0
    for row in rows:
        if row.source == "keyring" and row.role != "missing" and row.age_s is None:
            context.warn(f"the age of {row.name} ({row.role}) is not known")
        if row.age_s is not None and row.age_s > oldest:
            context.warn(f"{row.name} ({row.role}) is {age(row.age_s)} old: rotate it")
            code = 1
    return code


def _rows(
    places: KeyPlaces, pairs: dict[KeySlot, KeyPair], orphans: Iterable[KeySlot]
) -> list[KeyRow]:
    """Every key once, with the profiles that use it."""
    now = places.context.clock.wall()
    rows: dict[tuple[str | None, ...], KeyRow] = {}
    found = [(row, p.name) for p in places.profiles for row in _of_profile(places, p, pairs, now)]
    found += [(row, "") for slot in orphans for row in _stored(slot, pairs, now, None)]
    for row, profile in found:
        which = (
            row.name,
            row.origin,
            row.source,
            row.env,
            row.command,
            row.secret,
            row.role,
            row.hidden_by,
        )
        rows.setdefault(which, row).profiles += [profile] if profile else []
    return sorted(rows.values(), key=lambda row: (row.name, row.origin, row.hidden_by or ""))


def _of_profile(
    places: KeyPlaces, profile: Profile, pairs: dict[KeySlot, KeyPair], now: float
) -> list[KeyRow]:
    slot, source = slot_of(profile), profile.key
    if profile.auth is not None:
        return [KeyRow(*slot, f"auth {profile.auth.kind}", "primary")]
    row = KeyRow(*slot, "keyring", "missing")
    key, rows = None, []
    if source and (source.command or source.env or source.secret):
        _name_place(row, profile)
        try:
            if source.env:
                key = places.resolver.environment(profile)
            else:
                key = asyncio.run(places.resolver.require(profile))
        except (NoKeyError, SetupError, ConfigError) as error:
            row.problem = error.message
        if key:
            row.role, row.last4 = "primary", last_chars(key.value)[1:]
            row.version = key.version or None
        if key or row.problem or not source.keyring:
            rows.append(row)
    if in_keyring(profile):
        rows += _stored(slot, pairs, now, source.env if source and key else None)
    return rows or ([row] if source and source.keyring and not source.env else [])


def _name_place(row: KeyRow, profile: Profile) -> None:
    """Say in the row where the profile's own key is."""
    source = profile.key
    assert source
    if source.secret:
        row.source, row.secret = "secret", source.secret.text
        row.manager = manager_of(source.secret)
    elif source.command:
        row.source, row.command = "command", source.command[0]
    else:
        row.source, row.env = "environment", source.env


def _stored(
    slot: KeySlot, pairs: dict[KeySlot, KeyPair], now: float, hidden_by: str | None
) -> list[KeyRow]:
    pair, rows = pairs.get(slot, KeyPair()), []
    roles = {"primary": pair.primary, "previous": pair.previous, "new": pair.candidate}
    for role, key in roles.items():
        if key:
            row = KeyRow(*slot, "keyring", role, last_chars(key.key)[1:], hidden_by=hidden_by)
            row.created = key.created
            row.age_s = None if key.created is None else round(max(0.0, now - key.created), 3)
            rows.append(row)
    return rows
