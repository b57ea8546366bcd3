"""The state machine of rotation: no step leaves a slot without a working key."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import UsageError
from llmctl.keys.key import KeyPair, StoredKey
from llmctl.keys.rotation import Event, transition

OLD, NEW, THIRD = (StoredKey(key, 2.0) for key in ("old-key-0001", "new-key-0002", "third-key-03"))
SETTLED = KeyPair((OLD, None))

Step = tuple[Event, StoredKey | None]
OFFER, PASSED = (Event.OFFER, NEW), (Event.PASSED, None)
FINISH, ROLLBACK, REMOVE = ((event, None) for event in (Event.FINISH, Event.ROLLBACK, Event.REMOVE))


def taken(pair: KeyPair, *steps: Step) -> Iterator[KeyPair]:
    """The pair after each durable step of these events."""
    for step in steps:
        while change := transition(pair, *step):
            pair = pair.after(change)
            yield pair
            if step[0] is Event.ROLLBACK:
                break  # another one would swap the keys again


def after(pair: KeyPair, *steps: Step) -> KeyPair:
    """The pair after all of these events."""
    return [pair, *taken(pair, *steps)][-1]


def roles(pair: KeyPair) -> tuple[str | None, ...]:
    """The first letters of the primary, the previous key and the candidate."""
    keys = (pair.primary, pair.previous, pair.candidate)
    return tuple(key.key[0] if key else None for key in keys)


STORED, ROTATED = after(SETTLED, OFFER), after(SETTLED, OFFER, PASSED)


def test_the_steps_of_a_rotation() -> None:
    """Stored, promoted with the previous kept, finished: three steps, in this order. A rollback
    swaps the keys, and another one swaps them again."""
    assert [roles(pair) for pair in taken(SETTLED, OFFER, PASSED, FINISH)] == [
        ("o", None, "n"),
        ("n", "o", None),
        ("n", None, None),
    ]
    assert [roles(pair) for pair in taken(ROTATED, ROLLBACK, ROLLBACK)] == [
        ("o", "n", None),
        ("n", "o", None),
    ]


@pytest.mark.parametrize("end", [FINISH, ROLLBACK])
@pytest.mark.parametrize("start", [SETTLED, KeyPair((None, StoredKey(OLD.key, 1.0, 7)))])
def test_no_step_touches_the_only_known_key(start: KeyPair, end: Step) -> None:
    """The side that a step writes or deletes never holds the primary, but in a rollback, which
    gives that primary up and keeps the previous key. So one of both keys is always found."""
    pair = start
    for step in (OFFER, PASSED, end):
        change = transition(pair, *step)
        assert change is not None
        assert pair.sides[change.side] != (pair.previous if step == ROLLBACK else pair.primary)
        pair = pair.after(change)
        assert {"o", "n"} & set(roles(pair)[:2])


def test_only_a_passed_check_promotes() -> None:
    """No event but the check's success makes the candidate the primary; what the provider
    refuses, or a rollback gives up, leaves the slot as it was."""
    for event in (Event.REFUSED, Event.ROLLBACK):
        assert after(STORED, (event, None)) == SETTLED
    for step in ((Event.REFUSED, None), FINISH, REMOVE, OFFER):
        assert {roles(pair)[0] for pair in [STORED, *taken(STORED, step)]} <= {"o", None}
    assert transition(SETTLED, Event.PASSED) is None
    alone = KeyPair((None, StoredKey("n", rank=None)))  # somebody deleted the other one by hand
    assert after(alone, PASSED).sides == (None, StoredKey("n"))


def test_the_same_command_again() -> None:
    """The same offer in any later state has nothing to do; another one is refused."""
    for pair in (STORED, ROTATED):
        assert transition(pair, *OFFER) is None
    for event in (Event.OFFER, Event.REPLACE):
        with pytest.raises(UsageError, match="--finish or --rollback"):
            transition(ROTATED, event, THIRD)
    with pytest.raises(UsageError, match="already has this key"):
        transition(SETTLED, Event.OFFER, OLD)


def test_replace_and_remove() -> None:
    """Setting a key writes the new one beside the old one before that is deleted, also from the
    middle of a rotation; removing takes everything, the primary last."""
    replaced = [roles(pair) for pair in taken(SETTLED, (Event.REPLACE, NEW))]
    assert replaced == [("n", "o", None), ("n", None, None)]
    assert roles(after(KeyPair(), (Event.REPLACE, NEW))) == ("n", None, None)
    assert roles(after(STORED, (Event.REPLACE, THIRD))) == ("t", None, None)
    assert list(map(roles, taken(ROTATED, REMOVE))) == [("n", None, None), (None, None, None)]


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(key=KEYS, created=st.floats(0, 4e9) | st.none(), rank=st.integers(-9, 9) | st.none())
def test_an_entry_is_kept_as_it_is(key: str, created: float | None, rank: int | None) -> None:
    """What is written is read, also as older versions wrote it; an entry never shows its key."""
    one = StoredKey(key, created, rank)
    assert StoredKey.from_text(one.to_text()) == one
    row = {"llmctl": 1, "key": key, "created": created, "rank": rank}
    assert StoredKey.from_text(json.dumps(row)) == one
    assert "[key]" in repr(one)


@given(st.text())
def test_what_others_wrote_is_a_key(text: str) -> None:
    """Any text that llmctl did not write is taken for a key, whatever it looks like."""
    assert StoredKey.from_text(text).key == text
    assert StoredKey.from_text('{"llmctl": 1, "key": 3}').key == '{"llmctl": 1, "key": 3}'


EVENTS = st.sampled_from([event for event in Event if event is not Event.REMOVE])


@given(st.lists(st.tuples(EVENTS, st.sampled_from([OLD, NEW, THIRD]))))
def test_any_history(steps: list[tuple[Event, StoredKey]]) -> None:
    """Whatever is done in whatever order, only a removal leaves a slot without a primary."""
    pair = SETTLED
    for event, key in steps:
        brings = event in {Event.OFFER, Event.REPLACE}
        try:
            change = transition(pair, event, key if brings else None)
        except UsageError:
            continue
        pair = pair.after(change) if change else pair
        assert pair.primary is not None
