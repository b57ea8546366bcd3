"""Cancellation that remembers what it may have cost.

Apart from `errors`, which every start of the program imports and asyncio would slow down.
"""

from __future__ import annotations

import asyncio


class CancelledAfterSending(asyncio.CancelledError):
    """The task was cancelled when `attempts` had been made, `uncertain` of which may have been
    billed without an answer."""

    def __init__(self, *, attempts: int = 1, uncertain: int = 1) -> None:
        super().__init__()
        self.attempts = attempts
        self.uncertain = uncertain
