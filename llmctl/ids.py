"""Unique, time-sorted ids for calls and runs."""

from __future__ import annotations

import random
from collections.abc import Callable

from llmctl.clock import Clock

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32, as the ULID spec names it
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def ulid(clock: Clock, bits: Callable[[int], int] = random.getrandbits) -> str:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, 80 random bits, 26 characters.

    An id must be unique, not a secret: Python's own generator, which the system seeds in every
    process and after every fork, does that without a system call for each row of a file.
    """
    number = (int(clock.wall() * 1000) << 80) | bits(80)
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])
