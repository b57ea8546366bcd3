"""Use cases `keys list` and `keys check`, and the places of keys that the configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import parsed
from llmctl.cli.output import age, print_json, print_lines, print_table
from llmctl.config.load import Overrides
from llmctl.config.settings import Profile, parse_age
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import CallError, LlmctlError, NoKeyError, UsageError
from llmctl.keys.key import Key, KeyPair, KeySlot, slot_of
from llmctl.keys.keyring_store import KeyringUnavailable, stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.providers.models_api import probe
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
        slots = {slot_of(p) for p in self.profiles if in_keyring(p) and slot_of(p).name == name}
        if slots:
            slot = _only(name, slots, "a profile with -p")
            return slot, self.users(slot)[0]
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
    return profile.key is None or profile.key.keyring is not None


def _only(name: str, slots: Iterable[KeySlot], way: str) -> KeySlot:
    first, *others = sorted(slots)
    if others:
        where = " and ".join(sorted(slot.where for slot in slots))
        raise UsageError(f"the name {name} stands for keys of {where}; choose {way}")
    return first


@dataclass
class KeyRow:
    """One key of `keys list`; `env` and `command` name its place. Never the key itself.

    Attributes:
        source: `environment`, `keyring` or `command`.
        role: `primary`, `previous`, `new` or `missing`.
        created: Unix seconds; of stored keys alone.
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
    created: float | None = None
    age_s: float | None = None
    hidden_by: str | None = None
    problem: str | None = None
    profiles: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """The row for a person."""
        named = {"environment": f"${self.env}", "command": f"command {self.command}"}
        where = named.get(self.source, self.source)
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
        which = (row.name, row.origin, row.source, row.env, row.command, row.role, row.hidden_by)
        rows.setdefault(which, row).profiles += [profile] if profile else []
    return sorted(rows.values(), key=lambda row: (row.name, row.origin, row.hidden_by or ""))


def _of_profile(
    places: KeyPlaces, profile: Profile, pairs: dict[KeySlot, KeyPair], now: float
) -> list[KeyRow]:
    slot, source = slot_of(profile), profile.key
    row = KeyRow(*slot, "keyring", "missing")
    key, rows = None, []
    if source and (source.command or source.env):
        row.source, row.env = ("command" if source.command else "environment"), source.env
        row.command = source.command[0] if source.command else None
        try:
            if source.command:
                key = asyncio.run(places.resolver.require(profile))
            else:
                key = places.resolver.environment(profile)
        except NoKeyError as error:
            row.problem = error.message
        if key:
            row.role, row.last4 = "primary", last_chars(key.value)[1:]
        if key or row.problem or not source.keyring:
            rows.append(row)
    if in_keyring(profile):
        rows += _stored(slot, pairs, now, source.env if source and key else None)
    return rows or ([row] if source and source.keyring and not source.env else [])


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


def run_check(names: Sequence[str], context: Context) -> int:
    """One free call for each key; 4 when one is refused or missing, 5 when nobody answers."""
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    code = 0
    for profile, key, error in _checked(KeyPlaces(context), names):
        slot, last = slot_of(profile), last_chars(key.value) if key else None
        row: dict[str, Any] = {"name": slot.name, "profile": profile.name, "origin": slot.origin}
        row |= {"source": key.source if key else None, "last4": last and last[1:]}
        rows.append({**row, "ok": error is None, "error": error.message if error else None})
        if not context.json:
            words = f"{last} ({key.source})" if key else "no key"
            print_lines(f"{profile.name}  {slot.where}  {words}  {'FAILED' if error else 'ok'}")
        if error:
            context.warn(f"{profile.name}: {error.message}")
            code = max(code, error.exit_code)
            refused += [profile.name] if error.exit_code == 4 else []
    if not rows:
        raise NoKeyError("there is no key to check; store one with `llmctl keys set NAME`")
    if context.json:
        print_json(rows)
    if refused:
        raise NoKeyError(f"no usable key for {', '.join(refused)}")
    return code


def _checked(
    places: KeyPlaces, names: Sequence[str]
) -> Iterator[tuple[Profile, Key | None, LlmctlError | None]]:
    """Each profile asked for, or of all of them each key once for an origin, however many use it,
    and those that are missing. A key is sent to an origin once."""
    seen = dict[tuple[str, str], CallError | None]()
    for profile in [places.profile(name) for name in names] or places.profiles:
        try:
            key = asyncio.run(places.resolver.require(profile))
        except NoKeyError as error:
            # A profile that only the preset makes and that has no key is no failure.
            if names or profile.source != "built in":
                yield profile, None, error
            continue
        if key is None:
            continue
        which = key.value, slot_of(profile).origin
        if which not in seen:
            seen[which] = None
            try:
                asyncio.run(probe(profile, key.value, places.context.clock))
            except CallError as error:
                seen[which] = error
        elif not names:
            continue
        yield profile, key, seen[which]
