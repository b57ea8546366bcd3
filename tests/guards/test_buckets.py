"""Requests and tokens per minute, as arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmctl.guards.buckets import Bucket


@given(
    per_minute=st.integers(1, 30_000),
    idle=st.floats(0, 600),
    jitter=st.lists(st.floats(0, 0.05), min_size=1, max_size=20),
)
def test_never_more_than_the_limit_in_any_minute(
    per_minute: int, idle: float, jitter: list[float]
) -> None:
    """However late its callers wake up, no half-open 60 seconds see more than the limit."""
    bucket = Bucket(per_minute)
    now = 1000.0
    bucket.wait(1, now)
    now += idle
    grants: list[float] = []
    for turn in range(min(per_minute * 2 + 2, 1500)):
        while wait := bucket.wait(1, now):
            now += wait + jitter[turn % len(jitter)]
        bucket.take(1, now)
        grants.append(now)
    for first, later in zip(grants, grants[per_minute:], strict=False):
        assert later - first >= 60 - 1e-6


def test_a_minute_of_demand_uses_the_allowance() -> None:
    """A bucket under constant demand lets at least 99% of its limit through."""
    bucket = Bucket(30_000)
    now, granted = 0.0, 0
    while now < 60:
        if wait := bucket.wait(1, now):
            now += wait
            continue
        bucket.take(1, now)
        granted += 1
    assert 0.99 * 30_000 <= granted <= 30_000


def test_a_request_larger_than_the_bucket_is_served() -> None:
    """A request above the bucket's size waits for a full bucket, not for ever, and is paid off."""
    bucket = Bucket(600, burst=10)
    assert bucket.wait(1000, 0.0) == 0
    bucket.take(1000, 0.0)
    assert bucket.wait(1, 0.0) > 90


def test_a_corrected_estimate_comes_back() -> None:
    """What a call did not use is there for the next one at once."""
    bucket = Bucket(600, burst=10)
    bucket.take(10, 0.0)
    assert bucket.wait(5, 0.0) > 0
    bucket.correct(8, 0.0)
    assert bucket.wait(5, 0.0) == 0


def test_two_that_share_a_bucket_keep_to_it_together() -> None:
    """Whoever takes hands on when the bucket is full again: that is all another one needs."""
    one = Bucket(600, burst=10)
    one.take(10, 0.0)
    other = Bucket(600, burst=10, full_at=one.full_at)
    assert other.wait(5, 0.0) == one.wait(5, 0.0) > 0
    assert other.wait(5, 0.0) == one.wait(5, 0.2) + 0.2
