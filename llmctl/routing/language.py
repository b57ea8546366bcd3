"""The language that a text's words are of, by its letters and most usual words; pure.

A heuristic: of texts of some ten words and more it is seldom wrong, of a short one, or one of
several languages, none is told.
"""

from __future__ import annotations

import re

from llmctl.config.route import Language

_SEEN = 2000  # characters that are looked at
_LEAST = 2  # usual words that there must be, and the most by which one language leads

_SCRIPTS: tuple[tuple[Language, re.Pattern[str]], ...] = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),  # before Chinese, whose characters it has, too
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_USUAL: dict[Language, str] = {
    "de": (
        "der die das und ist nicht ein eine mit für auf von den dem zu wie was ich wir es sich im "
        "auch bei oder werden wird sind"
    ),
    "en": (
        "the and is of to in that it for with on are what how this be you from which have does "
        "not by an or"
    ),
    "es": (
        "el la los las de que y es en un una por con para del se como cuál qué no su más al esta"
    ),
    "fr": (
        "le la les des et est un une que qui dans pour sur avec pas du au ce cette quel quelle "
        "comment je vous"
    ),
    "it": (
        "il lo la gli le di che e è un una per con non del della sono come qual quale in si più "
        "questo"
    ),
    "nl": (
        "de het een en van is niet dat op te voor met zijn wat hoe ik je er aan wordt deze ook maar"
    ),
    "pt": ("o a os as de que e é em um uma por com para do da não se como qual mais ao são isso"),
}
_WORDS = {language: frozenset(words.split()) for language, words in _USUAL.items()}
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> Language | None:
    """The language; None where it cannot be told."""
    seen = text[:_SEEN]
    letters = sum(map(len, _WORD.findall(seen)))
    for language, letter in _SCRIPTS:
        if len(letter.findall(seen)) * 3 > letters > 0:
            return language
    words = [word.lower() for word in _WORD.findall(seen)]
    found = sorted(
        ((sum(word in usual for word in words), name) for name, usual in _WORDS.items()),
        reverse=True,
    )
    (most, language), (second, _) = found[0], found[1]
    return language if most >= _LEAST and most > second else None
