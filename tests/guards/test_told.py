"""What headers say of a provider's own allowance."""

from __future__ import annotations

import pytest

from llmctl.guards.told import Told


def test_it_fills_by_what_the_headers_imply() -> None:
    """10 left of 70, full in 60 s: one comes back every second."""
    told = Told()
    told.heard(10, 70, 60.0, on_the_way=0, now=100.0)
    for _ in range(10):
        assert told.wait(1, 100.0) == 0
        told.take(1)
    assert told.wait(1, 100.0) == pytest.approx(1.0)
    assert told.wait(1, 101.0) == 0


def test_calls_in_flight_may_not_have_been_counted() -> None:
    """10 left, but 9 on their way: one may go."""
    told = Told()
    told.heard(10, None, 30.0, on_the_way=9, now=0.0)
    assert told.wait(1, 0.0) == 0
    told.take(1)
    assert told.wait(1, 0.0) == 30.0


def test_after_the_reset_it_says_nothing() -> None:
    """Nothing left, reset in 5 s: after that the provider is asked itself."""
    told = Told()
    told.heard(0, 100, 5.0, on_the_way=0, now=0.0)
    assert 0 < told.wait(50, 0.0) <= 5
    assert told.wait(50, 5.0) == 0


def test_no_header_keeps_a_lane_longer_than_two_minutes() -> None:
    """A reset that is hours away is not waited for blindly."""
    told = Told()
    told.heard(0, None, 86_400.0, on_the_way=0, now=0.0)
    assert told.wait(1, 0.0) == 120


def test_half_a_word_is_no_word() -> None:
    """What remains without when, or when without what, changes nothing."""
    told = Told()
    told.heard(0, 10, None, on_the_way=0, now=0.0)
    told.heard(None, 10, 60.0, on_the_way=0, now=0.0)
    assert told.wait(1, 0.0) == 0
