"""Damage to files, the same in every run."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any


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


def sql(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What the statement gives, and does, behind llmctl's back."""
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        return connection.execute(statement, values).fetchall()
