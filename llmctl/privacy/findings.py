"""Identifiers found in a text: kinds, spans, and which of two that overlap counts."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from typing import Literal, get_args

from msgspec import Struct

Kind = Literal["email", "phone", "card", "iban", "ssn", "ip", "secret", "person", "location"]

KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES: frozenset[Kind] = frozenset({"person", "location"})
"""Kinds that need the extra `ner`."""
IDENTIFIERS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in NAMES)
"""Kinds that need no model: what has a form of its own."""


class Finding(Struct, frozen=True):
    """An identifier in a text.

    Attributes:
        kind: what it is.
        start, end: half-open span of characters.
        score: 0 to 1, how sure it is: 1.0 where a checksum says so.

    """

    kind: Kind
    start: int
    end: int
    score: float


def without_overlaps(found: Iterable[Finding]) -> list[Finding]:
    """The findings in order of the text: of those that overlap a secret, else the longest, else
    the one with the highest score."""
    ranked = sorted(
        found, key=lambda each: (each.kind != "secret", each.start - each.end, -each.score)
    )
    kept: list[Finding] = []
    starts: list[int] = []
    for each in ranked:
        at = bisect(starts, each.start)
        before, after = kept[at - 1 : at], kept[at : at + 1]
        if all(other.end <= each.start for other in before) and all(
            each.end <= other.start for other in after
        ):
            starts.insert(at, each.start)
            kept.insert(at, each)
    return kept
