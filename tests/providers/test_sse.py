"""Server-sent events by the WHATWG rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import BadResponse
from llmctl.protocols import Event
from llmctl.providers import replies
from llmctl.providers.replies import EventReader


def read(*chunks: bytes) -> list[Event]:
    """All events of a stream that arrives in `chunks`."""
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


STREAM = (
    "\ufeff: a comment\n"
    "data: one\n\n"
    "event: named\r\ndata: two\r\ndata: lines\r\n\r\n"
    "data:no space\rdata:  two spaces\r\r"
    "id: 7\nretry: 3\nunknown: x\nnocolon\n\n"
    "data\n\n"
    "data: \u2028 stays \x0b in, öäü €\n\n"
    "data: dropped at the end"
).encode()

EVENTS = [
    Event("message", "one"),
    Event("named", "two\nlines"),
    Event("message", "no space\n two spaces"),
    Event("message", ""),
    Event("message", "\u2028 stays \x0b in, öäü €"),
]


def test_the_rules_by_name() -> None:
    """BOM, CR, LF, CRLF, comments, several data lines, no space, and EOF mid-event: as written."""
    assert read(STREAM) == EVENTS


@pytest.mark.parametrize(
    ("stream", "left"),
    [
        (b"data: 1\n\ndata: [DONE]\n", Event("message", "[DONE]")),
        (b"event: end\r\ndata: a\r\ndata: b\r", Event("end", "a\nb")),
        (b"data: 1\n\ndata: [DONE]", None),
        (b"data: 1\n\nevent: end\n", None),
        (b"data: 1\n\n", None),
        (b"", None),
    ],
)
def test_the_end_of_a_stream(stream: bytes, left: Event | None) -> None:
    """The last event needs no empty line after it, but the end of its last line."""
    reader = EventReader()
    list(reader.feed(stream))
    assert reader.end() == left


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_chunking_gives_the_same_events(cuts: list[int]) -> None:
    """Wherever the bytes are cut, also inside a character or a CRLF, the events are the same."""
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert read(*chunks) == EVENTS


def test_a_line_feed_ends_the_line_before_it() -> None:
    """Only one that follows its CR at once is a part of that line's end."""
    assert read(b"data: a\rdata: b", b"\ndata: c\n\n") == [Event("message", "a\nb\nc")]
    assert read(b"data: a\r", b"\ndata: b\n\n") == [Event("message", "a\nb")]


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_no_bytes_crash_the_reader(chunks: list[bytes]) -> None:
    """Arbitrary bytes are read as events or ignored, never a crash."""
    read(*chunks)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line longer than the bound is an error before it fills the memory."""
    monkeypatch.setattr(replies, "MAX_LINE", 1000)
    with pytest.raises(BadResponse, match="longer than 1000"):
        read(*[b"x" * 100] * 11)
