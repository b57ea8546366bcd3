"""Which keys are stored, by name and origin: a hint, beside the keyring, which is the truth.

No keyring can be asked on every system what it holds, and asking costs. So a name is noted here
before its key is written, and struck out after it has been deleted: a crash leaves a name too
many, never one too few. No key, no role and no date is kept here that could disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from llmctl.storage.files import private_folder, write_private

_FILE = "keys.json"

Stored = frozenset[tuple[str, str]]
"""Pairs of name and origin."""


def read(state: Path) -> Stored:
    """What is noted; nothing when the file is missing or damaged."""
    try:
        said = json.loads((state / _FILE).read_bytes())
        return frozenset((str(row["name"]), str(row["origin"])) for row in said["keys"])
    except (OSError, ValueError, TypeError, KeyError):
        return frozenset()


def note(state: Path, name: str, origin: str) -> None:
    """Note a key that is about to be stored. Raises `DiskError`."""
    known = read(state)
    if (name, origin) not in known:
        _write(state, known | {(name, origin)})


def strike(state: Path, name: str, origin: str) -> None:
    """Strike out a key that has been deleted. Raises `DiskError`."""
    known = read(state)
    if (name, origin) in known:
        _write(state, known - {(name, origin)})


def _write(state: Path, known: Iterable[tuple[str, str]]) -> None:
    rows = [{"name": name, "origin": origin} for name, origin in sorted(known)]
    text = json.dumps({"version": 1, "keys": rows}, indent=2)
    write_private(private_folder(state) / _FILE, text.encode())
