"""ULIDs made from a clock."""

from __future__ import annotations

import re

from llmctl.clock import SystemClock, ulid


class At(SystemClock):
    """A clock that stands still."""

    def __init__(self, wall: float) -> None:
        self.wall = lambda: wall


def test_ulid() -> None:
    """26 characters of Crockford's base 32 that begin with the milliseconds (the specification's
    own example), sort by time and are never the same."""
    assert ulid(At(1469918176.385)).startswith("01ARYZ6S41")
    made = [ulid(At(1e9 + n)) for n in range(999)] + [ulid(At(2e9)) for _ in range(999)]
    assert made[:999] == sorted(made[:999])
    assert len(set(made)) == len(made)
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in made)
