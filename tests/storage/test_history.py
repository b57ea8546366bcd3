"""Conversations are kept for 30 days and then gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.storage.history import KEEP, History, open_history
from llmctl.types import Message
from tests.conformance.calls import NOW

ASKED = Message("user", "why?")
PARTS: tuple[dict[str, object], ...] = ({"type": "text", "text": "because \ud800 ✓"},)
ANSWERED = Message("assistant", PARTS, {"tool_calls": [{"id": "c1"}]})
DAY = 24 * 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history will be."""
    return tmp_path / "state" / "history.sqlite3"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    """An empty history."""
    opened = open_history(path)
    yield opened
    opened.close()


def say(history: History, id: str, *messages: Message, at: float, profile: str = "fast") -> None:
    """Add turns."""
    asyncio.run(history.append(id, messages, profile=profile, model="m", at=at))


def test_a_turn_without_text_is_left_out(history: History) -> None:
    """Case 3: providers refuse a conversation with an empty turn; its question goes with it."""
    empty = Message("assistant", " \n")
    system, next_one = Message("system", "be kind"), Message("user", "and?")
    say(history, "a", system, ASKED, empty, next_one, ANSWERED, ASKED, Message("assistant", None),
        at=NOW)  # fmt: skip
    found = history.last(now=NOW)
    assert found is not None
    assert found.messages == (system, next_one, ANSWERED)


def test_without_a_conversation_there_is_none_to_continue(history: History) -> None:
    """An empty history has no last conversation."""
    assert history.last(now=NOW) is None


def test_the_last_conversation_is_the_one_touched_last(history: History, path: Path) -> None:
    """All its turns come back in order, as they were, also in another process; profile and model
    are those of its last answer."""
    say(history, "a", ASKED, ANSWERED, at=NOW)
    say(history, "b", ASKED, at=NOW + 1)
    say(history, "a", Message("user", "really?"), at=NOW + 2, profile="slow")
    history.close()
    again = open_history(path)
    last = again.last(now=NOW + 3)
    again.close()
    assert last is not None
    assert last.id == "a"
    assert last.messages == (ASKED, ANSWERED, Message("user", "really?"))
    assert (last.profile, last.model, last.at) == ("slow", "m", NOW + 2)


def test_a_conversation_that_is_too_old_is_not_continued(history: History) -> None:
    """`max_age` counts from the last turn, 30 days unless it is said otherwise."""
    say(history, "a", ASKED, at=NOW)
    assert history.last(now=NOW + 30 * DAY) is not None
    assert history.last(now=NOW + 30 * DAY + 1) is None
    assert history.last(now=NOW + 2 * DAY, max_age=DAY) is None
    assert KEEP == 30 * DAY


def test_what_is_forgotten_is_in_no_byte_of_the_files(path: Path) -> None:
    """The next turn after 30 days removes the text for good, and the file shrinks."""
    history = open_history(path)
    say(history, "old", Message("user", "canary " * 20_000), at=NOW)
    say(history, "kept", ASKED, at=NOW + DAY)
    history.close()
    size = path.stat().st_size
    assert b"canary" in path.read_bytes()
    history = open_history(path)
    say(history, "new", ASKED, at=NOW + 30 * DAY + 1)
    history.close()
    assert b"canary" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert path.stat().st_size < size / 2
