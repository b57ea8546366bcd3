"""`keys list`: which keys there are, where each comes from, and how old it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.cli.context import Context
from llmctl.cli.keyplaces import Places, in_keyring
from llmctl.cli.table import print_table
from llmctl.config.settings import Profile, parse_duration
from llmctl.config.yaml_nodes import quoted
from llmctl.errors import NoKeyError, UsageError
from llmctl.keys.bounds import NoVaultError
from llmctl.keys.key import Slot, ending, slot
from llmctl.keys.rotation import Pair

_LONGEST_AGE = 36500 * 86400.0


@dataclass(slots=True)
class Row:
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
            "name": self.name, "origin": self.origin, "last4": ending(self.key)[1:] or None,
            "source": self.source, "env": self.env, "command": self.command, "role": self.role,
            "created": self.created,
            "age_s": None if self.created is None else round(max(0.0, now - self.created)),
            "hidden_by": self.hidden_by, "problem": self.problem, "profiles": self.profiles,
        }  # fmt: skip


def _seconds(max_age: str) -> float:
    """Raises `UsageError` when it is no duration."""
    seconds = parse_duration(max_age)
    if not seconds or seconds > _LONGEST_AGE:
        raise UsageError(f"--max-age must be a duration such as 90d, not {quoted(max_age)}")
    return seconds


def run_list(max_age: str | None, context: Context) -> int:
    """Print every key there is; 1 when one is older than `max_age`."""
    oldest = None if max_age is None else _seconds(max_age)
    places = Places(context)
    rows, unusable = _rows(places)
    now = context.clock.wall()
    if context.json:
        print(json.dumps([row.as_json(now) for row in rows], indent=2, ensure_ascii=False))
    else:
        table = [
            (row.name, Slot(row.name, row.origin).where, ending(row.key) if row.key else "-",
             row.where, _age(row.created, now), row.role, " ".join(row.profiles) or "-")
            for row in rows
        ]  # fmt: skip
        if table:
            print_table(("NAME", "ORIGIN", "KEY", "SOURCE", "AGE", "ROLE", "PROFILES"), table)
        elif unusable is None:
            context.say("no keys; store one with `llmctl keys set NAME`")
    for row in rows:
        if row.problem:
            context.warn(row.problem)
        if row.hidden_by and row.role == "primary":
            context.warn(f"${row.hidden_by} is set and hides the stored key {row.name}")
    if unusable is not None:
        # A list that must not lie by leaving something out says so with its exit code.
        if oldest is not None or places.stored:
            raise unusable
        context.say(f"no keyring can be used: {unusable.why}")
    return _too_old(rows, oldest, now, context)


def _too_old(rows: Sequence[Row], oldest: float | None, now: float, context: Context) -> int:
    if oldest is None:
        return 0
    for row in rows:
        if row.source == "keyring" and row.role != "missing" and row.created is None:
            context.warn(f"the age of {row.name} ({row.role}) is not known")
    old = [row for row in rows if row.created is not None and now - row.created > oldest]
    for row in old:
        context.warn(f"{row.name} ({row.role}) is {_age(row.created, now)} old: rotate it")
    return 1 if old else 0


def _rows(places: Places) -> tuple[list[Row], NoVaultError | None]:
    """Every key, and why the keyring could not be read, if it could not."""
    rows: dict[tuple[str, ...], Row] = {}
    unusable: NoVaultError | None = None
    pairs: dict[Slot, Pair] = {}
    wanted = {slot(p) for p in places.profiles if in_keyring(p)}
    for place in sorted(wanted | set(places.orphans(wanted))):
        try:
            pairs[place] = places.finder.vault.read(place)
        except NoVaultError as error:
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


def _of_profile(profile: Profile, pairs: dict[Slot, Pair], places: Places) -> list[Row]:
    place, source = slot(profile), profile.key
    name = place.name
    if source and source.command:
        row = Row(name, place.origin, "command", "primary", command=source.command[0])
        try:
            row.key = places.finder.keys(profile)[0].value
        except NoKeyError as error:
            row.role, row.problem = "missing", error.message
        return [row]
    found: list[Row] = []
    hidden_by = None
    if source and source.env:
        row = Row(name, place.origin, "environment", "primary", env=source.env)
        try:
            key = places.finder.environment(profile)
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
        missing = [Row(name, place.origin, "keyring", "missing")] if named else []
        found += stored or missing
    return found


def _stored(place: Slot, pairs: dict[Slot, Pair], hidden_by: str | None) -> list[Row]:
    pair = pairs.get(place, Pair())
    roles = (("primary", pair.primary), ("previous", pair.previous), ("new", pair.candidate))
    return [
        Row(place.name, place.origin, "keyring", role, entry.key,
            created=entry.created, hidden_by=hidden_by)
        for role, entry in roles
        if entry
    ]  # fmt: skip


def _age(created: float | None, now: float) -> str:
    """`3 d`, `5 h`, `2 min`; `?` when nobody knows."""
    if created is None:
        return "?"
    age = max(0.0, now - created)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= size:
            return f"{age / size:.0f} {unit}"
    return f"{age:.0f} s"
