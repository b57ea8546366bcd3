"""Tokens for identifiers, and the way back."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.privacy import masking
from llmctl.privacy.findings import IDENTIFIERS, Finding, Kind
from llmctl.privacy.masking import LONGEST, Masker, StreamRestorer
from tests.privacy.generator import secret

KINDS: tuple[Kind, ...] = tuple(kind for kind in IDENTIFIERS if kind != "secret")
TOKEN = re.compile(r"\[\[[A-Z]+_[0-9a-f]+\]\]")
MAIL, PHONE, CARD = "ann@example.com", "+44 20 7946 0958", "4111 1111 1111 1111"
PIECES = (
    MAIL, "bob@example.org", PHONE, CARD, "[", "[[", "]", "]]", "\\", "EMAIL_", "EMAIL_1a2b",
    "[[EMAIL_1a2b]]", "[email_9f9f]", "\\[\\[EMAIL\\_1a2b\\]\\]", "[[SECRET_1a2b]]", " ", "\n",
    "text", "[[PHONE", "_", "1a", "]] ", "[ ", "\\\\[", '"', "é", "[[TEXT_0000]]",
)  # fmt: skip


def masker(
    scope: str = "s", kinds: Sequence[Kind] = IDENTIFIERS, *, restore: bool = True
) -> Masker:
    """One with a fixed key."""
    return Masker(b"key", scope, kinds, restore=restore)


def streamed(made: Masker, text: str, draw: random.Random, *, in_json: bool = False) -> str:
    """What comes out of a stream cut at random, which never holds back more than allowed."""
    restorer, out, at = StreamRestorer(made, in_json=in_json), "", 0
    while at < len(text):
        size = draw.choice((1, 1, 2, 3, 5, 8, 40))
        out += restorer.feed(text[at : at + size])
        at += size
        assert len(restorer._held) < LONGEST
    return out + restorer.close()


def test_tokens() -> None:
    """Typed, short, counted; nothing of the values is left."""
    made = masker()
    text = made.mask(f"{MAIL}, {PHONE}, {CARD} and {MAIL} again")
    tokens = TOKEN.findall(text)
    shape = "[[EMAIL_x]], [[PHONE_x]], [[CARD_x]] and [[EMAIL_x]] again"
    assert re.sub(r"_[0-9a-f]{4}\b", "_x", text) == shape
    assert tokens[0] == tokens[3]
    assert made.counts == {"email": 2, "phone": 1, "card": 1}
    assert made.restore(text) == f"{MAIL}, {PHONE}, {CARD} and {MAIL} again"


def test_scopes() -> None:
    """A value has one token in a scope, whoever makes it, and another in the next or with another
    key; a token of one scope is nothing in another."""
    one = masker("a").mask(MAIL)
    assert one == masker("a").mask(f"x {MAIL}")[2:]
    assert one != masker("b").mask(MAIL)
    assert one != Masker(b"other", "a", IDENTIFIERS).mask(MAIL)
    other = masker("b")
    other.mask(MAIL)
    assert other.restore(one) == one
    assert other.unknown == 1


def test_two_values_never_share_a_token() -> None:
    """Among 3,000 values, of which many begin alike, each has its own, of at most 32 characters."""
    made = masker()
    values = [f"user{number}@example.com" for number in range(3000)]
    tokens = [made.mask(value) for value in values]
    assert len(set(tokens)) == len(values)
    assert len({len(token) for token in tokens}) > 1
    assert max(map(len, tokens)) <= LONGEST
    assert [made.restore(token) for token in tokens] == values
    location = [Finding("location", 0, 6, 1.0)]
    assert len(masker().replaced("Berlin", location)) <= LONGEST - 12


def test_secrets_never_come_back() -> None:
    """Neither into an answer, nor into what is kept of a masker."""
    made, key = masker(), secret(random.Random(3))
    text = made.mask(f"{key} of {MAIL}")
    assert key not in text
    assert made.restore(text) == f"{TOKEN.findall(text)[0]} of {MAIL}"
    assert list(made.values.values()) == [MAIL]
    assert made.unknown == 0


def test_kept_values() -> None:
    """A masker made with the values of an earlier one puts back what that one replaced."""
    first = masker()
    text = first.mask(f"{MAIL} {PHONE}")
    again = Masker(b"key", "s", IDENTIFIERS, values=json.loads(json.dumps(first.values)))
    assert again.restore(text) == f"{MAIL} {PHONE}"
    assert again.mask(MAIL) in text
    token = "[[LOCATION_0123456789abcdef]]"
    long = Masker(b"key", "s", IDENTIFIERS, values={token: "Bonn"})
    for seed in range(20):
        assert streamed(long, f"in {token}.", random.Random(seed)) == "in Bonn."


@pytest.mark.parametrize(
    "rewrite",
    [
        str.lower,
        lambda token: token[1:-1],
        lambda token: token.replace("[[", "[[ ").replace("]]", " ]]"),
        lambda token: token.replace("[[", "\\[\\[").replace("]]", "\\]\\]").replace("_", "\\_"),
        lambda token: token.replace("_", " "),
        lambda token: token.title(),
        lambda token: token.replace("[[", "[ [").replace("]]", "] ]"),
    ],
)
def test_rewritten_tokens(rewrite: object) -> None:
    """Case, blanks, single brackets and Markdown's backslashes make no difference."""
    assert callable(rewrite)
    made = masker()
    written = rewrite(made.mask(MAIL))
    assert made.restore(f"to {written}.") == f"to {MAIL}."
    assert streamed(made, f"to {written}.", random.Random(1)) == f"to {MAIL}."


def test_look_alikes() -> None:
    """What looks like a token in a prompt comes back as it was, also where it is the token of
    somebody's value; one that nobody made is left."""
    made = masker()
    token = made.mask(MAIL)
    prompt = f"{token} and {token.lower()[1:-1]} are written by hand, {MAIL} is not"
    masked = made.mask(prompt)
    assert masked.count(token) == 1
    assert made.restore(masked) == prompt
    assert made.restore("[[EMAIL_dead]] [see EMAIL]") == "[[EMAIL_dead]] [see EMAIL]"


def test_without_restoring() -> None:
    """Tokens stay as they are, in answers and when the answer comes back as history."""
    made = masker(restore=False)
    token = made.mask(MAIL)
    assert made.restore(token) == token
    assert made.mask(f"{token} {MAIL}") == f"{token} {token}"


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_the_way_back(text: str) -> None:
    """Whatever stands around identifiers, the text comes back byte for byte."""
    made = masker(kinds=KINDS)
    assert made.restore(made.mask(text)) == text


def test_ten_thousand_chunkings() -> None:
    """However a stream is cut, its text comes back byte for byte."""
    draw = random.Random(5)
    for number in range(200):
        text = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 30)))
        made = masker(f"scope {number}", KINDS)
        masked = made.mask(text)
        for _ in range(50):
            assert streamed(made, masked, draw) == text


def test_hold_back() -> None:
    """What cannot be a token is never held back; what may be one, at most 31 characters."""
    made = masker()
    restorer = StreamRestorer(made)
    for piece in ("Hello", " [see", " this](x) ", "[1] ", "a\\n", "[[wiki]]"):
        assert restorer.feed(piece) == piece
    longest = "\\\\[ \\\\[ LOCATION \\\\_ 0123456789abcdef \\\\] \\\\]"
    for text in (longest, "[[LOCATION_" + "0" * 40, "[" * 50, "\\" * 50, "[ [ EMAIL \\_ 1a2b \\]"):
        fed = StreamRestorer(made)
        out = ""
        for at, letter in enumerate(text):
            out += fed.feed(letter)
            assert at + 1 - len(out) < LONGEST
        assert out + fed.close() == text


def test_json() -> None:
    """Values with quotes, backslashes and line breaks leave the JSON of tool arguments valid, in
    one piece and in a stream."""
    value = 'Ann "the" O\\Neil\nof Bonn'
    made = masker()
    masked = made.replaced(value, [Finding("person", 0, len(value), 1.0)])
    arguments = json.dumps({"name": masked, "n": 1, "list": [f"\\{masked}", masked.lower()]})
    expected = {"name": value, "n": 1, "list": [f"\\{value}", value]}
    assert json.loads(made.restore(arguments, in_json=True)) == expected
    draw = random.Random(6)
    for _ in range(200):
        assert json.loads(streamed(made, arguments, draw, in_json=True)) == expected


def test_parsed_json() -> None:
    """Texts, names of fields and numbers are masked wherever they are; the rest stays."""
    made = masker()
    value = {MAIL: [{"card": 4111111111111111, "n": 12, "ok": True, "none": None}, PHONE]}
    masked = made.mask_json(value)
    assert "example.com" not in json.dumps(masked)
    (fields,) = [each for each in next(iter(masked.values())) if isinstance(each, dict)]
    assert TOKEN.fullmatch(fields["card"])
    assert {name: fields[name] for name in ("n", "ok", "none")} == {
        "n": 12,
        "ok": True,
        "none": None,
    }


def test_lone_surrogates() -> None:
    """Half a character of JSON's is text like any other."""
    made = masker("\udc80")
    text = f"\udc80 {MAIL}"
    assert made.restore(made.mask(text)) == text


def test_beginnings_cover_tokens() -> None:
    """Every beginning of every token, however it is written, is one that a stream holds back."""
    draw = random.Random(9)
    for _ in range(2000):
        kind = draw.choice(masking._TYPES)
        space, back = draw.choice(("", " ")), draw.choice(("", "\\", "\\\\"))
        name = f"{space}{kind}{back}{draw.choice('_ -')}{draw.choice(('', ' '))}1a2b{space}"
        token = draw.choice(
            (f"{back}[{name}{back}]", f"{back}[{space}{back}[{name}{back}]{space}{back}]")
        )
        assert masking._TOKEN.fullmatch(token)
        for size in range(1, len(token)):
            assert masking._BEGINNING.fullmatch(token[:size]), token[:size]
