"""JSONL files of rows, for tests of the commands."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def prompts(count: int) -> list[dict[str, Any]]:
    """Rows `r0`, `r1`, … that ask something different each."""
    return [{"id": f"r{n}", "prompt": f"say {n}"} for n in range(count)]


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write one JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file; none when there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
