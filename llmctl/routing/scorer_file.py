"""The file of a scorer: its weights, which models it was trained for, and how good it was; pure."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from llmctl.errors import ConfigError
from llmctl.routing.scorer import Scorer
from llmctl.routing.text_features import answer_features, question_features

MAX_SIZE = 4 << 20
"""Bytes: 16,384 weights and their numbers take less than 400 kB."""


class ScorerFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A scorer, and what it rests on.

    Attributes:
        version: of this format.
        weak, strong: the models whose answers it was trained on, as profiles name them.
        made: the day (UTC), such as 2026-11-30.
        rows: questions it was trained on.
        answers: it scores a question with the weak model's answer, not the question alone.
        apgr: part of the gap between the models recovered, over questions held back in turn
            (`curve.Curve.apgr`); None where there was no gap.
        threshold: the score from which on the strong model is worth asking.
        scorer: the weights.

    """

    weak: str
    strong: str
    made: str
    rows: int
    answers: bool
    apgr: float | None
    threshold: float
    scorer: Scorer
    version: int = 1

    def score(self, question: str, answer: str = "") -> float:
        """The expected gain by the strong model; see `Scorer.score`."""
        seen = answer_features(question, answer) if self.answers else question_features(question)
        return self.scorer.score(seen)

    def void(self, weak: str, strong: str) -> str:
        """Why the scorer says nothing of these models; empty where it is of them."""
        if (self.weak, self.strong) == (weak, strong):
            return ""
        return (
            f"it was trained for {self.weak} and {self.strong}, and the profiles have {weak} and "
            f"{strong}"
        )


def read_scorer(path: Path, *, answers: bool) -> ScorerFile:
    """The file; `answers` says which kind of scorer is wanted. Raises `ConfigError`."""
    kind = "train --answers" if answers else "train"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIZE + 1)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"the scorer {path} cannot be read ({why}): `llmctl route {kind}` writes one"
        ) from None
    try:
        found = None if len(raw) > MAX_SIZE else msgspec.json.decode(raw, type=ScorerFile)
        why = f"it has more than {MAX_SIZE >> 20} MiB" if found is None else _wrong(found, answers)
    except ValueError as error:
        found, why = None, str(error)
    if found is None or why:
        raise ConfigError(f"the scorer {path} is none ({why}): `llmctl route {kind}` writes one")
    return found


def _wrong(found: ScorerFile, answers: bool) -> str:  # noqa: FBT001 - as the field
    """Why this program cannot use it so; empty where it can."""
    widths = {len(found.scorer.means), len(found.scorer.scales), len(found.scorer.surface)}
    wanted = len((answer_features("", "") if answers else question_features("")).surface)
    if found.version != 1:
        return f"its version is {found.version}, this program reads 1"
    if found.answers is not answers:
        return "it is a scorer of " + ("questions" if answers else "answers")
    return "" if widths == {wanted} else f"it has {max(widths)} features, not {wanted}"


def write_scorer(found: ScorerFile) -> bytes:
    """The bytes of the file: one line of JSON."""
    return msgspec.json.encode(found) + b"\n"
