"""Text folded to what recognisers read: ASCII digits and signs, no invisible characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_DIGIT = re.compile(r"[^\D0-9]")
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]+")
_SIGNS = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width ASCII
    **dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63], "-"),
    **dict.fromkeys([0x00A0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys((0x2024, 0xFE52, 0x3002), "."),
}
_TABLE = str.maketrans(_SIGNS)
_SIGN = re.compile(f"[{re.escape(''.join(map(chr, _SIGNS)))}]")


def fold(text: str) -> tuple[str, Sequence[int]]:
    """The text with the digits of any script as ASCII ones, full-width letters, dashes and spaces
    as plain ones, and without invisible characters; and where each character (and the end) was.

    Look-alikes of other scripts, such as a Cyrillic letter in an address, are left.
    """
    if text.isascii():
        return text, range(len(text) + 1)
    places: Sequence[int] = range(len(text) + 1)
    if _INVISIBLE.search(text):
        hidden = [each.span() for each in _INVISIBLE.finditer(text)]
        ends = [0, *(end for _, end in hidden)]
        starts = [*(start for start, _ in hidden), len(text)]
        spans = list(zip(ends, starts, strict=True))
        places = [place for start, end in spans for place in range(start, end)] + [len(text)]
        text = "".join(text[start:end] for start, end in spans)
    text = _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    return text.translate(_TABLE) if _SIGN.search(text) else text, places
