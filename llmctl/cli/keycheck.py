"""`keys check`: whether the providers accept their keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from llmctl.cli.context import Context
from llmctl.cli.keyplaces import Places, source_words
from llmctl.config.settings import Profile
from llmctl.errors import CallError, NoKeyError
from llmctl.keys.key import Key, slot_of
from llmctl.providers.probe import probe
from llmctl.redact import last_chars


def run_check(names: Sequence[str], context: Context) -> int:
    """One free call for each key; 4 when one is refused or missing, 5 when nobody answers."""
    places = Places(context)
    profiles = [places.profile(name) for name in names] or places.profiles
    found = [(p, key, why) for p, key, why in _to_check(profiles, places) if key or names or why]
    if not found:
        raise NoKeyError("there is no key to check; store one with `llmctl keys set NAME`")
    results = asyncio.run(_probed(found, context))
    rows = [
        {"name": slot_of(p).name, "profile": p.name, "origin": slot_of(p).origin,
         "source": key.source if key else None, "last4": last_chars(key.value)[1:] if key else None,
         "ok": error is None, "error": error.message if error else None}
        for (p, key, _), error in zip(found, results, strict=True)
    ]  # fmt: skip
    if context.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    for (p, key, _), error in zip(found, results, strict=True):
        words = f"{p.name}  {slot_of(p).where}  {_words(key)}"
        if not context.json:
            print(f"{words}  {'ok' if error is None else 'FAILED'}")
    bad = [(p, e) for (p, _, _), e in zip(found, results, strict=True) if e is not None]
    for profile, error in bad:
        context.warn(f"{profile.name}: {error.message}")
    refused = [p.name for p, error in bad if error.exit_code == 4]
    if refused:
        raise NoKeyError(f"no usable key for {', '.join(refused)}")
    return max((error.exit_code for _, error in bad), default=0)


def _words(key: Key | None) -> str:
    return f"{last_chars(key.value)} ({key.source})" if key else "no key"


def _to_check(
    profiles: Sequence[Profile], places: Places
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
