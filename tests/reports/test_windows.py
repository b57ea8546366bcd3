"""Spans of time, in any zone, over changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.config.settings import PERIODS
from llmctl.errors import UsageError
from llmctl.reports.periods import (
    Span,
    between,
    days,
    iso,
    moment,
    period_at,
    since,
    zone_named,
)

BERLIN, HOUR, DAY = ZoneInfo("Europe/Berlin"), 3_600_000, 86_400_000
NOW = moment(datetime(2026, 11, 21, 12, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "length"), [("7d", 7 * DAY), ("24h", DAY), ("2w", 14 * DAY), ("90m", 90 * 60_000)]
)
def test_so_long_ago(text: str, length: int) -> None:
    """A number of days is so many times 24 hours before now; now belongs to the span."""
    assert since(text, NOW, UTC) == Span(NOW - length, NOW + 1)


def test_since_a_date() -> None:
    """A date begins at midnight where the clocks of the zone say so."""
    assert since("2026-11-01", NOW, BERLIN).start == moment(datetime(2026, 10, 31, 23, tzinfo=UTC))


def test_between_two_dates_both_belong() -> None:
    """`--to` names the last day of the span."""
    span = between("2026-11-01", "2026-11-30", NOW, UTC)
    assert span.start == moment(datetime(2026, 11, 1, tzinfo=UTC))
    assert span.end == moment(datetime(2026, 12, 1, tzinfo=UTC))
    assert between("2026-11-01", None, NOW, UTC).end == NOW + 1
    assert between(None, "2026-11-01", NOW, UTC).start == 0


@pytest.mark.parametrize("text", ["", "d", "7y", "-1d", "0d", "2026-13-01", "2999-01-01", "7 d x"])
def test_since_wants_a_time(text: str) -> None:
    """Anything else is a usage error; a number alone may mean days."""
    with pytest.raises(UsageError):
        since(text, NOW, UTC)
    with pytest.raises(UsageError, match=r"did you mean 7d\?$"):
        since("7", NOW, UTC)


@pytest.mark.parametrize(
    ("first", "last"),
    [("x", None), ("2026-11-30", "2026-11-01"), ("2027-01-01", None), ("0001-01-01", None),
     (None, "9999-12-31"), ("2026-11-01T25:00", None)],
)  # fmt: skip
def test_an_empty_or_impossible_span_is_refused(first: str | None, last: str | None) -> None:
    """As is what is no date."""
    with pytest.raises(UsageError):
        between(first, last, NOW, UTC)


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "Europe", "a\0b"])
def test_an_unknown_zone(name: str) -> None:
    """It is named, with an example."""
    with pytest.raises(UsageError, match="no time zone"):
        zone_named(name)


def test_periods() -> None:
    """Weeks begin on Monday, months on the first, in the zone's own time."""
    week = period_at("week", NOW, UTC)
    assert (iso(week.start, UTC), iso(week.end, UTC)) == (
        "2026-11-16T00:00:00Z",
        "2026-11-23T00:00:00Z",
    )
    month = period_at("month", NOW, BERLIN)
    assert (iso(month.start, BERLIN), iso(month.end, BERLIN)) == (
        "2026-11-01T00:00:00+01:00",
        "2026-12-01T00:00:00+01:00",
    )
    december = moment(datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
    assert iso(period_at("month", december, UTC).end, UTC) == "2027-01-01T00:00:00Z"
    assert iso(period_at("month", december, BERLIN).start, BERLIN).startswith("2027-01-01")


zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(  # noqa: DTZ001
    lambda at: moment(at.replace(tzinfo=UTC))
)


@given(zone=zones, now=moments, period=st.sampled_from(PERIODS))
def test_now_belongs_to_its_period(zone: ZoneInfo, now: int, period: str) -> None:
    """In every zone of the world; every period is made of quarters of an hour."""
    span = period_at(period, now, zone)  # type: ignore[arg-type]
    assert now in span
    assert span.start % 900_000 == span.end % 900_000 == 0
    following = period_at(period, span.end, zone)  # type: ignore[arg-type]
    assert following.start == span.end


@given(zone=zones, start=moments, length=st.integers(1, 60 * DAY))
def test_days_cover_a_span(zone: ZoneInfo, start: int, length: int) -> None:
    """Without a gap, each once, in order."""
    span = Span(start, start + length)
    found = days(span, zone)
    starts = [begin for _, begin in found]
    assert starts[0] <= span.start
    assert starts == sorted(set(starts))
    assert all(begin in span for begin in starts[1:])
