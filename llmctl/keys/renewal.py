"""Rotation that needs nobody: the whole cycle, where the provider lets a program make keys.

    named → made → stored → checked → primary → the previous one revoked → deleted

Killed between any two of them, the next run goes on from what the keyring and the noted name say.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import SecretUri
from llmctl.errors import AuthFailed, PermissionRefused
from llmctl.keys.key import KeyPair, StoredKey
from llmctl.keys.requested_keys import RequestedKeys
from llmctl.keys.rotation import Check, KeyStore
from llmctl.keys.secrets import SecretReader
from llmctl.providers.key_api import KeyApi
from llmctl.redact import last_chars

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between the checks of a key just made, which a provider may not know everywhere yet."""


@runtime_checkable
class RotatingReader(SecretReader, Protocol):
    """A secrets manager that rotates its secrets itself. Raises as `SecretReader.read`."""

    async def age(self, uri: SecretUri) -> float | None:
        """Seconds since the newest version was made; None where that is not known."""

    async def rotate(self, uri: SecretUri) -> str | None:
        """Begin to make a new version, and its id; None where no rotation is set up."""


class Renewal(Struct, frozen=True):
    """Renews the key of a slot. Raises the `CallError`s of `check` and `api`, and `DiskError`.

    `api` None: nothing here makes or revokes keys. `say` gets a sentence for the user.
    """

    store: KeyStore
    requested: RequestedKeys
    api: KeyApi | None
    check: Check
    clock: Clock
    say: Callable[[str], None]

    async def resume(self) -> KeyPair:
        """End what an earlier run began, as far as that needs nobody: the previous key of a
        rotation that a person began is that person's to give up."""
        pair = self.store.stored()
        if pair.candidate:
            last = last_chars(pair.candidate.key)
            self.say(f"going on with the new key {last} that was stored before")
            pair = await self._promote(pair.candidate)
        return await self._end(pair)

    async def replace(self) -> KeyPair:
        """Make a key, which becomes the primary. The slot has a primary and nothing else, and the
        `api` makes keys."""
        api, slot, pair = self.api, self.store.slot, self.store.stored()
        assert api is not None
        assert pair.primary is not None
        await self._revoke_leftover(api, pair)
        now = self.clock.wall()
        name = f"llmctl {slot.name} {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"
        name += f" {secrets.token_hex(3)}"  # of this machine alone: others may rotate theirs
        self.requested.note(slot, name)
        made = await api.create(name, pair.primary.id)
        candidate = StoredKey(made.value, now, None, made.id)
        self.store.offer(candidate)
        return await self._end(await self._promote(candidate))

    async def _revoke_leftover(self, api: KeyApi, pair: KeyPair) -> None:
        """Revoke what was made by a run that was killed before it stored the key."""
        if (name := self.requested.name(self.store.slot)) is None:
            return
        stored = {side.id for side in pair.sides if side}
        for each in await api.named(name):
            if each not in stored:
                await api.revoke(each)
                self.say(f"revoked the key {name!r}, which an interrupted run had made")

    async def _promote(self, candidate: StoredKey) -> KeyPair:
        pair = await self.store.promote(self._check_made if candidate.id else self.check)
        self.requested.note(self.store.slot, None)
        return pair

    async def _check_made(self, key: str) -> None:
        for pause in PAUSES:
            try:
                return await self.check(key)
            except AuthFailed:
                await self.clock.sleep(pause)
        return await self.check(key)

    async def _end(self, pair: KeyPair) -> KeyPair:
        """Finish a rotation of ours whose previous key can be revoked."""
        primary, previous = pair.primary, pair.previous
        ours = primary is not None and primary.id is not None
        if not ours or previous is None or previous.id is None or not usable(self.api):
            return pair
        return (await self.store.finish(self.check, self.revoke))[0]

    async def revoke(self, key: StoredKey) -> bool:
        """Revoke a key at its provider; False where only a person can."""
        api, name = self.api, key.id
        if api is None or api.lacks:
            return False
        if name is None:
            try:
                name = await api.find(key.key)
            except (AuthFailed, PermissionRefused) as error:
                self.say(f"the previous key cannot be looked for: {error.message}")
        if name is None:
            return False
        await api.revoke(name)
        return True


def usable(api: KeyApi | None) -> bool:
    """Whether everything is set up to make and revoke keys."""
    return api is not None and api.lacks is None


def due_in(key: StoredKey, every: float, now: float) -> float | None:
    """Seconds until the key is as old as `every`; None where its age is not known."""
    return None if key.created is None else key.created + every - now
