"""ULIDs made from a clock."""

from __future__ import annotations

import re

from llmctl.clock import ulid


class At:
    """A clock that stands still."""

    def __init__(self, wall: float) -> None:
        self._wall = wall

    def wall(self) -> float:
        """The time."""
        return self._wall

    def monotonic(self) -> float:
        """The same."""
        return self._wall

    async def sleep(self, seconds: float) -> None:
        """Not at all."""


def test_ulid() -> None:
    """26 characters of Crockford's base 32 that begin with the milliseconds (the specification's
    own example), sort by time and are never the same."""
    assert ulid(At(1469918176.385)).startswith("01ARYZ6S41")
    made = [ulid(At(1e9 + n)) for n in range(999)] + [ulid(At(2e9)) for _ in range(999)]
    assert made[:999] == sorted(made[:999])
    assert len(set(made)) == len(made)
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in made)
