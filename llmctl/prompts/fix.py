"""Shorter wording of prompts: what can go without changing what is asked. English only.

What stands in Jinja tags, quotes and code stays as it is, and every tag is kept, in its order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

Kind = Literal["pleasantries", "wordy", "repeated", "white space"]

_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_KEPT = re.compile(rf"{_TAG.pattern}|```.*?```|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”", re.DOTALL)
# Of Unicode's private use: around the number of what is kept, and where a sentence begins anew.
_OPEN, _CLOSE, _SEAM = "\ue000", "\ue001", "\ue002"
_HELD = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_AT_START = r"(?P<start>(?:\A|(?<=\n)|(?<=[.!?:] ))(?:[-*•] |\d+\. )?)"
_PLEASANT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_AT_START}(?:could|can|would|will) you (?:please |kindly )?(?P<ask>[^.?\n]*)\?",
        rf"{_AT_START}I(?: would|'d) (?:like you to|appreciate it if you could) ",
        rf"{_AT_START}I (?:want|need) you to ",
        r" ?(?<![\w'])(?:many thanks|thank you|thanks)\b(?! to\b)[^.!?\n]*[.!]?",
        r" ?(?<![\w'])I hope (?:this|you|that)\b[^.!?\n]*[.!]",
        r"\A(?:hello|hi|hey)(?: there| assistant| claude| chatgpt)?[,.!] *",
        rf"{_AT_START}(?:please|kindly),? ",
        r",? (?:please|kindly)\b(?=[ .!?,;:\n]|\Z)",
    )
)
_WORDY = {
    "in order to": "to",
    "due to the fact that": "because",
    "in spite of the fact that": "although",
    "at this point in time": "now",
    "in the event that": "if",
    "for the purpose of": "for",
    "with regard to": "about",
    "with respect to": "about",
    "a large number of": "many",
    "the majority of": "most",
    "prior to": "before",
    "subsequent to": "after",
    "each and every": "every",
    "is able to": "can",
    "are able to": "can",
    "has the ability to": "can",
    "it is important to note that ": "",
    "it should be noted that ": "",
    "as a matter of fact, ": "",
}
"""Phrases that say in several tokens what one says. Abbreviations such as `e.g.` are none of them:
they have more tokens than the words."""
_PHRASES = re.compile(r"\b(?:" + "|".join(map(re.escape, _WORDY)) + r")(?<=[ \w])", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|\Z)|\n|\Z)|\n")
_WORDS = 4
"""Words that a sentence has at least that is taken for an instruction when it comes again."""


class Step(Struct, frozen=True):
    """One kind of change: the text after it, and what was changed, in its words."""

    kind: Kind
    text: str
    changed: tuple[str, ...]


def tags(text: str) -> list[str]:
    """The Jinja tags of a template."""
    return _TAG.findall(text)


def steps(text: str) -> Iterator[Step]:
    """The kinds of changes that apply, one after the other; the last text is the shorter one.
    A kind is left out where its result would lack a tag."""
    if not {_OPEN, _CLOSE, _SEAM}.isdisjoint(text):
        return
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"{_OPEN}{len(held) - 1}{_CLOSE}"

    def whole(part: str) -> str:
        return _HELD.sub(lambda match: held[int(match[1])], part)

    wanted, now = tags(text), _KEPT.sub(hold, text)
    works: tuple[tuple[Kind, Callable[[str], tuple[str, list[str]]]], ...] = (
        ("pleasantries", _without_pleasantries),
        ("wordy", _without_phrases),
        ("repeated", _without_repeats),
        ("white space", _without_space),
    )
    for kind, work in works:
        after, changed = work(now)
        if after != now and after.strip() and tags(whole(after)) == wanted:
            now = after
            yield Step(kind, whole(now), tuple(" ".join(whole(each).split()) for each in changed))


def shorter(text: str) -> str:
    """The text after all steps; the same where none applies."""
    found = text
    for step in steps(text):
        found = step.text
    return found


def constant_first(template: str) -> str | None:
    """The template with the constant text behind its last tag in front of all else, so that
    prompts begin alike; None where it has blocks, or nothing behind. What said `above` says
    `below`. Every tag is kept, in its order."""
    found = list(_TAG.finditer(template))
    if not found or any(not match[0].startswith("{{") for match in found):
        return None
    last = found[-1].end()
    behind = template[last:].strip()
    if not behind:
        return None
    behind = re.sub(r"\babove\b", "below", behind)
    return f"{behind}\n\n{template[:last].lstrip()}"


def _without_pleasantries(text: str) -> tuple[str, list[str]]:
    changed: list[str] = []

    def drop(match: re.Match[str]) -> str:
        said = match.groupdict()
        start, ask = said.get("start") or "", said.get("ask")
        changed.append(match[0][len(start) :][:60])
        begins = "start" in said or not match.start()
        return f"{start}{_SEAM if begins else ''}{'' if ask is None else f'{ask}.'}"

    for pattern in _PLEASANT:
        text = pattern.sub(drop, text)
        # What begins a sentence now is written as one.
        text = re.sub(f"{_SEAM}(.?)", lambda match: match[1].upper(), text)
    return text, changed


def _without_phrases(text: str) -> tuple[str, list[str]]:
    changed: list[str] = []

    def drop(match: re.Match[str]) -> str:
        changed.append(match[0])
        said = _WORDY[match[0].lower()]
        return said.capitalize() if match[0][0].isupper() else said

    return _PHRASES.sub(drop, text), changed


def _without_repeats(text: str) -> tuple[str, list[str]]:
    seen: set[str] = set()
    kept: list[str] = []
    changed: list[str] = []
    for piece in _SENTENCE.findall(text):
        words = re.findall(r"\w+", piece.lower())
        key = " ".join(words)
        if len(words) >= _WORDS and _OPEN not in piece:
            if key in seen:
                changed.append(piece.strip())
                kept.append("\n" if piece.endswith("\n") else "")
                continue
            seen.add(key)
        kept.append(piece)
    return "".join(kept) if changed else text, changed


def _without_space(text: str) -> tuple[str, list[str]]:
    after = re.sub(r"(?<=\S)  +(?=\S)", " ", re.sub(r"[ \t]+(?=\n)", "", text))
    after = re.sub(r"\n{3,}", "\n\n", after)
    return after, []
