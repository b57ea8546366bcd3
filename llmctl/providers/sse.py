"""Server-sent events, by the WHATWG rules (html.spec.whatwg.org, "Event stream interpretation").

Incremental over arbitrary byte boundaries: bytes in, complete events out. httpx2's own reader is
not used: it keeps a byte order mark, gives events without data, and holds an event that ends in CR
until more comes.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from msgspec import Struct, field

MAX_LINE = 16 * 1024 * 1024
"""Characters of one line that are kept at most: a line without end must not fill the memory."""


class Event(Struct, frozen=True):
    """One event: its name (`message` where none was given) and its data."""

    name: str
    data: str


class Reader(Struct):
    """Reads one stream: `feed` it bytes, then ask for what is left at its `end`."""

    _decode: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _rest: list[str] = field(default_factory=list)
    _held: int = 0
    _first: bool = True
    _after_cr: bool = False
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises `ValueError` for a line beyond `MAX_LINE`."""
        text = self._decode.decode(chunk)
        if not text:
            return
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        for line in self._lines(text):
            event = self._take(line)
            if event is not None:
                yield event

    def end(self) -> Event | None:
        """The event whose lines are complete at the end of the stream, without the empty line that
        should follow it; some servers end so after `data: [DONE]`. The rules would drop it, so the
        reader of a stream must look for the provider's own end mark. A line that has no end is
        dropped."""
        return self._take("")

    def _lines(self, text: str) -> Iterator[str]:
        """Complete lines; CR, LF and CRLF end one, also when CRLF is split over two chunks."""
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        if text.endswith("\r"):
            self._after_cr = True
        pieces = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for piece in pieces[:-1]:
            line = "".join((*self._rest, piece))
            self._rest, self._held = [], 0
            yield line
        self._held += len(pieces[-1])
        if self._held > MAX_LINE:
            raise ValueError(f"a line of the stream is longer than {MAX_LINE} characters")
        if pieces[-1]:
            self._rest.append(pieces[-1])

    def _take(self, line: str) -> Event | None:
        if not line:
            name, data = self._name or "message", self._data
            self._name, self._data = "", []
            return Event(name, "\n".join(data)) if data else None
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            self._data.append(value)
        elif key == "event":
            self._name = value
        return None
