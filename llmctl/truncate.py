"""A prompt that is too long for its model, cut to fit; pure but for the counting."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from llmctl.types import Request

Count = Callable[[Request], int]
"""The tokens of a request's input."""


def cut(request: Request, room: int, count: Count) -> Request | None:
    """The request in at most `room` tokens of input; None when that cannot be. The oldest turns go
    first, but no system message and not the last one; then the end of the last one's text."""
    if request.raw is not None or not request.messages:
        return None
    kept, last = list(request.messages[:-1]), request.messages[-1]

    def asking(text: str | None = None) -> Request:
        end = last if text is None else replace(last, content=text)
        # Counts are remembered by fingerprint, and this is not the text that belongs to it.
        return replace(request, messages=(*kept, end), fingerprint="")

    while (tokens := count(asking())) > room:
        oldest = next((turn for turn in kept if turn.role != "system"), None)
        if oldest is None:
            break
        kept.remove(oldest)
    else:
        return asking()
    if not isinstance(last.content, str):
        return None
    text, fits, too_long = last.content, 0, len(last.content)
    guess = len(text) * room // max(1, tokens)  # near the mark: counting a long text is slow
    while too_long - fits > 1:
        middle = guess if fits < guess < too_long else (fits + too_long) // 2
        if count(asking(text[:middle])) <= room:
            fits, guess = middle, middle + max(1, (too_long - middle) // 16)
        else:
            too_long, guess = middle, middle - max(1, (middle - fits) // 16)
    return asking(text[:fits]) if text[:fits].strip() else None
