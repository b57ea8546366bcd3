"""Prompts cut to fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.truncate import cut
from llmctl.types import Message, RawRequest, Request
from tests.support import request


def words(asked: Request) -> int:
    """A token a word, and one a turn."""
    return sum(1 + len(turn.text.split()) for turn in asked.messages)


def talk(*turns: str) -> Request:
    """`role: words` for each turn."""
    split = [turn.partition(": ") for turn in turns]
    return replace(request(), messages=tuple(Message(role, text) for role, _, text in split))


def test_the_oldest_turns_go_first() -> None:
    """Earlier turns are left out before the question is touched; system messages stay."""
    asked = talk("system: be brief", "user: a b c d", "assistant: e f", "user: g h")
    shorter = cut(asked, 9, words)
    assert shorter is not None
    assert [turn.text for turn in shorter.messages] == ["be brief", "e f", "g h"]


def test_then_the_end_of_the_question() -> None:
    """What is left is the longest beginning that fits."""
    shorter = cut(talk("system: x", "user: " + "w " * 1000), 103, words)
    assert shorter is not None
    assert words(shorter) == 103
    assert shorter.messages[-1].text.startswith("w w w")


@given(st.integers(0, 60), st.text(alphabet="ab \n", min_size=1, max_size=300))
def test_it_fits_or_is_refused(room: int, text: str) -> None:
    """Whatever comes out has room, and is the beginning of what went in."""
    asked = talk("user: " + text)
    shorter = cut(asked, room, words)
    if shorter is not None:
        assert words(shorter) <= room
        assert asked.messages[0].text.startswith(shorter.messages[0].text)


def test_what_cannot_be_cut_is_not() -> None:
    """A body that is passed through, parts that are no text, and a question that would be
    nothing."""
    assert cut(replace(talk("user: a b"), raw=RawRequest("/x", {})), 2, words) is None
    parts = replace(request(), messages=(Message("user", ({"type": "text", "text": "a b c"},)),))
    assert cut(parts, 2, words) is None
    assert cut(talk("system: a b c", "user: d"), 2, words) is None
