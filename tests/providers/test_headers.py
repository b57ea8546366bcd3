"""Waits and limits as providers write them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.providers.replies import MAX_WAIT, count, duration, retry_after, should_retry

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("12ms", 0.012),
        ("6m0s", 360),
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("1h2m3s", 3723),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Go-style durations, as OpenAI and Groq send them, are seconds."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1", "-1s", "1s2h", "s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is not said."""
    assert duration(text) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "1e9"}, MAX_WAIT),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW + 20, UTC), usegmt=True)}, 20),
        (
            {"retry-after": format_datetime(datetime.fromtimestamp(NOW - 20, UTC), usegmt=True)},
            None,
        ),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are honoured up to the bound; nonsense is not said."""
    assert retry_after(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=40))
def test_no_header_crashes(text: str) -> None:
    """Whatever a server writes, the wait is None or lies between 0 and the bound."""
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after({name: text}, now=NOW)
        assert wait is None or 0 <= wait <= MAX_WAIT
    duration(text)
    count(text)


def test_the_providers_own_word() -> None:
    """`x-should-retry` is true, false, or not said."""
    assert should_retry({"x-should-retry": "true"}) is True
    assert should_retry({"x-should-retry": "false"}) is False
    assert should_retry({"x-should-retry": "maybe"}) is should_retry({}) is None
