"""Conversations are kept for 30 days and then gone; encrypted, only the key reads them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.errors import NoKeyError
from llmctl.storage import database
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.history import KEEP, History, open_history
from llmctl.types import Message
from tests.conformance.calls import NOW

ASKED = Message("user", "why?")
PARTS: tuple[dict[str, object], ...] = ({"type": "text", "text": "because \ud800 ✓"},)
ANSWERED = Message("assistant", PARTS, {"tool_calls": [{"id": "c1"}]})
PLAIN = StoreCipher({})
ON = StoreCipher({"LLMCTL_STORE_KEY": "0123456789abcdef" * 4}, on=True)
OFF = StoreCipher({"LLMCTL_STORE_KEY": "0123456789abcdef" * 4})
STRANGER = StoreCipher({"LLMCTL_STORE_KEY": "fedcba9876543210" * 4}, on=True)
KEYLESS = StoreCipher({"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"})
DAY = 24 * 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history will be."""
    return tmp_path / "state" / "history.sqlite3"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    """An empty history."""
    opened = open_history(path, PLAIN)
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
    again = open_history(path, PLAIN)
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
    history = open_history(path, PLAIN)
    say(history, "old", Message("user", "canary " * 20_000), at=NOW)
    say(history, "kept", ASKED, at=NOW + DAY)
    history.close()
    size = path.stat().st_size
    assert b"canary" in path.read_bytes()
    history = open_history(path, PLAIN)
    say(history, "new", ASKED, at=NOW + 30 * DAY + 1)
    history.close()
    assert b"canary" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert path.stat().st_size < size / 2


def every_byte(path: Path) -> bytes:
    """Of the database, its WAL and whatever else is beside it."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_encrypted_turns_come_back(path: Path) -> None:
    """With encryption no file holds a word of the turns, also while it is open; they come back as
    they were, also when encryption is off by now, and a conversation goes on."""
    with closing(open_history(path, ON)) as history:
        say(history, "a", Message("user", "canary?"), ANSWERED, at=NOW)
        assert b"canary" not in every_byte(path)
        assert b"tool_calls" not in every_byte(path)
    with closing(open_history(path, OFF)) as history:
        say(history, "a", Message("user", "and in clear?"), at=NOW + 1)
        last = history.last(now=NOW + 1)
        assert last is not None
        assert last.messages == (
            Message("user", "canary?"), ANSWERED, Message("user", "and in clear?"),
        )  # fmt: skip
        assert (last.encrypted, last.model) == (False, "m")


def test_turns_in_clear_are_encrypted_when_it_is_turned_on(path: Path) -> None:
    """Opening a history that encrypts leaves no word in clear in any file, nor in the WAL of a
    process that has it open; nothing is lost."""
    with closing(open_history(path, PLAIN)) as other:
        say(other, "a", Message("user", "canary " * 3000), ANSWERED, at=NOW)
        say(other, "b", Message("user", "canary"), at=NOW + 1)
        assert b"canary" in every_byte(path)
        with closing(open_history(path, ON)) as history:
            assert not history.lingers
            assert b"canary" not in every_byte(path)
            newest, older = history.all()
    assert newest.messages == (Message("user", "canary"),)
    assert older.messages == (Message("user", "canary " * 3000), ANSWERED)
    assert newest.encrypted
    assert older.encrypted


@pytest.mark.parametrize(
    ("store", "says"),
    [(STRANGER, "another store key"), (KEYLESS, "there is no store key")],
    ids=["other", "none"],
)
def test_without_the_key_it_is_said_what_to_do(path: Path, store: StoreCipher, says: str) -> None:
    """Reading names both ways out; removing, and new conversations, need no old key."""
    with closing(open_history(path, ON)) as history:
        say(history, "a", ASKED, at=NOW)
    with closing(open_history(path, store)) as history:
        for way in ("set LLMCTL_STORE_KEY to the one of that time", "llmctl history remove", says):
            with pytest.raises(NoKeyError, match=way):
                history.last(now=NOW)
        say(history, "b", ANSWERED, at=NOW + 1)
        newest = history.last(now=NOW + 1, max_age=1)
        assert newest is not None
        assert newest.messages == (ANSWERED,)
        assert history.ids() == ["b", "a"]
        assert asyncio.run(history.remove(["a"]))
        assert len(history.all()) == 1


def test_a_turn_is_good_in_its_place_only(path: Path) -> None:
    """Turns that somebody has put into another conversation, or order, are not taken for its."""
    with closing(open_history(path, ON)) as history:
        say(history, "a", ASKED, ANSWERED, at=NOW)
        say(history, "b", ASKED, at=NOW)
    for change in (
        "UPDATE turns SET conversation = 'b' WHERE id = 1",
        "UPDATE turns SET id = 9 - id",
    ):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(change)
        with closing(open_history(path, ON)) as history, pytest.raises(NoKeyError, match="changed"):
            history.all()


@pytest.mark.parametrize("store", [PLAIN, ON], ids=["plain", "encrypted"])
def test_removed_conversations_are_in_no_byte(
    path: Path, store: StoreCipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while another process has the file open; one that keeps reading is told of, and the next
    removal makes it good."""
    monkeypatch.setattr(database, "_CHECKPOINT", 0.05)
    with closing(open_history(path, store)) as history, closing(open_history(path, store)) as other:
        say(other, "a", Message("user", "canary " * 3000), at=NOW)
        say(other, "b", ASKED, at=NOW)
        with closing(sqlite3.connect(path)) as raw:
            (kept,) = raw.execute("SELECT message FROM turns WHERE conversation = 'a'").fetchone()
        kept = kept if isinstance(kept, bytes) else kept.encode()
        probes = {kept[n : n + 40] for n in range(0, len(kept) - 40, 400)}
        assert any(probe in every_byte(path) for probe in probes)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM turns").fetchone()
            assert not asyncio.run(history.remove(["a"]))
            reader.execute("ROLLBACK")
        assert asyncio.run(history.remove(["a"]))
        assert not any(probe in every_byte(path) for probe in probes)
        assert history.ids() == ["b"]
