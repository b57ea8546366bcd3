"""Unique, time-sorted ids for calls and runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from llmctl.clock import Clock

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32, as the ULID spec names it


def ulid(clock: Clock, randomness: Callable[[int], bytes] = os.urandom) -> str:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, 80 random bits, 26 characters."""
    number = (int(clock.wall() * 1000) << 80) | int.from_bytes(randomness(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
