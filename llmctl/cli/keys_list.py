"""Use cases `keys list` and `keys check`, and the places of keys that the configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llmctl.cli.context import Context, load_settings, secret_prompt
from llmctl.cli.options import parsed
from llmctl.cli.output import age, print_json, print_lines, print_table
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


class KeyPlaces:
    """The profiles, the slots they use, and the resolver that looks there."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings: Settings = load_settings(context, Overrides(profile=context.profile))
        self.state = self.settings.folders.state
        self.stored = stored_slots(self.state)
        self.resolver = KeyResolver(context.environ, stored=self.stored, ask=secret_prompt())
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
        found = {slot_of(p): p for p in reversed(self.profiles) if in_keyring(p)}
        found = {slot: p for slot, p in found.items() if slot.name == name}
        if len(found) > 1:
            raise UsageError(f"{_several(name, found)}; choose a profile with -p")
        if found:
            return next(iter(found.items()))
        profile = self.profile(name)
        source = profile.key
        if source and not in_keyring(profile):
            words = f"${source.env}" if source.env else f"the command {(source.command or [''])[0]}"
            raise UsageError(
                f"the profile {name} takes its key from {words}, as its `key` says; a stored one "
                f"is used with key: {{keyring: {name}}}"
            )
        return slot_of(profile), profile

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
            raise UsageError(f"{_several(name, noted)}; choose with --origin")
        return noted[0] if noted else self.place(name)[0]

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
        private_folder(self.state)
        with LockedFile.open(self.state / "keys.lock"):
            yield


def _several(name: str, slots: Iterable[KeySlot]) -> str:
    where = " and ".join(sorted(slot.where for slot in slots))
    return f"the name {name} stands for keys of {where}"


def in_keyring(profile: Profile) -> bool:
    """Whether the profile's key may be a stored one."""
    return profile.key is None or profile.key.keyring is not None


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

    def age(self, now: float) -> str:
        """How old the key is, for a person."""
        return "?" if self.created is None else age(now - self.created)

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
    elif rows:
        table = [
            (row.name, KeySlot(row.name, row.origin).where, last_chars(row.key) if row.key else "-",
             row.where, row.age(now), row.role, " ".join(row.profiles) or "-")
            for row in rows
        ]  # fmt: skip
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
    return 0 if oldest is None else _check_ages(rows, oldest, now, context)


def _check_ages(rows: Sequence[KeyRow], oldest: float, now: float, context: Context) -> int:
    old = 0
    for row in rows:
        if row.source == "keyring" and row.role != "missing" and row.created is None:
            context.warn(f"the age of {row.name} ({row.role}) is not known")
        if row.created is not None and now - row.created > oldest:
            context.warn(f"{row.name} ({row.role}) is {row.age(now)} old: rotate it")
            old = 1
    return old


def _age_limit(text: str) -> float | None:
    seconds = parse_duration(text)
    return seconds if seconds is not None and 0 < seconds <= _LONGEST_AGE else None


def _rows(places: KeyPlaces) -> tuple[list[KeyRow], KeyringUnavailable | None]:
    """Every key, and why the keyring could not be read, if it could not."""
    wanted = {slot_of(p) for p in places.profiles if in_keyring(p)}
    orphans = places.stored - wanted if places.context.profile is None else frozenset()
    unusable: KeyringUnavailable | None = None
    pairs: dict[KeySlot, KeyPair] = {}
    for slot in sorted(wanted | orphans):
        try:
            pairs[slot] = places.resolver.keyring.read(slot)
        except KeyringUnavailable as error:
            unusable = error
            break
    rows: dict[tuple[str, ...], KeyRow] = {}
    found = [(row, p.name) for p in places.profiles for row in _of_profile(p, pairs, places)]
    found += [(row, "") for slot in orphans for row in _stored(slot, pairs, None)]
    for row, profile in found:
        one = rows.setdefault((row.name, row.origin, row.where, row.role), row)
        one.profiles += [profile] if profile else []
    return sorted(rows.values(), key=lambda r: (r.name, r.origin, r.hidden_by or "")), unusable


def _of_profile(profile: Profile, pairs: dict[KeySlot, KeyPair], places: KeyPlaces) -> list[KeyRow]:
    slot, source = slot_of(profile), profile.key
    found: list[KeyRow] = []
    hidden_by = None
    if source and source.command:
        row = KeyRow(slot.name, slot.origin, "command", "primary", command=source.command[0])
        try:
            key = asyncio.run(places.resolver.require(profile))
            row.key = key.value if key else ""
        except NoKeyError as error:
            row.role, row.problem = "missing", error.message
        return [row]
    if source and source.env:
        row = KeyRow(slot.name, slot.origin, "environment", "missing", env=source.env)
        try:
            if key := places.resolver.environment(profile):
                row.role, row.key, hidden_by = "primary", key.value, source.env
        except NoKeyError as error:
            row.problem = error.message
        if row.key or row.problem or not source.keyring:
            found.append(row)
    if in_keyring(profile):
        stored = _stored(slot, pairs, hidden_by)
        if not stored and source is not None and source.env is None:
            stored = [KeyRow(slot.name, slot.origin, "keyring", "missing")]
        found += stored
    return found


def _stored(slot: KeySlot, pairs: dict[KeySlot, KeyPair], hidden_by: str | None) -> list[KeyRow]:
    pair = pairs.get(slot, KeyPair())
    roles = (("primary", pair.primary), ("previous", pair.previous), ("new", pair.candidate))
    return [
        KeyRow(slot.name, slot.origin, "keyring", role, entry.key,
            created=entry.created, hidden_by=hidden_by)
        for role, entry in roles
        if entry
    ]  # fmt: skip


KeyToCheck = tuple[Profile, Key | None, NoKeyError | None]


def run_check(names: Sequence[str], context: Context) -> int:
    """One free call for each key; 4 when one is refused or missing, 5 when nobody answers."""
    found = _keys_to_check(names, context)
    if not found:
        raise NoKeyError("there is no key to check; store one with `llmctl keys set NAME`")

    async def one(
        profile: Profile, key: Key | None, error: NoKeyError | None
    ) -> CallError | NoKeyError | None:
        try:
            if key is not None:
                await probe(profile, key.value, context.clock)
        except CallError as refused:
            return refused
        return error

    async def all_of_them() -> list[CallError | NoKeyError | None]:
        return await asyncio.gather(*(one(*each) for each in found))

    errors = asyncio.run(all_of_them())
    checked = [(p, slot_of(p), key, e) for (p, key, _), e in zip(found, errors, strict=True)]
    if context.json:
        rows = [
            {
                "name": slot.name,
                "profile": profile.name,
                "origin": slot.origin,
                "source": key.source if key else None,
                "last4": last_chars(key.value)[1:] if key else None,
                "ok": error is None,
                "error": error.message if error else None,
            }
            for profile, slot, key, error in checked
        ]
        print_json(rows)
    else:
        for profile, slot, key, error in checked:
            words = f"{last_chars(key.value)} ({key.source})" if key else "no key"
            print_lines(f"{profile.name}  {slot.where}  {words}  {'FAILED' if error else 'ok'}")
    bad = [(p.name, error) for p, _, _, error in checked if error is not None]
    for name, error in bad:
        context.warn(f"{name}: {error.message}")
    refused = [name for name, error in bad if error.exit_code == 4]
    if refused:
        raise NoKeyError(f"no usable key for {', '.join(refused)}")
    return max((error.exit_code for _, error in bad), default=0)


def _keys_to_check(names: Sequence[str], context: Context) -> list[KeyToCheck]:
    """Each key once for an origin, however many profiles use it, and those that are missing."""
    places = KeyPlaces(context)
    found: list[KeyToCheck] = []
    seen: set[tuple[str, str]] = set()
    for profile in [places.profile(name) for name in names] or places.profiles:
        try:
            key = asyncio.run(places.resolver.require(profile))
        except NoKeyError as error:
            # A profile that only the preset makes and that has no key is no failure.
            if names or profile.source != "built in":
                found.append((profile, None, error))
            continue
        if key and (key.value, slot_of(profile).origin) not in seen:
            seen.add((key.value, slot_of(profile).origin))
            found.append((profile, key, None))
    return found
