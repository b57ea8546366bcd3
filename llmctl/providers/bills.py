"""The seam of a provider's bill: what it counted and charged, by UTC day and model."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from msgspec import Struct

from llmctl.errors import BadResponse
from llmctl.providers.admin_pages import Question
from llmctl.types import Usage

_MOST = 10**15  # tokens or dollars of a day: more is no figure
_SHOWN = 4  # characters of a key beside its prefix that must be shown to tell it from others


class BillLine(Struct, frozen=True):
    """What was counted, or charged, on one UTC day.

    Attributes:
        model: as the provider names it; empty for what belongs to none.
        batch: whether it was in the provider's batches; None: not told apart.
        key, project: the provider's ids of the key and the project (Anthropic: workspace) that
            asked; None: not said.
        usage: tokens; None: the line says none.
        requests: None: not said.
        cost: US dollars after discounts; None: the line only counts.
        list_cost: before them; None: not said.

    """

    day: date
    model: str
    batch: bool | None = None
    key: str | None = None
    project: str | None = None
    usage: Usage | None = None
    requests: int | None = None
    cost: Decimal | None = None
    list_cost: Decimal | None = None


class KeyHint(Struct, frozen=True):
    """A key as the provider lists it: its `id`, and what is `shown` of it (`sk-abc...wxyz`)."""

    id: str
    shown: str

    def fits(self, key: str) -> bool:
        """Whether it can be this key: by its SHA-256, which is OpenRouter's id of it, or by both
        ends. Of too few characters it cannot be told, and is not said."""
        if self.id == hashlib.sha256(key.encode()).hexdigest():
            return True
        head, gap, tail = re.sub(r"[*.…]+", "*", self.shown).partition("*")
        own = head.rpartition("-")[2]
        if not gap or len(own) + len(tail) < _SHOWN or len(key) <= len(head) + len(tail):
            return False
        return key.startswith(head) and key.endswith(tail)


def ids_of(hints: Sequence[KeyHint], keys: Collection[str]) -> tuple[str, ...]:
    """The ids of keys, those alone that one listed key alone fits."""
    found = ([hint.id for hint in hints if hint.fits(key)] for key in keys)
    return tuple(dict.fromkeys(ids[0] for ids in found if len(ids) == 1))


class BillApi(ABC):
    """How a provider's bill is asked for; pure."""

    def known(self, first: date, last: date, today: date) -> tuple[date, date]:
        """The part of the days from `first` to `last` that the provider can tell of; the first may
        come after the last: none."""
        return first, min(last, today)

    @abstractmethod
    def questions(
        self, first: date, last: date, keys: Collection[str]
    ) -> Iterator[Question[BillLine]]:
        """All that must be asked for the lines of the days from `first` to `last`. `keys` are the
        ids of the keys that matter, none where they are not known."""

    @abstractmethod
    def keys(self, project: str | None) -> Question[KeyHint] | None:
        """The list of keys; None where it cannot be asked for."""


def windows(first: date, last: date, most: int) -> Iterator[tuple[datetime, datetime]]:
    """The days in spans of at most `most`: when each begins, and when it has ended (UTC)."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
    while start < end:
        following = min(end, start + timedelta(days=most))
        yield start, following
        start = following


def tokens(found: Mapping[str, Any], name: str) -> int:
    """A count; nothing where it is not said. Raises `BadResponse` for what is none."""
    value = found.get(name)
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MOST:
        raise unreadable(name)
    return value


def amount(value: object, name: str, *, places: int = 0) -> Decimal:
    """US dollars of a number, or of a text, `places` decimal places up (cents: 2). Raises
    `BadResponse` for what is none: a bill with a line left out would be wrong in silence."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise unreadable(name)
    try:
        found = Decimal(str(value)[:100])
    except InvalidOperation:
        raise unreadable(name) from None
    if not found.is_finite() or abs(found) > _MOST:
        raise unreadable(name)
    return round(found.scaleb(-places), 18)


def dollars_only(currency: object) -> None:
    """Raise `BadResponse` for another currency."""
    if currency is not None and str(currency).lower() != "usd":
        raise BadResponse(
            f"the bill is in {str(currency)[:10]!r}, and the ledger in US dollars: they cannot be "
            "compared",
            retryable=False,
        )


def unreadable(name: str) -> BadResponse:
    """The error of a field of the bill that says nothing that can be read."""
    return BadResponse(f"a line of the bill has no readable {name}", retryable=False)


def day_of(value: object, name: str) -> date:
    """The UTC day of Unix seconds, or of an RFC 3339 date or time. Raises `BadResponse`."""
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC).date()
        when = datetime.fromisoformat(value if isinstance(value, str) else "")
    except (ValueError, OverflowError, OSError):
        raise unreadable(name) from None
    return (when.astimezone(UTC) if when.tzinfo else when).date()


def text_or_none(value: object) -> str | None:
    """Text that says something."""
    return value if isinstance(value, str) and value else None
