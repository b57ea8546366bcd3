"""Key rotation: a pure state machine, and the driver that stores its steps.

A slot of the keyring has two sides. Each stores one key together with its state, so no second
record can disagree with it after a crash:

    settled   one key with a rank: the primary
    stored    beside it a candidate (no rank yet)
    rotated   both have a rank: the higher is the primary, the lower the previous key

Every step writes or deletes one side, never that of the only key known to work: a process killed
between two steps leaves a state from which the same command goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import AuthFailed, NoKeyError, PermissionRefused, UsageError
from llmctl.keys.key import Change, KeyPair, KeySlot, StoredKey
from llmctl.keys.keyring_store import Keyring
from llmctl.redact import last_chars


class Event(Enum):
    """What happens to a slot. `OFFER` and `REPLACE` bring a new key."""

    OFFER = auto()  # it is to become the primary by rotation
    REPLACE = auto()  # it is to be the only one from now on
    PASSED = auto()
    REFUSED = auto()
    FINISH = auto()
    ROLLBACK = auto()
    REMOVE = auto()


def transition(pair: KeyPair, event: Event, new: StoredKey | None = None) -> Change | None:
    """The next durable step of an event, None when nothing is (left) to do.

    Raises `UsageError`, in words that complete "NAME …".
    """
    primary, previous, candidate = pair.primary, pair.previous, pair.candidate
    if new:
        return _with_new_key(pair, event, new)
    deleted = {
        Event.REMOVE: candidate or previous or primary,
        Event.REFUSED: candidate,
        Event.ROLLBACK: candidate,
        Event.FINISH: previous,
    }.get(event)
    if deleted:
        return Change(pair.sides.index(deleted), None)
    if event is Event.PASSED and candidate:
        return Change(pair.sides.index(candidate), replace(candidate, rank=_next_rank(pair)))
    if event is Event.ROLLBACK and primary and previous:
        # The primary is given up, so its side is the one that may be written.
        lower = replace(primary, rank=(previous.rank or 0) - 1)
        return Change(pair.sides.index(primary), lower)
    return None


def _with_new_key(pair: KeyPair, event: Event, new: StoredKey) -> Change | None:
    primary, other = pair.primary, pair.previous or pair.candidate
    if primary and primary.key == new.key:
        if event is Event.REPLACE:
            return Change(pair.sides.index(other), None) if other else None
        if pair.previous:
            return None  # the same command again: its work is done
        raise UsageError("already has this key; make a new one at the provider first")
    if pair.previous:
        raise UsageError("is being rotated already; end that with --finish or --rollback first")
    free = next(n for n, side in enumerate(pair.sides) if side is None or side.rank is None)
    if event is Event.REPLACE:
        return Change(free, replace(new, rank=_next_rank(pair)))
    known = pair.candidate and pair.candidate.key == new.key
    return None if known else Change(free, replace(new, rank=None))


def _next_rank(pair: KeyPair) -> int:
    return (pair.primary.rank or 0) + 1 if pair.primary else 0


Check = Callable[[str], Awaitable[None]]
"""Makes one free call with a key; raises the `CallError` that says how it went wrong."""

Revoke = Callable[[StoredKey], Awaitable[bool]]
"""Revokes a key at its provider; False where only a person can. Raises `CallError`."""


class KeyStore(Struct, frozen=True):
    """Stores, rotates and removes the keys of one slot, one durable change at a time."""

    keyring: Keyring
    slot: KeySlot

    def read(self) -> KeyPair:
        """The slot as it is."""
        return self.keyring.read(self.slot)

    def store(self, key: str, now: float) -> None:
        """Make `key` the only one: the old one is deleted once the new one is safe."""
        pair: KeyPair | None = self.read()
        while pair:
            pair = self._step(pair, Event.REPLACE, StoredKey(key, now))

    def remove(self) -> int:
        """Delete every key of the slot; returns how many there were."""
        pair, count = self.read(), 0
        while after := self._step(pair, Event.REMOVE):
            pair, count = after, count + 1
        return count

    async def rotate(
        self, offered: str | None, now: float, check: Check, say: Callable[[str], None]
    ) -> KeyPair:
        """Take a rotation, from any state, to its end, where both keys are kept.

        `offered` None goes on with the key stored before. Raises `UsageError`, `NoKeyError` and
        the check's `CallError`: a refused key is deleted, an unchecked one kept to go on with.
        """
        pair = self.stored()
        if offered is not None:
            pair = self.offer(StoredKey(offered, now))
        elif pair.candidate:
            last = last_chars(pair.candidate.key)
            say(f"going on with the new key {last} that was stored before")
        return await self.promote(check) if pair.candidate else pair

    def stored(self) -> KeyPair:
        """The slot as it is. Raises `NoKeyError` where it is empty."""
        pair = self.read()
        if pair == KeyPair():
            raise NoKeyError(
                f"no key {self.slot.name} is stored for {self.slot.where}: there is nothing to "
                f"rotate; store one with `llmctl keys set {self.slot.name}`"
            )
        return pair

    def offer(self, new: StoredKey) -> KeyPair:
        """Store a candidate. Raises `UsageError`."""
        pair = self.read()
        return self._step(pair, Event.OFFER, new) or pair

    async def promote(self, check: Check) -> KeyPair:
        """Check the candidate, which becomes the primary. Raises as `rotate`."""
        pair = self.read()
        assert pair.candidate
        try:
            await check(pair.candidate.key)
        except (AuthFailed, PermissionRefused):
            self._step(pair, Event.REFUSED)
            raise
        return self._step(pair, Event.PASSED) or pair

    async def finish(self, check: Check, revoke: Revoke) -> tuple[KeyPair, bool]:
        """Check the primary once more, then revoke and delete the previous key; and whether it was
        revoked. Raises their errors, and `UsageError`."""
        pair = self.read()
        if pair.candidate:
            raise UsageError(
                f"{self.slot.name} is in the middle of a rotation; `llmctl keys rotate "
                f"{self.slot.name}` goes on with it, --rollback gives it up"
            )
        if pair.previous is None or pair.primary is None:
            return pair, False
        await check(pair.primary.key)
        # Revoked before it is deleted: what revokes it is stored with it.
        revoked = await revoke(pair.previous)
        return self._step(pair, Event.FINISH) or pair, revoked

    def rollback(self) -> KeyPair:
        """Swap primary and previous key; or delete a new key that is not the primary yet."""
        after = self._step(self.read(), Event.ROLLBACK)
        if after is None:
            raise UsageError(f"{self.slot.name} is not being rotated: there is nothing to undo")
        return after

    def _step(self, pair: KeyPair, event: Event, new: StoredKey | None = None) -> KeyPair | None:
        """The pair after the event's next step, durable; None when there is none."""
        try:
            change = transition(pair, event, new)
        except UsageError as error:
            raise UsageError(f"{self.slot.name} {error.message}") from None
        return self.keyring.write(self.slot, pair, change) if change else None
