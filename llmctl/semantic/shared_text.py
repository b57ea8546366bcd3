"""Text that the questions of a batch share, by which rows of one template are told. Pure.

Rows of a template may differ in a word that no comparison of whole questions sees: of `Translate
into French: it` and `Translate into French: is` the same is left once words that carry nothing are
taken away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from zlib import crc32

LONG = 12
"""Words one after the other, anywhere in a question, that are a template's where `ROWS` questions,
and `SHARE` of all, have them. Paraphrases have long runs in common, too, but are few."""
ROWS, SHARE = 5, 0.05

SHORT = 3
"""Words at the start, or at the end, that are a template's where `NEARLY_ALL` of `SHORT_ROWS`
questions or more have them."""
SHORT_ROWS, NEARLY_ALL = 10, 0.9

_ENDS = 50
"""Words at each end of a question that are looked at: between them is mostly a field."""

_MOST = 50_000
"""Texts that are counted at a time; beyond, those that only one question has are given up."""

_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\\w+")
"""A word, or a sign of a language that is written without spaces."""


class SharedText:
    """Counts what questions have in common, as they are added, each question once."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[int, str]]()

    def add(self, scope: str, text: str) -> None:
        """Take a question into account; those of different scopes never share an answer."""
        number = crc32(scope.encode())
        self._counts.update((number, run) for run in {"", *_runs(_WORD.findall(text.lower()))})
        if len(self._counts) > _MOST:
            self._counts = Counter({run: count for run, count in self._counts.items() if count > 1})

    def template(self) -> tuple[int, str] | None:
        """How many questions are of one template, and words that they share; None: there is none
        to be seen."""
        for (scope, run), count in self._counts.most_common():
            if run and count >= _needed(run, self._counts[scope, ""]):
                return count, run.strip("^$")
        return None


def _runs(words: list[str]) -> Iterator[str]:
    """What is compared of a question: `^` marks what is at its start, `$` at its end."""
    if len(words) > SHORT:
        yield f"^{' '.join(words[:SHORT])}"
        yield f"{' '.join(words[-SHORT:])}$"
    last = len(words) - LONG + 1
    for start in range(last):
        if start < _ENDS or start >= last - _ENDS:
            yield " ".join(words[start : start + LONG])


def _needed(run: str, rows: int) -> float:
    """How many of so many questions must have it."""
    if run.startswith("^") or run.endswith("$"):
        return max(SHORT_ROWS, NEARLY_ALL * rows)
    return max(min(rows, ROWS), 2, SHARE * rows)
