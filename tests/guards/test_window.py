"""Calls in flight, as the provider bears them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmctl.guards.window import Window


def test_an_overload_halves_it_once_for_all_in_flight() -> None:
    """Fifty calls that were in flight together say one thing together."""
    window = Window(64)
    era = window.era
    for _ in range(50):
        window.refused(era, told_when=False)
    assert window.size == 32


def test_it_grows_by_one_a_round() -> None:
    """As many answers as are in flight make room for one more, up to the ceiling."""
    window = Window(64)
    window.refused(window.era, told_when=False)
    for _ in range(33):
        window.answered()
    assert 32.9 < window.size < 33.1
    for _ in range(10_000):
        window.answered()
    assert window.size == 64


def test_being_told_when_to_come_back_does_not_shrink_it() -> None:
    """Three in ten refused with a retry-after is a matter of when, not of how many."""
    window = Window(50)
    for turn in range(1000):
        if turn % 10 < 3:
            window.refused(window.era, told_when=True)
        else:
            window.answered()
    assert window.size == 50


def test_a_flood_of_refusals_shrinks_it() -> None:
    """Six in ten refused means too many at a time, retry-after or not."""
    window = Window(50)
    for turn in range(100):
        if turn % 10 < 6:
            window.refused(window.era, told_when=True)
        else:
            window.answered()
    assert window.size < 25


@given(st.integers(1, 1000), st.lists(st.sampled_from(["answer", "wait", "no"]), max_size=300))
def test_at_least_one_and_at_most_the_ceiling(ceiling: int, events: list[str]) -> None:
    """Whatever the provider says, something may be in flight, and never too much."""
    window = Window(ceiling)
    for event in events:
        if event == "answer":
            window.answered()
        else:
            window.refused(window.era, told_when=event == "wait")
        assert 1 <= window.size <= ceiling
