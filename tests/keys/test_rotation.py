"""The state machine of rotation: no step leaves a slot without a working key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import UsageError
from llmctl.keys.rotation import (
    Change,
    Event,
    KeyPair,
    Offer,
    Replace,
    RotationState,
    StoredKey,
    transition,
)

OLD, NEW = "old-key-0001", "new-key-0002"
SETTLED = KeyPair((StoredKey(OLD, 1.0, 0), None))


def taken(pair: KeyPair, *events: Offer | Replace | Event) -> Iterator[KeyPair]:
    """The pair after each durable step of these events."""
    for event in events:
        while change := transition(pair, event):
            pair = pair.after(change)
            yield pair
            if event is Event.ROLLBACK:
                break  # another one would swap the keys again


def after(pair: KeyPair, *events: Offer | Replace | Event) -> KeyPair:
    """The pair after all of these events."""
    return [pair, *taken(pair, *events)][-1]


ROTATION = (Offer(NEW, 2.0), Event.PASSED)
WINDOW = after(SETTLED, *ROTATION)


def test_the_steps_of_a_rotation() -> None:
    """Stored, promoted with the previous kept, finished: three steps, in this order."""
    states = list(taken(SETTLED, *ROTATION, Event.FINISH))
    assert [state.state for state in states] == [
        RotationState.STORED, RotationState.ROTATED, RotationState.SETTLED,
    ]  # fmt: skip
    primaries = [state.primary.key for state in states if state.primary]
    assert primaries == [OLD, NEW, NEW]
    assert states[1].previous
    assert states[1].previous.key == OLD
    assert states[2].previous is None


@pytest.mark.parametrize("event", [Event.FINISH, Event.ROLLBACK])
@pytest.mark.parametrize("flipped", [False, True])
def test_one_key_that_works_is_always_left(event: Event, *, flipped: bool) -> None:
    """Of the keys that the provider accepts, one is primary or previous after every step."""
    start = KeyPair((None, StoredKey(OLD, 1.0, 7))) if flipped else SETTLED
    for state in taken(start, *ROTATION, event):
        found = {e.key for e in (state.primary, state.previous) if e}
        assert OLD in found or NEW in found
        if NEW in found:
            assert state.state in {RotationState.ROTATED, RotationState.SETTLED}


def test_no_step_writes_over_the_only_known_key() -> None:
    """The side that a step writes or deletes never holds the primary, but in a rollback, which
    gives that primary up and keeps the previous key."""
    pair = SETTLED
    for event in (*ROTATION, Event.FINISH):
        change = transition(pair, event)
        assert change is not None
        assert pair.primary is not None
        assert change.side != pair.side_of(pair.primary)
        pair = pair.after(change)
    back = transition(WINDOW, Event.ROLLBACK)
    assert WINDOW.previous is not None
    assert back is not None
    assert back.side != WINDOW.side_of(WINDOW.previous)


def test_rollback_swaps() -> None:
    """A rollback makes the previous key the primary, and another one swaps them again."""
    back = WINDOW.after(transition(WINDOW, Event.ROLLBACK) or Change(0, None))
    assert back.primary
    assert back.previous
    assert (back.primary.key, back.previous.key) == (OLD, NEW)
    again = back.after(transition(back, Event.ROLLBACK) or Change(0, None))
    assert again.primary
    assert again.primary.key == NEW


def test_a_refused_candidate_is_forgotten() -> None:
    """What the provider refuses, or a rollback gives up, leaves the slot as it was."""
    stored = after(SETTLED, Offer(NEW, 2.0))
    for event in (Event.REFUSED, Event.ROLLBACK):
        assert after(stored, event) == SETTLED


def test_only_a_passed_check_promotes() -> None:
    """No event but the check's success makes the candidate the primary."""
    stored = after(SETTLED, Offer(NEW, 2.0))
    for event in (Event.REFUSED, Event.FINISH, Event.ROLLBACK, Event.REMOVE, Offer(NEW, 3.0)):
        primaries = [pair.primary for pair in (stored, *taken(stored, event)) if pair.primary]
        assert {primary.key for primary in primaries} == {OLD}
    assert transition(SETTLED, Event.PASSED) is None


def test_the_same_command_again() -> None:
    """The same offer in any later state has nothing to do; another one is refused."""
    for pair in (after(SETTLED, Offer(NEW, 2.0)), WINDOW):
        assert transition(pair, Offer(NEW, 3.0)) is None
    with pytest.raises(UsageError, match="--finish or --rollback"):
        transition(WINDOW, Offer("third-key-03", 3.0))
    with pytest.raises(UsageError, match="already has this key"):
        transition(SETTLED, Offer(OLD, 3.0))


def test_replace() -> None:
    """Setting a key writes the new one beside the old one before that is deleted."""
    states = list(taken(SETTLED, Replace(NEW, 2.0)))
    assert [s.state for s in states] == [RotationState.ROTATED, RotationState.SETTLED]
    assert all(s.primary and s.primary.key == NEW for s in states)
    assert after(KeyPair(), Replace(NEW, 2.0)).state is RotationState.SETTLED
    assert after(after(SETTLED, Offer("c" * 9, 2.0)), Replace(NEW, 3.0)).sides.count(None) == 1
    with pytest.raises(UsageError, match="being rotated"):
        transition(WINDOW, Replace("third-key-03", 2.0))


def test_remove() -> None:
    """Removing takes everything, the primary last."""
    states = list(taken(WINDOW, Event.REMOVE))
    assert [s.state for s in states] == [RotationState.SETTLED, RotationState.EMPTY]


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(
    key=KEYS,
    created=st.floats(0, 4e9) | st.none(),
    rank=st.integers(-9, 9) | st.none(),
)
def test_an_entry_is_kept_as_it_is(key: str, created: float | None, rank: int | None) -> None:
    """What is written is read; an entry never shows its key."""
    one = StoredKey(key, created, rank)
    assert StoredKey.from_text(one.to_text()) == one
    assert "[key]" in repr(one)


@given(st.text())
def test_what_others_wrote_is_a_key(text: str) -> None:
    """Any text that llmctl did not write is taken for a key, whatever it looks like."""
    assert StoredKey.from_text(text).key == text
    assert StoredKey.from_text('{"llmctl": 1, "key": 3}').key == '{"llmctl": 1, "key": 3}'


EVENTS = st.lists(
    st.sampled_from([*Event, Offer(OLD, 1), Offer(NEW, 2), Replace(OLD, 3), Replace("k3", 4)])
)


@given(EVENTS)
def test_any_history(events: list[Offer | Replace | Event]) -> None:
    """Whatever is done in whatever order, only a removal leaves a slot without a primary."""
    pair = SETTLED
    for event in events:
        if event is Event.REMOVE:
            continue
        try:
            change = transition(pair, event)
        except UsageError:
            continue
        if change:
            pair = pair.after(change)
        assert pair.primary is not None
