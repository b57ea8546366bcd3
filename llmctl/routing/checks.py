"""Checks of a model's answer: what a text can be told to lack without asking anybody; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from llmctl.schemas import value

_REFUSAL = re.compile(
    r"\W*(?:(?:i am|i['\u2019]m|we are|we['\u2019]re) (?:very |so |really )?(?:sorry|afraid|unable)"
    r"|sorry\b|my apologies|i apologi[sz]e|unfortunately,? (?:i|we)\b|as an? (?:ai|language "
    r"model)\b"
    r"|i (?:can ?not|can['\u2019]t|am not able|won['\u2019]t|do not know|don['\u2019]t know)\b"
    r"|(?:es )?tut mir (?:sehr )?leid|leider (?:kann|darf|weiß) ich|ich (?:kann|darf) (?:das |dir "
    r"|ihnen )?nicht|je suis (?:vraiment )?désolée?|désolée?\b|je ne peux pas|lo siento|no puedo\b"
    r"|mi dispiace|non posso\b|sinto muito|desculpe|não posso\b)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def refuses(text: str) -> bool:
    """Whether an answer is empty, or begins as refusals do; in English and some other languages."""
    return not text.strip() or _REFUSAL.match(text) is not None


def is_json(text: str) -> bool:
    """Whether an answer is JSON, or one fence of it."""
    try:
        value(text)
    except ValueError:
        return False
    return True


def agrees(texts: Sequence[str]) -> bool:
    """Whether more than half of the answers to one question say what the first one does: the same
    JSON, or the same last number or word."""
    said = [_said(text) for text in texts]
    return said.count(said[0]) * 2 > len(said)


def _said(text: str) -> str:
    """What an answer comes to."""
    try:
        found = value(text)
    except ValueError:
        found = None
    if isinstance(found, dict | list):
        return json.dumps(found, sort_keys=True)
    line = text.strip().rpartition("\n")[2]
    if numbers := _NUMBER.findall(line):
        number: str = numbers[-1].replace(",", "")
        return number.rstrip("0").rstrip(".") if "." in number else number
    words = re.findall(r"\w+", line.casefold())
    return words[-1] if words else ""
