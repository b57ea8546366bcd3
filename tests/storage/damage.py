"""Damage to files, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged_versions(whole: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """Copies of a file with some bytes flipped or the end cut off, each with what was done.

    Half of the flips hit one bit; the others overwrite a block as a failing disk does.
    """
    chance = random.Random(20260101)
    for n in range(number):
        at = chance.randrange(len(whole))
        broken = bytearray(whole)
        match n % 4:
            case 0:
                yield f"cut at {at}", whole[:at]
            case 1:
                length = min(512, len(whole) - at)
                broken[at : at + length] = chance.randbytes(length)
                yield f"512 bytes overwritten at {at}", bytes(broken)
            case _:
                bit = chance.randrange(8)
                broken[at] ^= 1 << bit
                yield f"bit {bit} flipped at {at}", bytes(broken)
