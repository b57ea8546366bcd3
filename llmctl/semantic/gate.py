"""The gate: what two questions must have in common for one answer to serve both. Pure.

`content` is what is left of a question without the words that carry nothing: questions of the same
content are taken as one. `facts` are what no paraphrase changes: numbers, signs, names, quotations,
negations, scripts; only where they are the same a judge is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from msgspec import Struct

_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|`([^`]+)`|(?<!\w)'([^']+)'(?!\w)")
_TOKEN = re.compile(
    r"\x00[0-9]+\x00"  # a quotation, taken out before
    r"|(?:(?<!\w)[-+])?\d+(?:[.,:/-]\d+)*"  # numbers, dates, times
    r"|[^\W\d_]+(?:['.&_-][^\W\d_]+)*[+#]*"
    # What is no plain punctuation is a sign: of sums, money, units.
    r"|[^\w\s.,;:!?()\[\]{}'\"…¿¡-]|_+|(?<=\s)-(?=\s)|-(?=\d)"
)
_CLITIC = re.compile(r"'(?:s|m|re|ve|ll|d)?\Z")

_GREETING = re.compile(
    r"\A\s*(?:(?:um+|uh+|hi|hello|hey|hiya|dear|team|all|there|sorry|yeah|ok|okay|so|"
    r"quick question|good (?:morning|evening|afternoon))\b[\s,.!:]*)+"
    r"|(?:\b(?:many thanks|thanks(?: in advance)?|thank you|cheers|please)[\s.!?]*)+\Z",
    re.IGNORECASE,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FRONTED = re.compile(
    r"\A\s*((?:on|in|at|for|to|near|with)\s[^,.?!\n]+),\s+"
    r"((?:how|what|where|when|why|who|which|is|are|can|do|does)\s[^\n]*?)[\s?]*\Z",
    re.IGNORECASE,
)
"""A clause before the question: `in Python, how do I sort` asks `how do I sort in Python`."""

_NUMBERS = {
    name: str(number)
    for number, name in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
        start=2,  # one is a pronoun, too
    )
}
_NEGATIONS = _set(
    "no not none never neither nor nobody nothing nowhere without except unless avoid exclude "
    "excluding lack opposite"
)
_SWAPPED = (("in", "ex"), ("im", "ex"), ("in", "de"), ("en", "dis"), ("up", "down"))
_OPPOSITES = ("un", "in", "im", "il", "ir", "dis", "non", "non-", "a")

_ANTONYMS = tuple(
    _set(pair)
    for pair in (
        "on off", "in out", "up down", "open closed", "open close", "buy sell", "before after",
        "more less", "more fewer", "most least", "minimum maximum", "min max", "raise lower",
        "start end", "begin end", "first last", "earliest latest", "early late", "old new",
        "high low", "higher lower", "highest lowest", "best worst", "good bad", "send receive",
        "accept reject", "accept decline", "approve reject", "win lose", "pass fail",
        "same different", "above below", "over under", "add remove", "add delete", "left right",
        "long short", "arrival departure", "adult child", "deposit withdraw", "yes no",
        "male female", "hot cold", "always never", "today tomorrow", "today yesterday",
        "allowed banned", "allowed prohibited", "allow ban", "allow forbid", "public private",
        "benefits drawbacks", "advantages disadvantages", "pros cons", "pause resume",
    )
)  # fmt: skip
"""Words of which a question means one, and not the other."""

_EMPTY = _set(
    "a an the it its i i'm i've i'd my we we're our is am are be been do does can could would "
    "please kindly tell of have has"
)
"""Words that a question asks the same without. Not: what is asked for (how, what), tenses (was,
will), duties (must, should), persons that things happen to (me, you), places (in, on, up)."""

_DIRECTIONS = _set("from to into than before after over under between by with via")
"""Words that say which side something is on: they are one word with the next."""

_ENGLISH = _set("is are do can my of to i a")
_SURELY = _set("the how does what which where when who why")  # words of no other language
_IRREGULAR = {"won't": "will not", "can't": "can not", "cannot": "can not", "shan't": "shall not",
              "whats": "what"}  # fmt: skip


_APOSTROPHES = {0x2018: "'", 0x2019: "'"}


class Form(Struct, frozen=True):
    """Of one question: its content and its facts."""

    content: tuple[str, ...]
    facts: tuple[str, ...]


SHORT = 4
"""Words below which a field of a template is compared as it is written: it is no question, and
each word of it may be the one that matters."""


def form(text: str, *, is_field: bool = False) -> Form:
    """The form of a question, or of a template's field."""
    words = content(text)
    if not words or (is_field and len(text.split()) < SHORT):
        return Form((normalised(text) or text,), ())
    return Form(words, facts(text))


def normalised(text: str) -> str:
    """The text in lower case, with single spaces, without marks at its end."""
    return " ".join(_clean(text).lower().split()).rstrip(" .!?")


def content(text: str) -> tuple[str, ...]:
    """The words that carry the question, in their order: `the dog bites a man` is another question
    than `a man bites the dog`. Other languages than English keep all their words."""
    words = list(_words(text))
    english = bool(_SURELY.intersection(words)) or len(_ENGLISH.intersection(words)) >= 2
    found: list[str] = []
    before = ""
    for word in words:
        if english and word in _EMPTY:
            continue
        if english and word in _DIRECTIONS:
            before += f"{word} "
            continue
        found.append(before + (_singular(word) if english else word))
        before = ""
    return (*found, before) if before else tuple(found)


def facts(text: str) -> tuple[str, ...]:
    """What no paraphrase changes, sorted."""
    return tuple(sorted(_facts(text)))


def opposed(one: str, other: str) -> bool:
    """Whether one question has a word and the other its opposite: safe and unsafe."""
    first, second = set(_words(one)), set(_words(other))
    for pair in _ANTONYMS:
        if first & pair and second & pair and not first & second & pair:
            return True
    return any(
        opposite in theirs - ours
        for ours, theirs in ((first, second), (second, first))
        for word in ours - theirs
        if len(word) > 3
        for opposite in _opposites(word)
    )


def _opposites(word: str) -> Iterator[str]:
    """Words that mean the opposite, as far as a prefix tells: unsafe; disable and enable."""
    yield from (prefix + word for prefix in _OPPOSITES)
    for one, other in _SWAPPED:
        if word.startswith(one):
            yield other + word.removeprefix(one)


def _facts(text: str) -> Iterator[str]:
    plain, quotations = _quotations(_clean(text))
    starts, scripts = True, set[str]()
    # Of a text in capitals, or with Each Word In Them, nobody can tell the names.
    cased = [word for word in re.findall(r"[^\W\d_]+", plain) if len(word) > 3]
    titled = len(cased) > 2 and all(word[0].isupper() for word in cased)
    for match in _TOKEN.finditer(plain):
        word = match[0]
        if word.startswith("\x00"):
            yield f'"{quotations[int(word[1:-1])]}"'
        elif not word[0].isalpha():
            yield word
        else:
            if not word.isascii():
                scripts.add(unicodedata.name(word[0], "").partition(" ")[0])
            yield from _fact(word, starts=starts or titled)
        starts = plain[match.end() :].lstrip(" ")[:1] in {".", "?", "!", ":", "\n"}
    yield from scripts - {"LATIN"}


def _fact(word: str, *, starts: bool) -> Iterator[str]:
    """The fact that a word is, if it is one; `starts`: its capital is that of a sentence."""
    lower = _CLITIC.sub("", word.lower()) if not word.lower().endswith("n't") else word.lower()
    if lower in _NUMBERS:
        yield _NUMBERS[lower]
    elif lower in _NEGATIONS or lower == "cannot" or lower.endswith("n't"):
        yield "not"
    elif lower not in _EMPTY and (
        any(letter.isupper() for letter in word[1:]) or (word[0].isupper() and not starts)
    ):
        yield _singular(lower)


def _words(text: str) -> Iterator[str]:
    """The words in lower case: contractions written out, possessives without their ending, what is
    only polite left out, quotations as they are."""
    polite = _GREETING.sub(" ", _clean(text))
    plain, quotations = _quotations(_FRONTED.sub(r"\2 \1", polite))
    for match in _TOKEN.finditer(plain):
        word = match[0].lower()
        if word.startswith("\x00"):
            yield f'"{quotations[int(word[1:-1])]}"'
        elif word in _IRREGULAR:
            yield from _IRREGULAR[word].split()
        elif word.endswith("n't"):
            yield from (word[:-3], "not")
        elif word:
            yield _CLITIC.sub("", word)


def _clean(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)


def _quotations(text: str) -> tuple[str, list[str]]:
    """The text with a mark in the place of each quotation, and the quotations."""
    found: list[str] = []

    def mark(match: re.Match[str]) -> str:
        found.append(next(group for group in match.groups() if group))
        return f"\x00{len(found) - 1}\x00"

    return _QUOTED.sub(mark, text.replace("\x00", "")), found


def _singular(word: str) -> str:
    """The word without the ending of a plural. No other ending goes: run and runner are two."""
    if (
        not word.isascii()
        or not word.isalpha()
        or len(word) < 4
        or word.endswith(("ss", "us", "is"))
    ):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    return word.removesuffix("s")
