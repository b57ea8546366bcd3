"""Use case `keys rotate --every`: whether a key is due, and its rotation without anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from llmctl.cli.context import Context
from llmctl.cli.keys_list import KeyPlaces, elsewhere, in_keyring, key_api_of
from llmctl.cli.keys_rotate import last, notes, refuse_words, say_unchanged
from llmctl.cli.options import parsed
from llmctl.cli.output import age, print_lines
from llmctl.config.settings import Profile, parse_age
from llmctl.errors import (
    AuthFailed,
    CallError,
    CallTimeout,
    NoKeyError,
    PermissionRefused,
    RotationDue,
    UsageError,
)
from llmctl.keys.key import KeyPair, StoredKey
from llmctl.keys.renewal import Renewal, RotatingReader, due_in, usable
from llmctl.keys.requested_keys import RequestedKeys
from llmctl.keys.rotation import KeyStore
from llmctl.keys.secrets import LIMIT, SecretSource
from llmctl.providers.key_admin import admin_places
from llmctl.providers.key_api import KeyApi
from llmctl.providers.models_api import key_page, probe
from llmctl.providers.registry import key_api
from llmctl.redact import last_chars

T = TypeVar("T")

_SECRET_LIMIT = 180.0  # seconds until a manager has made a new version: its function may start cold
_SECRET_POLL = 3.0  # seconds between two looks


def run_every(name: str, extra: Sequence[str], every: str, context: Context) -> int:
    """Rotate the key where it is older than `every`; 0 also when it is not. Nothing is asked, and
    stdin is not read. Raises `RotationDue` where a person must make the new key."""
    refuse_words(extra)
    limit = parsed("--every", "an age such as 90d, 12w or 24h", every, parse_age)
    assert limit is not None
    places = KeyPlaces(context)
    named = {p.name: p for p in places.profiles}.get(name)
    if named and named.key and named.key.secret:
        asyncio.run(_rotate_secret(places, named, limit))
        return 0
    if named and not in_keyring(named):
        unknown = "" if named.auth else "nobody can tell how old the key is: "
        raise UsageError(f"{unknown}the profile {name} {elsewhere(named)}")
    slot, profile = places.place(name)
    if slot not in places.stored:
        _say_where(places, profile)
    store = KeyStore(places.resolver.keyring_for(profile), slot)
    with places.held():
        asyncio.run(_renew(places, profile, store, limit))
    notes(places, slot, profile)
    return 0


def _say_where(places: KeyPlaces, profile: Profile) -> None:
    """Raises `UsageError` where the key is in the environment."""
    if places.resolver.environment(profile):
        assert profile.key
        raise UsageError(
            f"nobody can tell how old the key in ${profile.key.env} is; store it with `llmctl keys "
            f"set {profile.name}`, and take it out of the environment"
        )


async def _renew(places: KeyPlaces, profile: Profile, store: KeyStore, every: float) -> None:
    context, slot = places.context, store.slot

    async def check(key: str) -> None:
        await probe(profile, key, context.clock)

    async with key_api_of(places, profile) as api:
        renewal = Renewal(
            store, RequestedKeys(places.state), api, check, context.clock, context.info
        )
        before = store.stored()
        try:
            pair = await renewal.resume()
            if (left := _left(pair, every, context)) > 0:
                _say_not_due(places, store, before, pair, left)
                return
            _require_means(places, profile, store, pair, api)
            pair = await renewal.replace()
        except CallError as error:
            now = store.read().primary
            if now == before.primary:
                say_unchanged(context, store, slot.name)
            else:
                context.info(f"the primary is {last(now)}; the same command ends the rotation")
            raise error from None
    _say_rotated(store, before, pair)
    if pair.previous:
        context.warn(
            f"the previous key {last(pair.previous)} was not made by llmctl and still works: "
            f"revoke it at {key_page(profile)}, then `llmctl keys rotate {slot.name} --finish`"
        )


def _left(pair: KeyPair, every: float, context: Context) -> float:
    """Seconds until the primary is due, 0 for one of unknown age."""
    left = due_in(pair.primary, every, context.clock.wall()) if pair.primary else None
    return 0.0 if left is None else left


def _say_not_due(
    places: KeyPlaces, store: KeyStore, before: KeyPair, pair: KeyPair, left: float
) -> None:
    now, slot = places.context.clock.wall(), store.slot
    if pair != before:
        _say_rotated(store, before, pair)
    when = datetime.fromtimestamp(now + left, UTC)
    print_lines(
        f"{slot.name} for {slot.where}: the key {last(pair.primary)} is {_age(pair.primary, now)}; "
        f"due in {age(left)}, on {when:%Y-%m-%d}"
    )
    if pair.previous:
        places.context.info(
            f"the previous key {last(pair.previous)} is kept: once it is revoked, `llmctl keys "
            f"rotate {slot.name} --finish`"
        )


def _say_rotated(store: KeyStore, before: KeyPair, after: KeyPair) -> None:
    kept = {side.key for side in after.sides if side}
    gone = [last(side) for side in before.sides if side and side.key not in kept]
    words = f"{' and '.join(gone)} is revoked and deleted"
    if after.previous:
        words = f"the previous key {last(after.previous)} is kept"
    print_lines(
        f"{store.slot.name} for {store.slot.where}: the primary is {last(after.primary)}; {words}"
    )


def _age(key: StoredKey | None, now: float) -> str:
    if key is None or key.created is None:
        return "of unknown age, as another program stored it,"
    return f"{age(now - key.created)} old"


def _require_means(
    places: KeyPlaces, profile: Profile, store: KeyStore, pair: KeyPair, api: KeyApi | None
) -> None:
    """Raises `RotationDue`, which says what to do, unless a key can be made and stored."""
    slot, now, page = store.slot, places.context.clock.wall(), key_page(profile)
    due = f"{slot.name} for {slot.where}: the key {last(pair.primary)} is {_age(pair.primary, now)}"
    due += " and due for rotation"
    if pair.previous:
        raise RotationDue(
            f"{due}, but the rotation before is not finished: revoke the key {last(pair.previous)} "
            f"at {page}, then `llmctl keys rotate {slot.name} --finish`"
        )
    kind = key_api(profile.provider)
    makes = kind is not None and kind.makes
    if makes and usable(api):
        return
    by_hand = f"make a new one at {page} and pipe it into `llmctl keys rotate {slot.name}`"
    place = admin_places(profile, places.context.environ)
    needed = f"${place.env}" if place and place.env else "`admin_key:` in the profile"
    if api is not None and api.lacks:
        needed = f"${api.lacks}"
    itself = f"; with {needed} set this command makes it itself" if makes else ""
    raise RotationDue(f"{due}: {by_hand}{itself}")


async def _rotate_secret(places: KeyPlaces, profile: Profile, every: float) -> None:
    """Have a secrets manager rotate the key, where it can, and check the new one. Raises
    `RotationDue` where it cannot, `CallTimeout` where it takes too long."""
    context = places.context
    (source,) = places.resolver.sources(profile)
    assert isinstance(source, SecretSource)
    reader, uri = source.reader, source.uri
    key = await places.resolver.find(profile)
    assert key is not None
    rotating = reader if isinstance(reader, RotatingReader) else None
    old = await _asked(source, rotating.age(uri)) if rotating else None
    if old is not None and old < every:
        when = datetime.fromtimestamp(context.clock.wall() + every - old, UTC)
        print_lines(
            f"{uri}: the key {last_chars(key.value)} is {age(old)} old; due in {age(every - old)}, "
            f"on {when:%Y-%m-%d}"
        )
        return
    aged = "of unknown age" if old is None else f"{age(old)} old"
    if rotating is None or await _asked(source, rotating.rotate(uri)) is None:
        raise RotationDue(
            f"{uri}: the key {last_chars(key.value)} is {aged} and due for rotation, which "
            f"{reader.name} does not do by itself here: make a new one at {key_page(profile)} and "
            "store it there as a new version; calls follow within 5 minutes"
        )
    until = context.clock.monotonic() + _SECRET_LIMIT
    new = key
    while new.value == key.value:
        if context.clock.monotonic() >= until:
            raise CallTimeout(
                f"{reader.name} began to rotate {uri}, and has made no new version within "
                f"{_SECRET_LIMIT:.0f} s; see there what its rotation function says"
            )
        await context.clock.sleep(_SECRET_POLL)
        found = await places.resolver.find(profile)
        assert found is not None
        new = found
    context.info(f"{reader.name} has made the key {last_chars(new.value)}; asking the provider")
    await probe(profile, new.value, context.clock)
    print_lines(
        f"{uri}: {reader.name} has replaced the key {last_chars(key.value)} by "
        f"{last_chars(new.value)}, which the provider accepts"
    )


async def _asked(source: SecretSource, asked: Awaitable[T]) -> T:
    """What a manager says. Raises `NoKeyError` that names it."""
    try:
        return await asyncio.wait_for(asked, 4 * LIMIT)
    except TimeoutError:
        why = f"no reply within {4 * LIMIT:.0f} s; see that it can be reached"
    except (NoKeyError, AuthFailed, PermissionRefused) as error:
        why = error.message
    raise NoKeyError(f"{source.reader.name}, {source.uri}: {why}")
