"""What is removed is in no byte of the disk, also while another process has the file open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.mark.parametrize("held", [False, True])
def test_removed_for_good(llmctl: Run, home: Path, *, held: bool) -> None:
    """Of `history remove` and `cache prune`: database, WAL, and whatever lies beside."""
    llmctl("ask", "canary")
    places = home / ".local/state/llmctl/history.db", home / ".cache/llmctl/cache.db"
    with closing(sqlite3.connect(places[0])) as one, closing(sqlite3.connect(places[1])) as two:
        for db in (one, two) if held else ():
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        llmctl("ask", "canary again")
        assert any(b"canary" in file.read_bytes() for file in home.rglob("*") if file.is_file())
        assert llmctl("history", "remove", "--all").stderr == ""
        assert llmctl("cache", "prune", "--all").stderr == ""
        assert not [f for f in home.rglob("*") if f.is_file() and b"canary" in f.read_bytes()]
