"""Unique, time-sorted ids for calls and runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from llmctl.clock import Clock

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32, as the ULID spec names it
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def ulid(clock: Clock, bits: Callable[[int], int] = random.getrandbits) -> str:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, 80 random bits, 26 characters.

    An id must be unique, not a secret: Python's own generator, which the system seeds in every
    process and after every fork, does that without a system call for each row of a file.
    """
    high, low = divmod(bits(80), 1 << 40)
    return f"{_ten(int(clock.wall() * 1000))}{_eight(high)}{_eight(low)}"


@lru_cache(maxsize=4)
def _ten(number: int) -> str:
    """The first characters, alike for all ids of a millisecond."""
    return _PAIRS[(number >> 40) & 1023] + _eight(number)


def _eight(number: int) -> str:
    """The lowest 40 bits. Spelled out: a loop takes twice as long."""
    return (
        f"{_PAIRS[(number >> 30) & 1023]}{_PAIRS[(number >> 20) & 1023]}"
        f"{_PAIRS[(number >> 10) & 1023]}{_PAIRS[number & 1023]}"
    )
