"""Changing a key without a moment in which none works: a pure state machine.

A slot of the keyring has two sides. Each holds one entry, and the entry says itself what it is,
so there is no second record that could disagree after a crash:

    settled     one entry with a rank: the primary
    stored      beside it a candidate (no rank yet)
    checked     the same, and the provider has accepted the candidate
    rotated     both have a rank: the higher is the primary, the lower the previous key

Every transition is one write or one deletion of one side, and never of the side that holds the
only key known to work. A process that is killed between two of them leaves a state that the
same command goes on from. Promotion is a single write: the candidate gets the higher rank, and
with it the old primary *is* the previous key.
"""

from __future__ import annotations

import json
from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import UsageError


class Entry(Struct, frozen=True):
    """One side of a slot. `rank` None: a candidate; `created` in Unix seconds, if known."""

    key: str
    created: float | None = None
    rank: int | None = 0
    checked: bool = False

    def __repr__(self) -> str:
        return f"Entry([key], created={self.created}, rank={self.rank}, checked={self.checked})"

    def text(self) -> str:
        """How the entry is kept."""
        said = {"llmctl": 1, "key": self.key, "created": self.created, "rank": self.rank}
        return json.dumps(said | ({"checked": True} if self.checked else {}), ensure_ascii=False)


def entry(text: str) -> Entry:
    """The entry of a kept text. What llmctl did not write is a key as it stands: a person put
    it there with the keyring's own tools."""
    try:
        said = json.loads(text)
    except ValueError:
        return Entry(text)
    if not isinstance(said, dict) or said.get("llmctl") != 1:
        return Entry(text)
    key, created, rank = said.get("key"), said.get("created"), said.get("rank")
    if not isinstance(key, str) or not isinstance(rank, int | None):
        return Entry(text)
    when = created if isinstance(created, int | float) else None
    return Entry(key, when, rank, said.get("checked") is True)


class Phase(Enum):
    """Where a slot stands."""

    EMPTY = auto()
    SETTLED = auto()
    STORED = auto()
    CHECKED = auto()
    ROTATED = auto()


class Pair(Struct, frozen=True):
    """Both sides of a slot."""

    sides: tuple[Entry | None, Entry | None] = (None, None)

    def _ranked(self) -> list[int]:
        """The sides with a rank, the primary first."""
        found = [n for n, side in enumerate(self.sides) if side and side.rank is not None]
        return sorted(found, key=lambda n: -(self._at(n).rank or 0))

    def _at(self, side: int) -> Entry:
        found = self.sides[side]
        assert found is not None
        return found

    @property
    def primary(self) -> Entry | None:
        """The key that is used."""
        ranked = self._ranked()
        return self._at(ranked[0]) if ranked else None

    @property
    def previous(self) -> Entry | None:
        """The key that is used when the primary is refused."""
        ranked = self._ranked()
        return self._at(ranked[1]) if len(ranked) > 1 else None

    @property
    def candidate(self) -> Entry | None:
        """The key that may become the primary."""
        return next((side for side in self.sides if side and side.rank is None), None)

    @property
    def phase(self) -> Phase:
        """Where the slot stands."""
        if self.candidate:
            return Phase.CHECKED if self.candidate.checked else Phase.STORED
        if self.previous:
            return Phase.ROTATED
        return Phase.SETTLED if self.primary else Phase.EMPTY

    def side_of(self, entry: Entry) -> int:
        """On which side the entry is."""
        return next(n for n, side in enumerate(self.sides) if side is entry)

    @property
    def free(self) -> int:
        """A side without a rank: empty, or a candidate's."""
        ranked = self._ranked()
        return next(n for n in (0, 1) if n not in ranked)

    def after(self, change: Change) -> Pair:
        """The pair once the change has been made."""
        first, second = self.sides
        return Pair((change.entry, second) if change.side == 0 else (first, change.entry))


class Change(Struct, frozen=True):
    """One durable step: the entry that a side gets; None deletes it."""

    side: int
    entry: Entry | None


class Offer(Struct, frozen=True):
    """A new key that is to become the primary by rotation; `now` in Unix seconds."""

    key: str
    now: float


class Replace(Struct, frozen=True):
    """A key that is to be the only one from now on."""

    key: str
    now: float


class Event(Enum):
    """What else can happen to a slot."""

    PASSED = auto()
    REFUSED = auto()
    PROMOTE = auto()
    FINISH = auto()
    ROLLBACK = auto()
    REMOVE = auto()


def advance(pair: Pair, event: Offer | Replace | Event) -> Change | None:
    """The next durable step of an event, None when there is nothing (left) to do.

    Raises `UsageError` where the event makes no sense, in words that complete "NAME …".
    """
    if isinstance(event, Offer):
        return _offer(pair, event)
    if isinstance(event, Replace):
        return _replace(pair, event)
    if event is Event.REMOVE:
        last = pair.candidate or pair.previous or pair.primary
        return Change(pair.side_of(last), None) if last else None
    if pair.candidate:
        return _on_candidate(pair, pair.candidate, event)
    if pair.primary and pair.previous:
        return _on_window(pair, pair.primary, pair.previous, event)
    return None


def _on_candidate(pair: Pair, candidate: Entry, event: Event) -> Change | None:
    side = pair.side_of(candidate)
    if event in {Event.REFUSED, Event.ROLLBACK}:
        return Change(side, None)
    if event is Event.PASSED and not candidate.checked:
        return Change(side, replace(candidate, checked=True))
    if event is Event.PROMOTE and candidate.checked:
        rank = (pair.primary.rank or 0) + 1 if pair.primary else 0
        return Change(side, replace(candidate, rank=rank, checked=False))
    return None


def _on_window(pair: Pair, primary: Entry, previous: Entry, event: Event) -> Change | None:
    if event is Event.FINISH:
        return Change(pair.side_of(previous), None)
    if event is Event.ROLLBACK:
        # The primary is the one that is given up: its side is the one that may be written.
        return Change(pair.side_of(primary), replace(primary, rank=(previous.rank or 0) - 1))
    return None


def _offer(pair: Pair, offer: Offer) -> Change | None:
    if pair.primary and pair.primary.key == offer.key:
        if pair.phase is Phase.ROTATED:
            return None  # the same command again: it has done its work
        raise UsageError("already has this key; make a new one at the provider first")
    if pair.phase is Phase.ROTATED:
        raise UsageError("is being rotated already; end that with --finish or --rollback first")
    if pair.candidate and pair.candidate.key == offer.key:
        return None
    return Change(pair.free, Entry(offer.key, offer.now, None))


def _replace(pair: Pair, new: Replace) -> Change | None:
    primary, previous, candidate = pair.primary, pair.previous, pair.candidate
    if primary and primary.key == new.key:
        other = previous or candidate
        return Change(pair.side_of(other), None) if other else None
    if pair.phase is Phase.ROTATED:
        raise UsageError("is being rotated; end that with --finish or --rollback first")
    rank = (primary.rank or 0) + 1 if primary else 0
    return Change(pair.free, Entry(new.key, new.now, rank))
