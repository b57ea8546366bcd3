"""Calibration: a scorer trained on examples, how good it is on others, and its threshold; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct

from llmctl.routing.curve import Curve, Point, Verdict, curve
from llmctl.routing.scorer import Scorer, train
from llmctl.routing.text_features import TextFeatures, answer_features, question_features

LEAST = 20
"""Examples without which there is nothing to hold back, nor to learn."""

NEVER, ALWAYS = 10.0, -10.0
"""Thresholds above and below all scores: nothing, or all, goes to the strong model."""

_PARTS = 4  # each is scored by what was learned from the others


class Example(Struct, frozen=True):
    """A question, how both models did at it, and the weak one's answer where that is known."""

    question: str
    verdict: Verdict
    answer: str | None = None

    def features(self, *, answers: bool) -> TextFeatures:
        """Of the question, or of it with the answer."""
        if not answers:
            return question_features(self.question)
        return answer_features(self.question, self.answer or "")


def learned(examples: Sequence[Example], *, answers: bool) -> Scorer:
    """The scorer of all examples."""
    texts = [one.features(answers=answers) for one in examples]
    return train(texts, [one.verdict.strong - one.verdict.weak for one in examples])


def held_back(
    examples: Sequence[Example], *, answers: bool, step: Callable[[int, int], None]
) -> list[float]:
    """The score of each example by what was learned from others: the same every time. `step` hears
    how many parts of how many are done."""
    order = list(range(len(examples)))
    Random(7).shuffle(order)  # noqa: S311 - no secret
    texts = [one.features(answers=answers) for one in examples]
    gains = [one.verdict.strong - one.verdict.weak for one in examples]
    scores = [0.0] * len(examples)
    for part in range(_PARTS):
        rest = [at for place, at in enumerate(order) if place % _PARTS != part]
        scorer = train([texts[at] for at in rest], [gains[at] for at in rest])
        for at in order[part::_PARTS]:
            scores[at] = scorer.score(texts[at])
        step(part + 1, _PARTS)
    return scores


def cheapest(found: Curve, quality: float) -> Point | None:
    """The cheapest point that has this share of the strong model's quality; None where there is
    none."""
    return found.cheapest(quality * found.points[-1].quality)


def threshold_of(point: Point) -> float:
    """The threshold of a point, a finite number."""
    if point.share >= 1:
        return ALWAYS
    return NEVER if point.share <= 0 else round(point.threshold, 6)


def curve_of(examples: Sequence[Example], scores: Sequence[float], *, answers: bool) -> Curve:
    """Quality against cost by these scores; with `answers` the weak model is asked first."""
    return curve(scores, [one.verdict for one in examples], cascade=answers)
