"""`llmctl history`: what `ask` keeps is shown, found and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.fixture
def two(llmctl: Run) -> Run:
    """Two conversations are kept: about whales, then, with a question more, about owls."""
    llmctl("ask", "tell of WHALES", "-m", "old")
    llmctl("ask", "tell of owls")
    llmctl("ask", "-c", "and their nests")
    return llmctl


def test_conversations_are_listed_and_shown(two: Run) -> None:
    """Case 48: the newest comes first; without an ID the last one is shown, the beginning of an ID
    names one, and an unknown one is exit 2."""
    rows = json.loads(two("history", "list", "--json").stdout)
    assert [row["excerpt"] for row in rows] == ["tell of owls", "tell of WHALES"]
    assert [row["turns"] for row in rows] == [4, 2]
    assert rows[1]["model"] == "old"
    assert two("history", "list").stdout.splitlines()[1].startswith(rows[0]["id"])
    last = json.loads(two("history", "show", "--json").stdout)
    said = [message["content"] for message in last["messages"]]
    assert said[2:] == ["and their nests", "echo: and their nests"]
    shown = two("history", "show", rows[1]["id"][:-3].lower()).stdout
    assert "[assistant]\necho: tell of WHALES\n" in shown
    assert two("history", "show", "zzz").returncode == 2


def test_words_are_found(two: Run) -> None:
    """Case 48: all words must occur, in any case; exit 1 when nothing is found."""
    found = json.loads(two("history", "search", "whales", "tell", "--json").stdout)
    assert [row["excerpt"] for row in found] == ["tell of WHALES"]
    assert two("history", "search", "whales", "owls").returncode == 1


def test_removed_conversations_are_gone(two: Run, home: Path) -> None:
    """Case 48: one, the old ones, or all; no byte of them stays in the state folder, and `-c`
    continues what is left."""
    rows = json.loads(two("history", "list", "--json").stdout)
    assert two("history", "remove").returncode == 2
    assert two("history", "remove", "--older-than", "7").returncode == 2
    assert two("history", "remove", "--older-than", "1d").stdout == "removed 0 conversations\n"
    assert two("history", "remove", rows[0]["id"]).stdout == "removed 1 conversation\n"
    files = [file for file in (home / ".local/state/llmctl").iterdir() if "history" in file.name]
    assert files
    assert not any(b"owls" in file.read_bytes() for file in files)
    assert any(b"WHALES" in file.read_bytes() for file in files)
    assert json.loads(two("ask", "-c", "more", "--json").stdout)["model"] == "old"
    assert json.loads(two("history", "remove", "--all", "--json").stdout) == {
        "removed": 1, "wal_emptied": True,
    }  # fmt: skip
    assert two("ask", "-c", "more").returncode == 2


def test_without_history(llmctl: Run, home: Path) -> None:
    """Where nothing was kept nothing is shown, and no file is made."""
    assert json.loads(llmctl("history", "list", "--json").stdout) == []
    assert llmctl("history", "show").returncode == 2
    assert llmctl("history", "remove", "--all").returncode == 0
    assert not (home / ".local/state/llmctl/history.db").exists()
