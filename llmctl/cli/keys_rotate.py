"""Use cases `keys set`, `keys rotate` and `keys remove`: changes of stored keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from msgspec import Struct

from llmctl.cli.context import Context, read_secret
from llmctl.cli.keys_list import KeyPlace, KeyPlaces
from llmctl.cli.output import is_tty
from llmctl.config.settings import Profile
from llmctl.errors import CallError, UsageError
from llmctl.keys.key import KeyPair, KeySlot
from llmctl.keys.keyring_store import mark_stored
from llmctl.keys.rotation import Check, KeyStore, new_key
from llmctl.providers.models_api import key_page, probe
from llmctl.redact import last_chars


class RotateOptions(Struct, frozen=True):
    """Options of `keys rotate`. `extra`: further words; `finish`: end the rotation; `back`: undo
    it; neither: begin, or go on."""

    name: str
    extra: Sequence[str] = ()
    finish: bool = False
    back: bool = False


def run_set(name: str, extra: Sequence[str], context: Context) -> int:
    """Read a key, store it, and say where it went."""
    _refuse_words(extra)
    places = KeyPlaces(context)
    place = places.place(name)
    vault = places.resolver.keyring  # what is missing shows before a key is typed
    key = new_key(read_secret(f"Key for {place.slot.name} ({place.slot.where}): "))
    with places.held():
        mark_stored(places.state, place.slot, stored=True)
        KeyStore(vault, place.slot).store(key, context.clock.wall())
    print(
        f"stored the key {last_chars(key)} as {place.slot.name} for {place.slot.where} "
        f"in {vault.where}"
    )
    _notes(places, place, context)
    return 0


def run_rotate(options: RotateOptions, context: Context) -> int:
    """Begin a rotation, go on with it, end it, or undo it."""
    _refuse_words(options.extra)
    if options.finish and options.back:
        raise UsageError("--finish and --rollback exclude each other; give one of them")
    places = KeyPlaces(context)
    place = places.place(options.name)
    changes = KeyStore(places.resolver.keyring, place.slot)
    check = _check(place.profile, context)
    with places.held():
        if options.finish:
            return _finish(changes, check, context)
        if options.back:
            before = changes.read()
            return _rolled_back(before, changes.rollback(), place.slot)
        offered = _offered(changes, place)
        try:
            pair = changes.rotate(offered, context.clock.wall(), check, context.info)
        except CallError as error:
            context.info(f"{place.slot.name} is unchanged: the old key stays the primary")
            if changes.read().candidate:
                context.info(
                    f"the new key could not be checked and is kept: `llmctl keys rotate "
                    f"{options.name}` tries again, --rollback forgets it"
                )
            raise error from None
    assert pair.primary is not None
    print(
        f"{place.slot.name} for {place.slot.where}: the primary is {last_chars(pair.primary.key)}, "
        f"the previous key {last_chars(pair.previous.key) if pair.previous else 'none'} is kept"
    )
    context.info(
        f"revoke the previous key at {key_page(place.profile)}, then `llmctl keys rotate "
        f"{options.name} --finish`; --rollback swaps them back"
    )
    _notes(places, place, context)
    return 0


def run_remove(name: str, origin: str | None, extra: Sequence[str], context: Context) -> int:
    """Delete every key of a slot; `origin` chooses among several of one name."""
    _refuse_words(extra)
    places = KeyPlaces(context)
    target = places.removable(name, origin)
    with places.held():
        count = KeyStore(places.resolver.keyring, target).remove()
        mark_stored(places.state, target, stored=False)
    if not count:
        raise UsageError(f"no key {target.name} is stored for {target.where}")
    print(
        f"removed {'both keys' if count > 1 else 'the key'} {target.name} for {target.where} "
        f"from {places.resolver.keyring.where}"
    )
    return 0


def _refuse_words(words: Sequence[str]) -> None:
    """Raise `UsageError` for words where a key may have been put. They are not repeated: what is
    on a command line, everybody on the machine can read."""
    if words:
        raise UsageError(
            "a key is never given on the command line, where others can read it: type it at the "
            "prompt, or pipe it in on stdin (if that was a real key, revoke it)"
        )


def _offered(changes: KeyStore, place: KeyPlace) -> str | None:
    """The new key. At a terminal nobody is asked for one that is stored already; what is piped
    in is always read, and nothing at all means: go on."""
    empty = changes.read().sides.count(None)
    if empty == 2:
        return None
    begins = empty == 1
    if is_tty(sys.stdin) and not begins:
        return None
    text = read_secret(f"New key for {place.slot.name} ({place.slot.where}): ")
    return new_key(text) if begins or text.strip() else None


def _check(profile: Profile, context: Context) -> Check:
    def check(key: str) -> None:
        asyncio.run(probe(profile, key, context.clock))

    return check


def _finish(changes: KeyStore, check: Check, context: Context) -> int:
    before = changes.read()
    after = changes.finish(check)
    name = changes.slot.name
    if before.previous is None:
        context.info(f"{name} is not being rotated: there is nothing to finish")
        return 0
    assert after.primary is not None
    print(
        f"{name} for {changes.slot.where}: the key is {last_chars(after.primary.key)}; "
        f"the previous one, {last_chars(before.previous.key)}, is deleted"
    )
    return 0


def _rolled_back(before: KeyPair, after: KeyPair, slot: KeySlot) -> int:
    assert after.primary is not None or before.candidate is not None
    now = last_chars(after.primary.key) if after.primary else "none"
    if before.candidate:
        print(f"{slot.name} for {slot.where}: the new key is forgotten; the key is {now}")
    else:
        kept = last_chars(after.previous.key) if after.previous else "none"
        print(f"{slot.name} for {slot.where}: the primary is {now} again; {kept} is kept")
    return 0


def _notes(places: KeyPlaces, place: KeyPlace, context: Context) -> None:
    """Print which profiles use the key, and what hides it."""
    others = [name for name in places.users(place.slot) if name != place.slot.name]
    if others:
        context.info(f"profiles that use it: {', '.join(sorted({*others, place.profile.name}))}")
    source = place.profile.key
    if source and source.env and places.resolver.environment(place.profile):
        context.warn(f"${source.env} is set and hides the stored key: calls use that one")
