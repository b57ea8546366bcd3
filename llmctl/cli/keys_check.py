"""Use case `keys check`: whether the providers accept the keys, and what else proves who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from llmctl.auth.clouds import open_auth
from llmctl.cli.context import Context
from llmctl.cli.keys_list import KeyPlaces
from llmctl.cli.output import print_json, print_lines
from llmctl.config.settings import Profile
from llmctl.errors import CallError, ConfigError, LlmctlError, NoKeyError, SetupError
from llmctl.keys.key import Key, slot_of
from llmctl.protocols import Auth
from llmctl.providers.models_api import probe
from llmctl.redact import last_chars


class Proof(Struct, frozen=True):
    """What a profile proves with who asks: a key of a `role` (`primary`, `previous` or `new`), its
    `auth`, or neither, as `error` says."""

    profile: Profile
    role: str = "primary"
    key: Key | None = None
    auth: Auth | None = None
    error: LlmctlError | None = None

    @property
    def name(self) -> str:
        """The profile, with the role where that is not the usual one."""
        return self.profile.name + ("" if self.role == "primary" else f" ({self.role})")

    @property
    def source(self) -> str | None:
        """Where it was found."""
        if self.profile.auth is not None:
            return f"auth {self.profile.auth.kind}"
        return self.key.source if self.key else None

    def words(self) -> str:
        """What it is, for a person."""
        if self.key is None:
            return self.source or "no key"
        role = "" if self.role == "primary" else f", {self.role}"
        return f"{last_chars(self.key.value)} ({self.key.source}{role})"


def run_check(names: Sequence[str], context: Context, *, reserve: bool) -> int:
    """One free call for each key, with a `reserve` for the previous ones and those that are not the
    primary yet, too; 4 when one is refused or missing, 5 when nobody answers."""
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    code = 0
    for proof, error in _checked(KeyPlaces(context), names, reserve=reserve):
        slot, last = slot_of(proof.profile), last_chars(proof.key.value) if proof.key else None
        row: dict[str, Any] = {"name": slot.name, "profile": proof.profile.name}
        row |= {"origin": slot.origin, "source": proof.source, "role": proof.role}
        row |= {"last4": last and last[1:]}
        rows.append({**row, "ok": error is None, "error": error.message if error else None})
        if not context.json:
            state = "FAILED" if error else "ok"
            print_lines(f"{proof.profile.name}  {slot.where}  {proof.words()}  {state}")
        if error:
            context.warn(f"{proof.name}: {error.message}")
            code = max(code, error.exit_code)
            refused += [proof.name] if error.exit_code == 4 else []
    if not rows:
        raise NoKeyError("there is no key to check; store one with `llmctl keys set NAME`")
    if context.json:
        print_json(rows)
    if refused:
        error = NoKeyError(f"no usable key for {', '.join(refused)}")
        error.reported = context.json
        raise error
    return code


def _checked(
    places: KeyPlaces, names: Sequence[str], *, reserve: bool
) -> Iterator[tuple[Proof, LlmctlError | None]]:
    """Each profile asked for, or of all of them each key once for an origin, however many use it,
    and those that are missing. A key is sent to an origin once."""
    seen = dict[tuple[str, str], LlmctlError | None]()
    for profile in [places.profile(name) for name in names] or places.profiles:
        for proof in _proofs(places, profile, reserve=reserve):
            # A profile that only the preset makes and that has no key is no failure.
            if proof.error and (names or profile.source != "built in"):
                yield proof, proof.error
            elif proof.key is None and proof.auth is not None:
                yield proof, _asked(places, profile, proof.auth)
            elif proof.key is not None:
                which = proof.key.value, slot_of(profile).origin
                if new := which not in seen:
                    seen[which] = _asked(places, profile, proof.key.value)
                if new or names:
                    yield proof, seen[which]


def _asked(places: KeyPlaces, profile: Profile, proof: str | Auth) -> CallError | None:
    try:
        asyncio.run(probe(profile, proof, places.context.clock))
    except CallError as error:
        return error
    return None


def _proofs(places: KeyPlaces, profile: Profile, *, reserve: bool) -> list[Proof]:
    """What the profile has; nothing for a server that is called without a key."""
    context, resolver = places.context, places.resolver
    try:
        if profile.auth is not None:
            return [Proof(profile, auth=open_auth(profile, context.environ, context.clock))]
        key = asyncio.run(resolver.require(profile))
        if key and reserve and key.managed:
            key = asyncio.run(resolver.find(profile, reserve=True))
    except (NoKeyError, SetupError, ConfigError) as error:
        return [Proof(profile, error=error)]
    if key is None:
        return []
    found = [Proof(profile, key=key)]
    if reserve and key.previous:
        found.append(Proof(profile, "previous", key.previous))
    if reserve and key.source == "keyring":
        candidate = resolver.keyring.read(slot_of(profile)).candidate
        found += [Proof(profile, "new", Key(candidate.key, "keyring"))] if candidate else []
    return found
