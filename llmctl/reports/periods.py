"""Spans of time as people name them: `7d`, a date, a month; in any time zone. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from msgspec import Struct

from llmctl.config.settings import Period
from llmctl.errors import UsageError

_AGO = re.compile(r"(\d{1,6})\s*(m|h|d|w)")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAY = timedelta(days=1)
_FIRST, _LAST = date(1970, 1, 1), date(9998, 12, 31)


class Span(Struct, frozen=True):
    """From `start` to before `end`, in milliseconds since the epoch."""

    start: int
    end: int

    def __contains__(self, moment: int) -> bool:
        return self.start <= moment < self.end


def zone_named(name: str) -> tzinfo:
    """The IANA time zone. Raises `UsageError`."""
    if name.upper() in {"UTC", "Z"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise UsageError(
            f"there is no time zone {name!r}; write one such as UTC, Europe/Berlin or "
            "America/New_York"
        ) from None


def moment(at: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def local(milliseconds: int, zone: tzinfo) -> datetime:
    """The moment on the clocks of a zone."""
    return datetime.fromtimestamp(milliseconds / 1000, zone)


def midnight(day: date, zone: tzinfo) -> int:
    """When the day begins there. Where clocks skip midnight it begins when they do."""
    return moment(datetime(day.year, day.month, day.day, tzinfo=zone))


def since(text: str, now: int, zone: tzinfo) -> Span:
    """`7d`, `24h`, `2w`, `90m`: so long ago until now; a date: from its midnight until now.

    A day is 24 hours here, whatever clocks were changed meanwhile. Raises `UsageError`.
    """
    match = _AGO.fullmatch(text.strip().lower())
    if match:
        start = now - int(match[1]) * _UNITS[match[2]] * 1000
    elif _DATE.fullmatch(text.strip()):
        start = midnight(_date(text, "--since"), zone)
    else:
        hint = f"; did you mean {text.strip()}d?" if text.strip().isdecimal() else ""
        raise UsageError(
            f"--since wants a time such as 7d, 24h, 2w or 2026-11-01, not {text!r}{hint}"
        )
    if start >= now:
        raise UsageError(f"--since {text} is not in the past")
    return Span(start, now + 1)


def between(first: str | None, last: str | None, now: int, zone: tzinfo) -> Span:
    """From a date or time to another; the day that `last` names belongs to it. None: from the
    first call, or until now. Raises `UsageError`."""
    start = 0 if first is None else _instant(first, "--from", zone)
    if last is None:
        end = now + 1
    elif _DATE.fullmatch(last.strip()):
        end = midnight(_date(last, "--to") + _DAY, zone)
    else:
        end = _instant(last, "--to", zone)
    if start >= end:
        raise UsageError("the span is empty: --from must come before --to (and not lie ahead)")
    return Span(start, end)


def span_of(
    ago: str | None,
    first: str | None,
    last: str | None,
    now: int,
    zone: tzinfo,
    *,
    today: bool = False,
) -> Span:
    """The span that `--since`, or `--from` and `--to`, name; without any the last 30 days, or
    `today` until now. Raises `UsageError`."""
    if first is None and last is None:
        if ago is None and today:
            return Span(period_at("day", now, zone).start, now + 1)
        return since(ago or "30d", now, zone)
    if ago is None:
        return between(first, last, now, zone)
    raise UsageError("--since and --from/--to exclude each other; give one of them")


def period_at(period: Period, now: int, zone: tzinfo) -> Span:
    """The day, week (from Monday) or month that `now` belongs to."""
    first = local(now, zone).date()
    if period == "month":
        first = first.replace(day=1)
        following = (first + 31 * _DAY).replace(day=1)
    else:
        first -= _DAY * (first.weekday() if period == "week" else 0)
        following = first + _DAY * (7 if period == "week" else 1)
    return Span(midnight(first, zone), midnight(following, zone))


def days(span: Span, zone: tzinfo) -> list[tuple[date, int]]:
    """Every day that the span touches, with when it begins there."""
    first, last = local(span.start, zone).date(), local(span.end - 1, zone).date()
    found = [first + n * _DAY for n in range((last - first).days + 1)]
    return [(day, midnight(day, zone)) for day in found]


def iso(milliseconds: int, zone: tzinfo) -> str:
    """ISO 8601 with the zone's offset; `Z` for UTC."""
    at = local(milliseconds, zone)
    text = at.isoformat(timespec="seconds" if at.microsecond == 0 else "milliseconds")
    return text.replace("+00:00", "Z") if zone is UTC else text


def _date(text: str, flag: str) -> date:
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no date: write YYYY-MM-DD") from None
    if not _FIRST <= day <= _LAST:
        raise UsageError(f"{flag} {text!r} is out of range")
    return day


def _instant(text: str, flag: str, zone: tzinfo) -> int:
    if _DATE.fullmatch(text.strip()):
        return midnight(_date(text, flag), zone)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} is neither a date (2026-11-01) nor a time (2026-11-01T12:00)"
        ) from None
    _date(at.date().isoformat(), flag)
    return moment(at if at.tzinfo is not None else at.replace(tzinfo=zone))
