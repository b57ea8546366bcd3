"""Use cases `keys set`, `keys rotate` and `keys remove`: changes of stored keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from llmctl.cli.context import Context, read_secret
from llmctl.cli.keys_list import KeyPlaces
from llmctl.cli.output import is_tty, print_lines
from llmctl.config.settings import Profile
from llmctl.errors import CallError, InputError, UsageError
from llmctl.keys.key import KeyPair, KeySlot, StoredKey, usable
from llmctl.keys.keyring_store import mark_stored
from llmctl.keys.rotation import KeyStore
from llmctl.providers.models_api import key_page, probe
from llmctl.redact import last_chars


def run_set(name: str, extra: Sequence[str], context: Context) -> int:
    """Read a key, store it, and say where it went."""
    _refuse_words(extra)
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
    _notes(places, slot, profile)
    return 0


def run_rotate(
    name: str, extra: Sequence[str], context: Context, *, finish: bool, rollback: bool
) -> int:
    """Begin a rotation or go on with it, finish it, or roll it back."""
    _refuse_words(extra)
    if finish and rollback:
        raise UsageError("--finish and --rollback exclude each other; give one of them")
    places = KeyPlaces(context)
    slot, profile = places.place(name)
    changes = KeyStore(places.resolver.keyring_for(profile), slot)

    def check(key: str) -> None:
        asyncio.run(probe(profile, key, context.clock))

    with places.held():
        before = changes.read()
        if finish or rollback:
            after = changes.finish(check) if finish else changes.rollback()
            if finish and before.previous is None:
                context.info(f"{slot.name} is not being rotated: there is nothing to finish")
            else:
                print_lines(f"{slot.name} for {slot.where}: {_ended(before, after, finish=finish)}")
            return 0
        offered = _offered(before, slot)
        try:
            pair = changes.rotate(offered, context.clock.wall(), check, context.info)
        except CallError as error:
            context.info(f"{slot.name} is unchanged: the old key stays the primary")
            if changes.read().candidate:
                context.info(
                    f"the new key could not be checked and is kept: `llmctl keys rotate {name}` "
                    "tries again, --rollback forgets it"
                )
            raise error from None
    print_lines(
        f"{slot.name} for {slot.where}: the primary is {_last(pair.primary)}, "
        f"the previous key {_last(pair.previous)} is kept"
    )
    context.info(
        f"revoke the previous key at {key_page(profile)}, then `llmctl keys rotate {name} "
        "--finish`; --rollback swaps them back"
    )
    _notes(places, slot, profile)
    return 0


def run_remove(name: str, origin: str | None, extra: Sequence[str], context: Context) -> int:
    """Delete every key of a slot; `origin` chooses among several of one name."""
    _refuse_words(extra)
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


def _refuse_words(words: Sequence[str]) -> None:
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


def _ended(before: KeyPair, after: KeyPair, *, finish: bool) -> str:
    """What `--finish` or `--rollback` did."""
    now = _last(after.primary)
    if finish:
        return f"the key is {now}; the previous one, {_last(before.previous)}, is deleted"
    if before.candidate:
        return f"the new key is forgotten; the key is {now}"
    return f"the primary is {now} again; {_last(after.previous)} is kept"


def _last(key: StoredKey | None) -> str:
    return last_chars(key.key) if key else "none"


def _notes(places: KeyPlaces, slot: KeySlot, profile: Profile) -> None:
    """Print which profiles use the key, and what hides it."""
    names = {one.name for one in places.users(slot)}
    if names - {slot.name}:
        places.context.info(f"profiles that use it: {', '.join(sorted(names))}")
    source = profile.key
    if source and source.env and places.resolver.environment(profile):
        places.context.warn(f"${source.env} is set and hides the stored key: calls use that one")
