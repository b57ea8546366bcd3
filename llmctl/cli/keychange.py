"""How `keys set`, `keys rotate` and `keys remove` travel: name → slot → keyring, step by step."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from msgspec import Struct

from llmctl.cli.context import Context
from llmctl.cli.keyplaces import Place, Places
from llmctl.cli.render import is_tty
from llmctl.cli.secret import read_secret, refuse_words
from llmctl.config.settings import Profile
from llmctl.errors import CallError, UsageError
from llmctl.keys.key import KeySlot
from llmctl.keys.keyring_store import mark_stored
from llmctl.keys.rotation import Check, KeyPair, KeyStore, RotationState, new_key
from llmctl.providers.probe import page, probe
from llmctl.redact import last_chars


class RotateOptions(Struct, frozen=True):
    """`extra`: what else stands on the command line; `finish`: end the window; `back`: undo;
    neither: begin, or go on."""

    name: str
    extra: Sequence[str] = ()
    finish: bool = False
    back: bool = False


def run_set(name: str, extra: Sequence[str], context: Context) -> int:
    """Read a key and store it; says where it went."""
    refuse_words(extra)
    places = Places(context)
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
    refuse_words(options.extra)
    if options.finish and options.back:
        raise UsageError("--finish and --rollback exclude each other; give one of them")
    places = Places(context)
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
            pair = changes.rotate(offered, context.clock.wall(), check, context.say)
        except CallError as error:
            context.say(f"{place.slot.name} is unchanged: the old key stays the primary")
            if changes.read().candidate:
                context.say(
                    f"the new key could not be checked and is kept: `llmctl keys rotate "
                    f"{options.name}` tries again, --rollback forgets it"
                )
            raise error from None
    assert pair.primary is not None
    print(
        f"{place.slot.name} for {place.slot.where}: the primary is {last_chars(pair.primary.key)}, "
        f"the previous key {last_chars(pair.previous.key) if pair.previous else 'none'} is kept"
    )
    context.say(
        f"revoke the previous key at {page(place.profile)}, then `llmctl keys rotate "
        f"{options.name} --finish`; --rollback swaps them back"
    )
    _notes(places, place, context)
    return 0


def run_remove(name: str, origin: str | None, extra: Sequence[str], context: Context) -> int:
    """Delete every key of a slot; `origin` chooses among several of one name."""
    refuse_words(extra)
    places = Places(context)
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


def _offered(changes: KeyStore, place: Place) -> str | None:
    """The new key. At a terminal nobody is asked for one that is stored already; what is piped
    in is always read, and nothing at all means: go on."""
    phase = changes.read().state
    if phase is RotationState.EMPTY:
        return None
    begins = phase is RotationState.SETTLED
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
        context.say(f"{name} is not being rotated: there is nothing to finish")
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


def _notes(places: Places, place: Place, context: Context) -> None:
    """What else a person should know: who uses the key, and what hides it."""
    others = [name for name in places.users(place.slot) if name != place.slot.name]
    if others:
        context.say(f"profiles that use it: {', '.join(sorted({*others, place.profile.name}))}")
    source = place.profile.key
    if source and source.env and places.resolver.environment(place.profile):
        context.warn(f"${source.env} is set and hides the stored key: calls use that one")
