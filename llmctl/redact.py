"""Foreign text made safe to show: without keys, and without control sequences."""

from __future__ import annotations

import base64
import json
import re
from functools import lru_cache
from urllib.parse import quote

MARK = "[key]"
_SHORTEST = 4
_SHORTEST_PIECE = 12  # characters of a key's beginning or end that are cut out anywhere
_SHORTEST_INSIDE = 8  # characters of base64 that must be a key's in a longer text
_LONG_ENOUGH = 12  # characters of a key of which four may be shown
_KNOWN: set[str] = set()  # every key this process has held

_TOKEN = re.compile(r"(?=[\w+=-]*[0-9])(?=[\w+=-]*[A-Za-z])[\w+=-]{12,}")

CONTROL_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI sequences (ECMA-48), 7 and 8 bits
    # OSC, DCS, SOS, PM and APC strings; one without an end does not hide the lines after it
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"  # two-character sequences
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # control characters but tab and newline
    r"|[\u202a-\u202e\u2066-\u2069]"  # characters that override the reading direction
)
"""What a terminal would obey instead of showing it."""


_RAW_IN_JSON = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable_json(text: str) -> str:
    """The same JSON, with escapes for the control characters that JSON lets stand raw."""
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """`text` without control and escape sequences, but with newlines and tabs: safe to print."""
    return CONTROL_SEQUENCES.sub("", text)


def last_chars(key: str) -> str:
    """The last four characters of a key, to tell keys apart; of a short key only dots."""
    return f"…{key[-4:]}" if len(key) >= _LONG_ENOUGH else "…"


def remember(key: str) -> None:
    """Let `redact_known_keys` cut this key from now on."""
    if len(key) >= _SHORTEST:
        _KNOWN.add(key)


def forget(key: str) -> None:
    """Let `redact_known_keys` look for this key no more: it has ended, and each costs time."""
    _KNOWN.discard(key)


def redact_known_keys(text: str) -> str:
    """`text` without any key this process has held."""
    for key in sorted(_KNOWN, key=len, reverse=True):
        text = redact(text, key)
    return text


def redact_possible_keys(text: str) -> str:
    """`text` without known keys, and words of 12 and more letters and digits, which could be
    unknown ones."""
    return _TOKEN.sub(MARK, redact_known_keys(text))


def redact(text: str, key: str | None) -> str:
    """`text` without `key`, written raw, URL-encoded, in JSON or in base64, there also as a part of
    something longer (`user:KEY`). Keys shorter than four characters are left."""
    if not key or len(key) < _SHORTEST:
        return text
    forms = _forms(key)
    if len(text) < min(len(forms[-1]), _SHORTEST_PIECE):  # names of models and users: most texts
        return text
    for form in forms:
        text = text.replace(form, MARK)
    for form in forms:
        text = _without_pieces(text, form, forms)
    return text


def cut(text: str, length: int) -> str:
    """The first `length` characters of `text` without known keys: cut after they were, and where
    `text` itself is cut off in a key, the beginning of that goes as well."""
    text = redact_known_keys(text)
    for form in {form for key in _KNOWN for form in _forms(key)}:
        for size in range(min(len(form) - 1, len(text)), _SHORTEST - 1, -1):
            if text.endswith(form[:size]):
                text = text[:-size] + MARK
                break
    return text[:length]


def _without_pieces(text: str, form: str, forms: tuple[str, ...]) -> str:
    """`text` without the beginnings and ends of a key: all but one character of it is a key."""
    if len(form) <= _SHORTEST_PIECE:
        return text
    at = 0
    while (at := text.find(form[:_SHORTEST_PIECE], at)) >= 0:
        size = max(_alike(text[at : at + len(each)], each) for each in forms)
        text = text[:at] + MARK + text[at + size :]
        at += len(MARK)
    while (at := text.find(form[-_SHORTEST_PIECE:])) >= 0:
        end = at + _SHORTEST_PIECE
        size = max(_alike(text[max(0, end - len(f)) : end][::-1], f[::-1]) for f in forms)
        text = text[: end - size] + MARK + text[end:]
    return text


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@lru_cache(maxsize=32)
def _forms(key: str) -> tuple[str, ...]:
    """How the key may be written, the longest form first."""
    urls = {quote(key, safe=""), quote(key)}
    urls |= {re.sub("%..", lambda found: found[0].lower(), url) for url in urls}
    forms = {key, json.dumps(key)[1:-1], json.dumps(key, ensure_ascii=False)[1:-1]} | urls
    raw = key.encode("utf-8", "surrogateescape")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {encode(raw).decode(), encode(raw).decode().rstrip("=")}
        for offset in range(3):
            # Characters on the border hold bits of the neighbours too: they are not the key's.
            first, end = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
            inside = encode(b"\0" * offset + raw).decode()[first:end]
            if len(inside) >= _SHORTEST_INSIDE:
                forms.add(inside)
    return tuple(sorted(forms, key=len, reverse=True))
