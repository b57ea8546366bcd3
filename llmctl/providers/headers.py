"""Waits and limits as providers write them into headers; pure.

Sources: RFC 9110 (Retry-After), and the headers of OpenAI, Groq and vendors' SDKs
(`retry-after-ms`, `x-ratelimit-*`, resets such as `6m0s`, `12ms`, `7.66s`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

MAX_WAIT = 120.0
"""Seconds a provider's wait is honoured at most."""

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def duration(text: str) -> float | None:
    """Seconds of `1s`, `12ms`, `6m0s`, `2m59.56s`; None when it is none of these."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds, millis = (float(g or 0) for g in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def number(text: str | None) -> float | None:
    """A finite, non-negative number; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def count(text: str | None) -> int | None:
    """A whole number of requests or tokens; None for anything else."""
    value = number(text)
    return None if value is None else int(value)


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds the provider asks to wait, at most `MAX_WAIT`; None when it does not say.

    `retry-after-ms` wins over `retry-after` (seconds or an HTTP date, `now` being the seconds
    since the epoch). Nonsense (negative, NaN, a date in the past) counts as not said.
    """
    millis = number(headers.get("retry-after-ms"))
    if millis is not None:
        return min(millis / 1000, MAX_WAIT)
    text = headers.get("retry-after")
    if text is None:
        return None
    wait = number(text)
    if wait is None:
        wait = _until(text, now)
    return None if wait is None else min(wait, MAX_WAIT)


def _until(text: str, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # a date is rare, and this slow to load

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    wait = (when - datetime.fromtimestamp(now, UTC)).total_seconds()
    return wait if wait > 0 else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The provider's own word on retrying (`x-should-retry`); None when it has none."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())
