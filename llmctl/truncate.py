"""A prompt that is too long for its model, cut to fit; pure but for the counting."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from llmctl.types import Message, Request

Count = Callable[[Request], int]
"""The tokens of a request's input."""


def cut(request: Request, room: int, count: Count) -> Request | None:
    """The request in at most `room` tokens of input; None when that cannot be.

    The oldest turns go first, but no system message and not the last one; if that is not
    enough, the end of the last one's text. What is passed through raw, and parts that are no
    text, are not cut.
    """
    if request.raw is not None or not request.messages:
        return None
    kept, last = list(request.messages[:-1]), request.messages[-1]
    while count(_asking(request, [*kept, last])) > room:
        oldest = next((turn for turn in kept if turn.role != "system"), None)
        if oldest is None:
            return _shorter(request, kept, last, room, count)
        kept.remove(oldest)
    return _asking(request, [*kept, last])


def _shorter(
    request: Request, before: list[Message], last: Message, room: int, count: Count
) -> Request | None:
    """The longest beginning of the last turn that fits."""
    if not isinstance(last.content, str):
        return None
    text, fits = last.content, 0
    too_long = len(text)
    tokens = count(_asking(request, [*before, last]))
    guess = len(text) * room // max(1, tokens)  # near the mark: counting a long text is slow
    while too_long - fits > 1:
        middle = guess if fits < guess < too_long else (fits + too_long) // 2
        if count(_asking(request, [*before, replace(last, content=text[:middle])])) <= room:
            fits, guess = middle, middle + max(1, (too_long - middle) // 16)
        else:
            too_long, guess = middle, middle - max(1, (middle - fits) // 16)
    if not text[:fits].strip():
        return None
    return _asking(request, [*before, replace(last, content=text[:fits])])


def _asking(request: Request, messages: list[Message]) -> Request:
    # Counts are remembered by fingerprint, and this is not the text that belongs to it.
    return replace(request, messages=tuple(messages), fingerprint="")
