"""Key rotation: a pure state machine, and the driver that stores its steps.

There is no moment in which no key works.

A slot of the keyring has two sides. Each side stores one key together with its state, so there
is no second record that could disagree with it after a crash:

    SETTLED   one key with a rank: the primary
    STORED    beside it a candidate (no rank yet)
    ROTATED   both have a rank: the higher is the primary, the lower the previous key

Every transition writes or deletes one side, never the side of the only key known to work. A
process that is killed between two of them leaves a state from which the same command goes on.
Promotion, once the provider has accepted the candidate, is a single write: the candidate gets the
higher rank, and with that the old primary *is* the previous key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import AuthFailed, InputError, NoKeyError, PermissionRefused, UsageError
from llmctl.keys.key import KeySlot, key_problem
from llmctl.redact import last_chars, remember


class StoredKey(Struct, frozen=True):
    """One side of a slot; `rank` None: a candidate; `created`: Unix seconds or None."""

    key: str
    created: float | None = None
    rank: int | None = 0

    def __repr__(self) -> str:
        return f"StoredKey([key], created={self.created}, rank={self.rank})"

    def to_text(self) -> str:
        """The JSON text that the keyring stores."""
        row = {"llmctl": 1, "key": self.key, "created": self.created, "rank": self.rank}
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> StoredKey:
        """The stored key of a text; text that llmctl did not write is a key as it stands."""
        try:
            row = json.loads(text)
        except ValueError:
            return cls(text)
        if not isinstance(row, dict) or row.get("llmctl") != 1:
            return cls(text)
        key, created, rank = row.get("key"), row.get("created"), row.get("rank")
        if not isinstance(key, str) or not isinstance(rank, int | None):
            return cls(text)
        when = created if isinstance(created, int | float) else None
        return cls(key, when, rank)


class RotationState(Enum):
    """State of a slot."""

    EMPTY = auto()
    SETTLED = auto()
    STORED = auto()
    ROTATED = auto()


class KeyPair(Struct, frozen=True):
    """Both sides of a slot."""

    sides: tuple[StoredKey | None, StoredKey | None] = (None, None)

    @property
    def primary(self) -> StoredKey | None:
        """The key that calls use."""
        return next(iter(self._ranked()), None)

    @property
    def previous(self) -> StoredKey | None:
        """The key that calls use when the primary is refused."""
        return next(iter(self._ranked()[1:]), None)

    @property
    def candidate(self) -> StoredKey | None:
        """The key that may become the primary."""
        return next((side for side in self.sides if side and side.rank is None), None)

    @property
    def state(self) -> RotationState:
        """State of the rotation."""
        if self.candidate:
            return RotationState.STORED
        if self.previous:
            return RotationState.ROTATED
        return RotationState.SETTLED if self.primary else RotationState.EMPTY

    @property
    def free_side(self) -> int:
        """The side without a rank: empty, or a candidate's."""
        return next(n for n, side in enumerate(self.sides) if side is None or side.rank is None)

    def side_of(self, key: StoredKey) -> int:
        """The side that the key is on."""
        return next(n for n, side in enumerate(self.sides) if side is key)

    def after(self, change: Change) -> KeyPair:
        """The pair once the change has been made."""
        first, second = self.sides
        return KeyPair((change.key, second) if change.side == 0 else (first, change.key))

    def _ranked(self) -> list[StoredKey]:
        found = [side for side in self.sides if side and side.rank is not None]
        return sorted(found, key=lambda side: -(side.rank or 0))


class Change(Struct, frozen=True):
    """One durable step: the key that a side gets; None deletes it."""

    side: int
    key: StoredKey | None


class Offer(Struct, frozen=True):
    """Event: a new key is to become the primary by rotation; `now` in Unix seconds."""

    key: str
    now: float


class Replace(Struct, frozen=True):
    """Event: a new key is to be the only one from now on; `now` in Unix seconds."""

    key: str
    now: float


class Event(Enum):
    """Events without a key: the check's result, and what the user asks for."""

    PASSED = auto()
    REFUSED = auto()
    FINISH = auto()
    ROLLBACK = auto()
    REMOVE = auto()


def transition(pair: KeyPair, event: Offer | Replace | Event) -> Change | None:
    """The next durable step of an event, None when nothing is (left) to do.

    Raises `UsageError` where the event makes no sense, in words that complete "NAME …".
    """
    primary, previous, candidate = pair.primary, pair.previous, pair.candidate
    if isinstance(event, Offer):
        return _offer(pair, event)
    if isinstance(event, Replace):
        return _replace(pair, event)
    if event is Event.REMOVE:
        last = candidate or previous or primary
        return Change(pair.side_of(last), None) if last else None
    if candidate:
        return _on_candidate(pair, candidate, event)
    if primary and previous:
        return _on_rotated(pair, primary, previous, event)
    return None


def _on_candidate(pair: KeyPair, candidate: StoredKey, event: Event) -> Change | None:
    side = pair.side_of(candidate)
    if event in {Event.REFUSED, Event.ROLLBACK}:
        return Change(side, None)
    if event is Event.PASSED:
        return Change(side, replace(candidate, rank=_next_rank(pair)))
    return None


def _on_rotated(
    pair: KeyPair, primary: StoredKey, previous: StoredKey, event: Event
) -> Change | None:
    if event is Event.FINISH:
        return Change(pair.side_of(previous), None)
    if event is Event.ROLLBACK:
        # The primary is given up, so its side is the one that may be written.
        return Change(pair.side_of(primary), replace(primary, rank=(previous.rank or 0) - 1))
    return None


def _offer(pair: KeyPair, offer: Offer) -> Change | None:
    rotated = pair.state is RotationState.ROTATED
    if pair.primary and pair.primary.key == offer.key:
        if rotated:
            return None  # the same command again: its work is done
        raise UsageError("already has this key; make a new one at the provider first")
    if rotated:
        raise UsageError("is being rotated already; end that with --finish or --rollback first")
    if pair.candidate and pair.candidate.key == offer.key:
        return None
    return Change(pair.free_side, StoredKey(offer.key, offer.now, None))


def _replace(pair: KeyPair, new: Replace) -> Change | None:
    if pair.primary and pair.primary.key == new.key:
        other = pair.previous or pair.candidate
        return Change(pair.side_of(other), None) if other else None
    if pair.state is RotationState.ROTATED:
        raise UsageError("is being rotated; end that with --finish or --rollback first")
    return Change(pair.free_side, StoredKey(new.key, new.now, _next_rank(pair)))


def _next_rank(pair: KeyPair) -> int:
    return (pair.primary.rank or 0) + 1 if pair.primary else 0


class PairStorage(Protocol):
    """Durable storage of key pairs; every method may raise `NoKeyError`."""

    @property
    def where(self) -> str: ...  # noqa: D102

    def read(self, slot: KeySlot) -> KeyPair:
        """The stored pair; an empty one when nothing is stored."""

    def write(self, slot: KeySlot, pair: KeyPair, change: Change) -> KeyPair:
        """Make one change durable, read it back, and return the pair after it."""


Check = Callable[[str], None]
"""Makes one free call with a key; raises the `CallError` that says how it went wrong."""


def new_key(text: str) -> str:
    """The key that a person typed or piped in. Raises `InputError`."""
    value = text.rstrip("\r\n")
    if not value:
        raise InputError("no key was given; type it at the prompt, or pipe it in on stdin")
    if why := key_problem(value):
        raise InputError(f"what was given {why}; give the key alone")
    remember(value)
    return value


class KeyStore(Struct, frozen=True):
    """Stores, rotates and removes the keys of one slot, one durable change at a time."""

    storage: PairStorage
    slot: KeySlot

    def read(self) -> KeyPair:
        """The slot as it is."""
        pair = self.storage.read(self.slot)
        for side in pair.sides:
            if side:
                remember(side.key)
        return pair

    def store(self, key: str, now: float) -> KeyPair:
        """Make `key` the only one: the old one is deleted once the new one is safe."""
        pair = self.read()
        while after := self._step(pair, Replace(key, now)):
            pair = after
        return pair

    def remove(self) -> int:
        """Delete every key of the slot; returns how many there were."""
        pair, count = self.read(), 0
        while after := self._step(pair, Event.REMOVE):
            pair, count = after, count + 1
        return count

    def rotate(
        self, offered: str | None, now: float, check: Check, say: Callable[[str], None]
    ) -> KeyPair:
        """Take a rotation, from any state, to `ROTATED`, in which both keys are kept.

        `offered` is the new key; None goes on with one that was stored before. Raises the
        check's `CallError`: a refused key is deleted, one that could not be checked is kept for
        the same command to go on with. Raises `UsageError`, `NoKeyError`.
        """
        pair = self.read()
        if pair.state is RotationState.EMPTY:
            raise NoKeyError(
                f"no key {self.slot.name} is stored for {self.slot.where}: there is nothing to "
                f"rotate; store one with `llmctl keys set {self.slot.name}`"
            )
        if offered is not None:
            pair = self._step(pair, Offer(offered, now)) or pair
        elif pair.candidate:
            say(
                f"going on with the new key {last_chars(pair.candidate.key)} that was stored before"
            )
        if pair.candidate is None:
            return pair
        try:
            check(pair.candidate.key)
        except (AuthFailed, PermissionRefused):
            self._step(pair, Event.REFUSED)
            raise
        return self._step(pair, Event.PASSED) or pair

    def finish(self, check: Check) -> KeyPair:
        """Check the primary once more, then delete the previous key.

        Raises the check's error, and keeps both keys then.
        """
        pair = self.read()
        if pair.candidate:
            raise UsageError(
                f"{self.slot.name} is in the middle of a rotation; `llmctl keys rotate "
                f"{self.slot.name}` goes on with it, --rollback gives it up"
            )
        if pair.previous is None or pair.primary is None:
            return pair
        check(pair.primary.key)
        return self._step(pair, Event.FINISH) or pair

    def rollback(self) -> KeyPair:
        """Swap primary and previous key; or delete a new key that is not the primary yet."""
        after = self._step(self.read(), Event.ROLLBACK)
        if after is None:
            raise UsageError(f"{self.slot.name} is not being rotated: there is nothing to undo")
        return after

    def _step(self, pair: KeyPair, event: Offer | Replace | Event) -> KeyPair | None:
        """The pair after the event's next step, durable; None when there is none."""
        try:
            change = transition(pair, event)
        except UsageError as error:
            raise UsageError(f"{self.slot.name} {error.message}") from None
        return self.storage.write(self.slot, pair, change) if change else None
