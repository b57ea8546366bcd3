"""Foreign text is shown without keys, in whatever form, and without control sequences."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl import redact as module
from llmctl.redact import (
    printable,
    redact,
    redact_known_keys,
    redact_possible_keys,
    remember,
)

KEY = "sk-canary/4711+x=Ä%"
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=8, max_size=60)


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        quote(KEY),
        quote(KEY, safe=""),
        re.sub("%..", lambda found: found[0].lower(), quote(KEY, safe="")),
        json.dumps(KEY)[1:-1],
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
    ],
)
def test_forms(form: str) -> None:
    """Raw, URL-encoded, in JSON, in base64: the rest of the text stays."""
    assert redact(f"before {form} after", KEY).startswith("before [key]")
    assert redact(f"before {form} after", KEY).endswith(" after")


@given(key=KEYS, before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_inside_longer_base64(key: str, before: bytes, after: bytes) -> None:
    """In the middle of longer base64 a key is found at each of the three places it can begin."""
    raw = key.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + raw + after).decode()
        cleaned = redact(text, key)
        assert cleaned != text
        start, end = len(before) * 8, (len(before) + len(raw)) * 8
        whole = text[-(-start // 6) : end // 6]
        assert whole not in cleaned


@given(KEYS, st.text())
def test_nothing_of_the_key_is_left(key: str, around: str) -> None:
    """The key does not stand in what comes out."""
    cleaned = redact(f"{around}{key}{around}", key)
    assert key not in cleaned.replace("[key]", "\0")


def test_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key the process has held is cut, a longer one before one it contains, and none that
    is too short to protect anything."""
    monkeypatch.setattr(module, "_KNOWN", set())
    for key in ("sk-1234", "sk-1234567", "x"):
        remember(key)
    assert redact_known_keys("sk-1234567 sk-1234 x") == "[key] [key] x"


def test_possible_keys() -> None:
    """What could be a key is cut from the words of a stranger; paths, words and numbers stay."""
    text = "item ab12cd34ef56gh78 sk-proj-A1b2C3d4 in /usr/lib/python3.11/x line 4711 not-found-yet"
    assert redact_possible_keys(text) == (
        "item [key] [key] in /usr/lib/python3.11/x line 4711 not-found-yet"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("line\n\tindented", "line\n\tindented"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[H\x1b[?1049hcleared", "cleared"),
        ("\x9b31mred", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9d0;owned\x9ctitle", "title"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1b]52;c;without an end\nthe next line", "\nthe next line"),
        ("\x1bcreset \x1b(0 charset", "reset  charset"),
        ("over\rwritten\x08\x00\x7f\x85", "overwritten"),
        ("\u202egpj.exe\u202c \u2066isolated\u2069", "gpj.exe isolated"),
        ("ends in \x1b", "ends in "),
        ("Grüße, 你好, שלום 👋🏽", "Grüße, 你好, שלום 👋🏽"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """What a terminal would obey is stripped; text in any script, newlines and tabs stay."""
    assert printable(text) == shown


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text(st.sampled_from("\x1b\x9b\x9d\x90\x07\x9c[]P;?(0mJ\\ab\n\t\r\u202e")))
def test_nothing_to_obey_is_left(text: str) -> None:
    """Whatever sequences are nested or cut off, no control character comes out."""
    assert not CONTROLS.search(printable(text))


@given(size=st.integers(4, len(KEY)), length=st.integers(0, 80), before=st.integers(0, 60))
def test_a_key_that_is_cut(size: int, length: int, before: int) -> None:
    """Case 66: keys go before a text is cut, and of a text that is cut off in a key the beginning
    of it goes as well: no four characters of it are left."""
    remember(KEY)
    text = module.cut("." * before + KEY[:size], length)
    assert KEY[:4] not in text
    assert len(text) <= length


@pytest.mark.parametrize("piece", [KEY[:12], KEY[:-1], KEY[-12:], KEY[1:]])
def test_a_piece_of_a_key(piece: str) -> None:
    """Case 66: twelve characters of a key's beginning or end, and more, go wherever they stand."""
    assert redact(f"before {piece} after", KEY) == "before [key] after"
