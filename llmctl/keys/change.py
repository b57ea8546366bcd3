"""Storing, rotating and removing keys: the state machine, driven over the keyring."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from llmctl.errors import AuthFailed, InputError, NoKeyError, PermissionRefused, UsageError
from llmctl.keys.key import Slot, ending, trimmed, wrong
from llmctl.keys.keyring_store import Vault
from llmctl.keys.rotation import Event, Offer, Pair, Phase, Replace, advance
from llmctl.redact import remember

Check = Callable[[str], None]
"""Makes one free call with a key; raises the `CallError` that says how it went wrong."""


def fresh(text: str) -> str:
    """The key that a person typed or a pipe brought. Raises `InputError`."""
    value = trimmed(text)
    if not value:
        raise InputError("no key was given; type it at the prompt, or pipe it in on stdin")
    if why := wrong(value):
        raise InputError(f"what was given {why}; give the key alone")
    remember(value)
    return value


class Changes(Struct, frozen=True):
    """Changes one slot of a keyring. Every step is durable, and read back, before the next."""

    vault: Vault
    slot: Slot

    def read(self) -> Pair:
        """The slot as it is."""
        pair = self.vault.read(self.slot)
        for side in pair.sides:
            if side:
                remember(side.key)
        return pair

    def store(self, key: str, now: float) -> Pair:
        """Make `key` the only one: the old one is deleted when the new one is safe."""
        return self._all(self.read(), Replace(key, now))

    def remove(self) -> int:
        """Delete every key of the slot; how many there were."""
        pair, count = self.read(), 0
        while change := self._step(pair, Event.REMOVE):
            pair, count = change, count + 1
        return count

    def rotate(
        self, offered: str | None, now: float, check: Check, say: Callable[[str], None]
    ) -> Pair:
        """Take a rotation to its window, in which both keys are kept, from wherever it stands.

        `offered` is the new key; None goes on with one that was stored before. Raises the
        check's `CallError`: a refused key is forgotten, one that could not be checked is kept
        for the same command to go on with. Raises `UsageError`, `NoKeyError`.
        """
        pair = self.read()
        if pair.phase is Phase.EMPTY:
            raise NoKeyError(
                f"no key {self.slot.name} is stored for {self.slot.where}: there is nothing to "
                f"rotate; store one with `llmctl keys set {self.slot.name}`"
            )
        if offered is not None:
            pair = self._step(pair, Offer(offered, now)) or pair
        elif pair.candidate:
            say(f"going on with the new key {ending(pair.candidate.key)} that was stored before")
        if pair.phase is Phase.STORED:
            assert pair.candidate is not None
            try:
                check(pair.candidate.key)
            except (AuthFailed, PermissionRefused):
                self._step(pair, Event.REFUSED)
                raise
            pair = self._step(pair, Event.PASSED) or pair
        if pair.phase is Phase.CHECKED:
            pair = self._step(pair, Event.PROMOTE) or pair
        return pair

    def finish(self, check: Check) -> Pair:
        """Check the primary once more, then delete the previous key. Raises the check's error,
        and keeps both."""
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

    def rollback(self) -> Pair:
        """Swap primary and previous; or forget a new key that is not primary yet."""
        pair = self.read()
        after = self._step(pair, Event.ROLLBACK)
        if after is None:
            raise UsageError(f"{self.slot.name} is not being rotated: there is nothing to undo")
        return after

    def _all(self, pair: Pair, event: Replace) -> Pair:
        while after := self._step(pair, event):
            pair = after
        return pair

    def _step(self, pair: Pair, event: Offer | Replace | Event) -> Pair | None:
        """The pair after the event's next step, durable; None when there is none."""
        try:
            change = advance(pair, event)
        except UsageError as error:
            raise UsageError(f"{self.slot.name} {error.message}") from None
        return self.vault.make(self.slot, pair, change) if change else None
