"""The state machine of rotation: no step leaves a slot without a working key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import UsageError
from llmctl.keys.key import KeyPair, StoredKey
from llmctl.keys.rotation import Event, transition

OLD, NEW, THIRD = (StoredKey(key, 2.0) for key in ("old-key-0001", "new-key-0002", "third-key-03"))
SETTLED = KeyPair((OLD, None))


@pytest.mark.parametrize("end", [Event.FINISH, Event.ROLLBACK])
@pytest.mark.parametrize("start", [SETTLED, KeyPair((None, StoredKey(OLD.key, 1.0, 7)))])
def test_no_step_touches_the_only_known_key(start: KeyPair, end: Event) -> None:
    """The side that a step writes or deletes never holds the primary, but in a rollback, which
    gives that primary up and keeps the previous key. So one of both keys is always found."""
    pair = start
    for event, new in ((Event.OFFER, NEW), (Event.PASSED, None), (end, None)):
        change = transition(pair, event, new)
        assert change is not None
        kept = pair.previous if event is Event.ROLLBACK else pair.primary
        assert pair.sides[change.side] != kept
        pair = pair.after(change)
        assert pair.primary


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
