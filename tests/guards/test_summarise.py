"""How a text that is too long is cut into chunks, and where its summary goes."""

from __future__ import annotations

import pytest

from llmctl.guards.summarise import longest_text, sizes, split, with_text
from llmctl.types import Message, Request, Target

TARGET = Target("p", "openai", "openai", "https://api.openai.com/v1", "m")


@pytest.mark.parametrize("most", [1, 7, 40, 200, 5000])
def test_chunks_are_the_whole_text(most: int) -> None:
    """Joined they are the text, none is empty, and each fits."""
    text = "One. Two three!\n\nFour five six? " * 20 + "x" * 300 + "\u3002\u4e16\u754c" * 50
    pieces = [*split(text, lambda piece: len(piece) <= most, most)]
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= most for piece in pieces)


def test_a_guess_that_is_too_large_is_mended() -> None:
    """What fits is decided by counting, whatever was guessed."""
    text = "word " * 100
    pieces = [*split(text, lambda piece: piece.count("word") <= 10, 10_000)]
    assert "".join(pieces) == text
    assert max(piece.count("word") for piece in pieces) <= 10


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaaa. bbbb\n\ncccc dddd eeee", "aaaa. bbbb\n\n"),
        ("aaaa. bbbb\ncccc dddd eeee", "aaaa. bbbb\n"),
        ("aaaa bbbb. cccc dddd eeee", "aaaa bbbb. "),
        ("\u4e16\u754c\u4e16\u754c\u4e16\u754c\u4e16\u3002\u4e16\u754c\u4e16\u754c\u4e16\u754c\u4e16\u754c",
         "\u4e16\u754c\u4e16\u754c\u4e16\u754c\u4e16\u3002"),
        ("aaaa bbbb cccc dddd eeee", "aaaa bbbb "),
        ("a" * 30, "a" * 14),
    ],
)  # fmt: skip
def test_a_chunk_ends_where_the_text_pauses(text: str, first: str) -> None:
    """With a paragraph, else a line, a sentence, a word, and only then within one."""
    assert next(split(text, lambda _: True, 14)) == first


@pytest.mark.parametrize("tokens", [1, 500, 40_000, 2_000_000])
@pytest.mark.parametrize("window", [1024, 8192, 1_000_000])
def test_chunk_and_summary_fit_the_window(tokens: int, window: int) -> None:
    """With room for the instructions, also where the profile has a limit of its own."""
    for reserved in (None, window // 3):
        size = sizes(tokens, 1000, window, reserved)
        output = 2 * size.summary if reserved is None else reserved
        assert size.chunk + output <= window * 5 / 6 + 1
        assert size.chunk * size.chunks >= tokens


def test_summaries_share_the_room() -> None:
    """All of them together fit, where none would become too short to say something."""
    size = sizes(10_000, 900, 4096)
    assert size.chunks * size.summary <= 900


def test_the_longest_text_of_the_user_is_replaced() -> None:
    """A part beside attachments keeps its place; other turns stay, and so does the system's."""
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    parts = ({"type": "text", "text": "the report " * 9}, picture, {"type": "text", "text": "why?"})
    turns = (Message("system", "s" * 999), Message("user", "hello"), Message("user", parts))
    request = Request("a", TARGET, turns, fingerprint="f")
    place = longest_text(turns)
    assert place is not None
    made = with_text(request, place, "short")
    assert made.messages[:2] == turns[:2]
    assert made.messages[2].content == ({"type": "text", "text": "short"}, *parts[1:])
    assert made.fingerprint == ""


def test_a_prompt_without_text_of_the_user() -> None:
    """There is nothing to summarise in it."""
    assert longest_text((Message("system", "s" * 999), Message("assistant", "long " * 99))) is None
