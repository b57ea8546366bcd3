"""What a report can be grouped by, and the group a call belongs to. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache

from llmctl.errors import UsageError
from llmctl.storage.ledger_rows import Labels

DIMENSIONS = ("day", "model", "profile", "provider", "user")
"""And `tag:NAME`."""


def parse_by(words: Iterable[str]) -> tuple[str, ...]:
    """`model`, `day,tag:team`, …: the dimensions, each once. Raises `UsageError`."""
    found: list[str] = []
    for word in (part.strip() for text in words for part in text.split(",")):
        if word not in DIMENSIONS and not (word.startswith("tag:") and len(word) > 4):
            raise UsageError(
                f"--by cannot group by {word!r}: give {', '.join(DIMENSIONS)} or tag:NAME, "
                "several separated by commas"
            )
        if word not in found:
            found.append(word)
    return tuple(found)


def value_of(kind: Labels, name: str) -> str | None:
    """The call's value of a dimension other than `day`; None for a tag it has not."""
    if name.startswith("tag:"):
        return _tags(kind.tags).get(name.removeprefix("tag:"))
    value: str = getattr(kind, name)
    return value


@lru_cache(maxsize=4096)
def _tags(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
