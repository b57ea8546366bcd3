"""Use cases `keys set`, `keys rotate` and `keys remove`: changes of stored keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from llmctl.cli.context import Context, read_secret
from llmctl.cli.keys_list import KeyPlaces, key_api_of
from llmctl.cli.output import is_tty, print_lines
from llmctl.config.settings import Profile
from llmctl.errors import CallError, InputError, UsageError
from llmctl.keys.key import KeyPair, KeySlot, StoredKey, usable
from llmctl.keys.keyring_store import mark_stored
from llmctl.keys.renewal import Renewal
from llmctl.keys.requested_keys import RequestedKeys
from llmctl.keys.rotation import Check, KeyStore
from llmctl.providers.models_api import key_page, probe
from llmctl.redact import last_chars


def run_set(name: str, extra: Sequence[str], context: Context) -> int:
    """Read a key, store it, and say where it went."""
    refuse_words(extra)
    places = KeyPlaces(context)
    slot, profile = places.place(name)
    keyring = places.resolver.keyring_for(profile)  # what is missing shows before a key is typed
    key = _new_key(read_secret(f"Key for {slot.name} ({slot.where}): "))
    with places.held():
        mark_stored(places.state, slot, stored=True)
        KeyStore(keyring, slot).store(key, context.clock.wall())
    print_lines(
        f"stored the key {last_chars(key)} as {slot.name} for {slot.where} in {keyring.where}"
    )
    notes(places, slot, profile)
    return 0


def run_rotate(
    name: str, extra: Sequence[str], context: Context, *, finish: bool, rollback: bool
) -> int:
    """Begin a rotation or go on with it, finish it, or roll it back."""
    refuse_words(extra)
    if finish and rollback:
        raise UsageError("--finish and --rollback exclude each other; give one of them")
    places = KeyPlaces(context)
    slot, profile = places.place(name)
    changes = KeyStore(places.resolver.keyring_for(profile), slot)

    async def check(key: str) -> None:
        await probe(profile, key, context.clock)

    with places.held():
        before = changes.read()
        if finish:
            asyncio.run(_finish(places, profile, changes, check))
            return 0
        if rollback:
            after = changes.rollback()
            print_lines(f"{slot.name} for {slot.where}: {_undone(before, after)}")
            return 0
        offered = _offered(before, slot)
        try:
            now = context.clock.wall()
            pair = asyncio.run(changes.rotate(offered, now, check, context.info))
        except CallError as error:
            say_unchanged(context, changes, name)
            raise error from None
    print_lines(
        f"{slot.name} for {slot.where}: the primary is {last(pair.primary)}, "
        f"the previous key {last(pair.previous)} is kept"
    )
    context.info(
        f"revoke the previous key at {key_page(profile)}, then `llmctl keys rotate {name} "
        "--finish`; --rollback swaps them back"
    )
    notes(places, slot, profile)
    return 0


async def _finish(places: KeyPlaces, profile: Profile, changes: KeyStore, check: Check) -> None:
    """End a rotation: the previous key is revoked where that can be done here, and deleted."""
    context, slot, before = places.context, changes.slot, changes.read()
    if before.previous is None and before.candidate is None:
        context.info(f"{slot.name} is not being rotated: there is nothing to finish")
        return
    async with key_api_of(places, profile) as api:
        renewal = Renewal(
            changes, RequestedKeys(places.state), api, check, context.clock, context.info
        )
        after, revoked = await changes.finish(check, renewal.revoke)
    how = "revoked and deleted" if revoked else "deleted"
    print_lines(
        f"{slot.name} for {slot.where}: the key is {last(after.primary)}; the previous one, "
        f"{last(before.previous)}, is {how}"
    )
    if not revoked:
        context.info(f"it works until it is revoked, at {key_page(profile)}")


def say_unchanged(context: Context, changes: KeyStore, name: str) -> None:
    """Say what a failed check leaves."""
    context.info(f"{changes.slot.name} is unchanged: the old key stays the primary")
    if changes.read().candidate:
        context.info(
            f"the new key could not be checked and is kept: `llmctl keys rotate {name}` "
            "tries again, --rollback forgets it"
        )


def run_remove(name: str, origin: str | None, extra: Sequence[str], context: Context) -> int:
    """Delete every key of a slot; `origin` chooses among several of one name."""
    refuse_words(extra)
    places = KeyPlaces(context)
    slot = places.removable(name, origin)
    with places.held():
        count = KeyStore(places.resolver.keyring, slot).remove()
        mark_stored(places.state, slot, stored=False)
    if not count:
        raise UsageError(f"no key {slot.name} is stored for {slot.where}")
    words = "both keys" if count > 1 else "the key"
    print_lines(
        f"removed {words} {slot.name} for {slot.where} from {places.resolver.keyring.where}"
    )
    return 0


def refuse_words(words: Sequence[str]) -> None:
    """Refuse words where a key may have been put, without repeating them. Raises `UsageError`."""
    if words:
        raise UsageError(
            "a key is never given on the command line, where others can read it: type it at the "
            "prompt, or pipe it in on stdin (if that was a real key, revoke it)"
        )


def _new_key(text: str) -> str:
    """The key that a person typed or piped in. Raises `InputError`."""
    value = text.rstrip("\r\n")
    if not value:
        raise InputError("no key was given; type it at the prompt, or pipe it in on stdin")
    return usable(value, "what was given", "give the key alone", InputError)


def _offered(pair: KeyPair, slot: KeySlot) -> str | None:
    """The new key. At a terminal nobody is asked for one that is stored already; what is piped
    in is always read, and nothing at all means: go on."""
    empty = pair.sides.count(None)
    if empty == 2 or (is_tty(sys.stdin) and empty == 0):
        return None
    text = read_secret(f"New key for {slot.name} ({slot.where}): ")
    return _new_key(text) if empty == 1 or text.strip() else None


def _undone(before: KeyPair, after: KeyPair) -> str:
    """What `--rollback` did."""
    now = last(after.primary)
    if before.candidate:
        return f"the new key is forgotten; the key is {now}"
    return f"the primary is {now} again; {last(after.previous)} is kept"


def last(key: StoredKey | None) -> str:
    """The last characters of a key, for people."""
    return last_chars(key.key) if key else "none"


def notes(places: KeyPlaces, slot: KeySlot, profile: Profile) -> None:
    """Print which profiles use the key, and what hides it."""
    names = {one.name for one in places.users(slot)}
    if names - {slot.name}:
        places.context.info(f"profiles that use it: {', '.join(sorted(names))}")
    source = profile.key
    if source and source.env and places.resolver.environment(profile):
        places.context.warn(f"${source.env} is set and hides the stored key: calls use that one")
