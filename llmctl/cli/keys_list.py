"""Use cases `keys list` and `keys check`, and the places of keys that the configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from llmctl.cli.context import Context, load_settings, secret_prompt
from llmctl.cli.options import parsed
from llmctl.cli.output import age, print_json, print_table, write_stdout
from llmctl.config.load import Overrides
from llmctl.config.settings import Profile, Settings, parse_duration
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import CallError, NoKeyError, UsageError
from llmctl.keys.key import Key, KeyPair, KeySlot, slot_of
from llmctl.keys.keyring_store import KeyringUnavailable, stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.providers.models_api import probe
from llmctl.providers.registry import LOCAL
from llmctl.redact import last_chars, redact_possible_keys
from llmctl.storage.files import LockedFile, private_folder

_LONGEST_AGE = 36500 * 86400.0


class KeyPlace(Struct, frozen=True):
    """A slot of the keyring, and a profile that uses it."""

    slot: KeySlot
    profile: Profile


class KeyPlaces:
    """The profiles, the slots they use, and the resolver that looks there."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings: Settings = load_settings(context, Overrides(profile=context.profile))
        self.state = self.settings.folders.state
        self.stored = stored_slots(self.state)
        self.resolver = KeyResolver(context.environ, stored=self.stored, ask=secret_prompt())

    @property
    def profiles(self) -> list[Profile]:
        """The profiles that may have a key; the ones made by the user first."""
        found = [p for p in self.settings.profiles.values() if p.provider != LOCAL]
        if self.context.profile is not None:
            found = [p for p in found if p.name == self.context.profile]
            if not found:
                raise UsageError(f"there is no profile {quoted(self.context.profile)} with a key")
        return found

    def users(self, place: KeySlot) -> list[str]:
        """The profiles that use the slot."""
        return [p.name for p in self.profiles if in_keyring(p) and slot_of(p) == place]

    def place(self, name: str) -> KeyPlace:
        """The slot that `name` means: a stored key's name, or else a profile's.

        Raises `UsageError` when it means none, or several.
        """
        mine = {slot_of(p): p for p in reversed(self.profiles) if in_keyring(p)}
        found = [place for place in mine if place.name == name]
        if len(found) > 1:
            where = " and ".join(sorted(place.where for place in found))
            raise UsageError(
                f"the name {name} stands for keys of {where}; choose a profile with -p"
            )
        if found:
            return KeyPlace(found[0], mine[found[0]])
        profile = self.profile(name)
        if not in_keyring(profile):
            raise UsageError(
                f"the profile {name} takes its key from {source_words(profile)}, as its `key` "
                f"says; a stored one is used with key: {{keyring: {name}}}"
            )
        return KeyPlace(slot_of(profile), profile)

    def removable(self, name: str, origin: str | None) -> KeySlot:
        """The slot to delete: also one that no profile uses any more. Raises `UsageError`."""
        noted = sorted(s for s in self.stored if s.name == name)
        if self.context.profile is not None:
            noted = [s for s in noted if s in {slot_of(p) for p in self.profiles}]
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
            if in_keyring(profile) and slot_of(profile).name == name:
                return profile
        if name in self.settings.profiles:
            raise UsageError(f"the profile {name} needs no key")
        names = sorted({p.name for p in self.profiles} | {s.name for s in self.stored})
        raise UsageError(
            f"no profile and no stored key has the name {quoted(redact_possible_keys(name))}; "
            f"{nearest(name, names)}"
        )

    def orphans(self, used: Iterable[KeySlot]) -> list[KeySlot]:
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


@dataclass(slots=True)
class KeyRow:
    """One key. `source`: environment, keyring, command; `role`: primary, previous, new, or
    missing; `hidden_by`: the variable that is used instead; `created` in Unix seconds."""

    name: str
    origin: str
    source: str
    role: str
    key: str = field(default="", repr=False)
    env: str | None = None
    command: str | None = None
    created: float | None = None
    hidden_by: str | None = None
    problem: str | None = None
    profiles: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Where the key comes from, for a person."""
        named = {"environment": f"${self.env}", "command": f"command {self.command}"}
        words = named.get(self.source, self.source)
        return f"{words} (hidden by ${self.hidden_by})" if self.hidden_by else words

    def as_json(self, now: float) -> dict[str, Any]:
        """The row for a script; never the key."""
        return {
            "name": self.name, "origin": self.origin, "last4": last_chars(self.key)[1:] or None,
            "source": self.source, "env": self.env, "command": self.command, "role": self.role,
            "created": self.created,
            "age_s": None if self.created is None else round(max(0.0, now - self.created)),
            "hidden_by": self.hidden_by, "problem": self.problem, "profiles": self.profiles,
        }  # fmt: skip


def run_list(max_age: str | None, context: Context) -> int:
    """Print every key there is; 1 when one is older than `max_age`."""
    oldest = parsed("--max-age", "an age such as 90d, 12w or 24h", max_age, _age_limit)
    places = KeyPlaces(context)
    rows, unusable = _rows(places)
    now = context.clock.wall()
    if context.json:
        print_json([row.as_json(now) for row in rows])
    else:
        table = [
            (row.name, KeySlot(row.name, row.origin).where, last_chars(row.key) if row.key else "-",
             row.where, _age(row.created, now), row.role, " ".join(row.profiles) or "-")
            for row in rows
        ]  # fmt: skip
        if table:
            print_table(("NAME", "ORIGIN", "KEY", "SOURCE", "AGE", "ROLE", "PROFILES"), table)
        elif unusable is None:
            context.info("no keys; store one with `llmctl keys set NAME`")
    for row in rows:
        if row.problem:
            context.warn(row.problem)
        if row.hidden_by and row.role == "primary":
            context.warn(f"${row.hidden_by} is set and hides the stored key {row.name}")
    if unusable is not None:
        # A list that must not lie by leaving something out says so with its exit code.
        if oldest is not None or places.stored:
            raise unusable
        context.info(f"no keyring can be used: {unusable.why}")
    return _too_old(rows, oldest, now, context)


def _too_old(rows: Sequence[KeyRow], oldest: float | None, now: float, context: Context) -> int:
    if oldest is None:
        return 0
    for row in rows:
        if row.source == "keyring" and row.role != "missing" and row.created is None:
            context.warn(f"the age of {row.name} ({row.role}) is not known")
    old = [row for row in rows if row.created is not None and now - row.created > oldest]
    for row in old:
        context.warn(f"{row.name} ({row.role}) is {_age(row.created, now)} old: rotate it")
    return 1 if old else 0


def _rows(places: KeyPlaces) -> tuple[list[KeyRow], KeyringUnavailable | None]:
    """Every key, and why the keyring could not be read, if it could not."""
    rows: dict[tuple[str, ...], KeyRow] = {}
    unusable: KeyringUnavailable | None = None
    pairs: dict[KeySlot, KeyPair] = {}
    wanted = {slot_of(p) for p in places.profiles if in_keyring(p)}
    for place in sorted(wanted | set(places.orphans(wanted))):
        try:
            pairs[place] = places.resolver.keyring.read(place)
        except KeyringUnavailable as error:
            unusable = error
            break
    for profile in places.profiles:
        for row in _of_profile(profile, pairs, places):
            same = (row.name, row.origin, row.where, row.role)
            rows.setdefault(same, row).profiles.append(profile.name)
    for place in places.orphans(wanted):
        for row in _stored(place, pairs, None):
            rows[(row.name, row.origin, row.where, row.role)] = row
    return sorted(rows.values(), key=lambda r: (r.name, r.origin, r.hidden_by or "")), unusable


def _of_profile(profile: Profile, pairs: dict[KeySlot, KeyPair], places: KeyPlaces) -> list[KeyRow]:
    place, source = slot_of(profile), profile.key
    name = place.name
    if source and source.command:
        row = KeyRow(name, place.origin, "command", "primary", command=source.command[0])
        try:
            key = asyncio.run(places.resolver.require(profile))
            row.key = key.value if key else ""
        except NoKeyError as error:
            row.role, row.problem = "missing", error.message
        return [row]
    found: list[KeyRow] = []
    hidden_by = None
    if source and source.env:
        row = KeyRow(name, place.origin, "environment", "primary", env=source.env)
        try:
            key = places.resolver.environment(profile)
        except NoKeyError as error:
            key, row.role, row.problem = None, "missing", error.message
        if key:
            row.key, hidden_by = key.value, source.env
        if not key and not source.keyring:
            row.role = "missing"
        if key or row.role == "missing":
            found.append(row)
    if in_keyring(profile):
        stored = _stored(place, pairs, hidden_by)
        named = source is not None and source.env is None
        missing = [KeyRow(name, place.origin, "keyring", "missing")] if named else []
        found += stored or missing
    return found


def _stored(place: KeySlot, pairs: dict[KeySlot, KeyPair], hidden_by: str | None) -> list[KeyRow]:
    pair = pairs.get(place, KeyPair())
    roles = (("primary", pair.primary), ("previous", pair.previous), ("new", pair.candidate))
    return [
        KeyRow(place.name, place.origin, "keyring", role, entry.key,
            created=entry.created, hidden_by=hidden_by)
        for role, entry in roles
        if entry
    ]  # fmt: skip


def _age(created: float | None, now: float) -> str:
    return "?" if created is None else age(now - created)


def _age_limit(text: str) -> float | None:
    seconds = parse_duration(text)
    return seconds if seconds is not None and 0 < seconds <= _LONGEST_AGE else None


def run_check(names: Sequence[str], context: Context) -> int:
    """One free call for each key; 4 when one is refused or missing, 5 when nobody answers."""
    places = KeyPlaces(context)
    profiles = [places.profile(name) for name in names] or places.profiles
    found = [(p, key, why) for p, key, why in _to_check(profiles, places) if key or names or why]
    if not found:
        raise NoKeyError("there is no key to check; store one with `llmctl keys set NAME`")
    results = asyncio.run(_probed(found, context))
    checked = [(*each, error) for each, error in zip(found, results, strict=True)]
    if context.json:
        print_json([_check_json(p, key, error) for p, key, _, error in checked])
    else:
        lines = (
            f"{p.name}  {slot_of(p).where}  {_words(key)}  {'FAILED' if error else 'ok'}\n"
            for p, key, _, error in checked
        )
        write_stdout("".join(lines))
    bad = [(p, error) for p, _, _, error in checked if error is not None]
    for profile, error in bad:
        context.warn(f"{profile.name}: {error.message}")
    refused = [p.name for p, error in bad if error.exit_code == 4]
    if refused:
        raise NoKeyError(f"no usable key for {', '.join(refused)}")
    return max((error.exit_code for _, error in bad), default=0)


def _check_json(
    profile: Profile, key: Key | None, error: CallError | NoKeyError | None
) -> dict[str, Any]:
    return {
        "name": slot_of(profile).name,
        "profile": profile.name,
        "origin": slot_of(profile).origin,
        "source": key.source if key else None,
        "last4": last_chars(key.value)[1:] if key else None,
        "ok": error is None,
        "error": error.message if error else None,
    }


def _words(key: Key | None) -> str:
    return f"{last_chars(key.value)} ({key.source})" if key else "no key"


def _to_check(
    profiles: Sequence[Profile], places: KeyPlaces
) -> list[tuple[Profile, Key | None, NoKeyError | None]]:
    """Each key once for an origin, however many profiles use it. A profile that only the preset
    makes and that has no key is no failure."""
    seen: set[tuple[str, str]] = set()
    found: list[tuple[Profile, Key | None, NoKeyError | None]] = []
    for profile in profiles:
        try:
            key = asyncio.run(places.resolver.require(profile))
        except NoKeyError as error:
            found.append((profile, None, error if profile.source != "built in" else None))
            continue
        if key and (key.value, slot_of(profile).origin) not in seen:
            seen.add((key.value, slot_of(profile).origin))
            found.append((profile, key, None))
    return found


async def _probed(
    found: Sequence[tuple[Profile, Key | None, NoKeyError | None]], context: Context
) -> list[CallError | NoKeyError | None]:
    async def one(
        profile: Profile, key: Key | None, why: NoKeyError | None
    ) -> CallError | NoKeyError | None:
        if key is None:
            return why or NoKeyError(f"there is no key in {source_words(profile)}")
        try:
            await probe(profile, key.value, context.clock)
        except CallError as error:
            return error
        return None

    return list(await asyncio.gather(*(one(*each) for each in found)))
