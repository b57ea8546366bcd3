"""A scorer: how much better the strong model is likely to do at a question; pure.

Ridge regression over the features of a text, on what was seen: 1 where the strong model alone did
well, -1 where the weak one alone did, 0 where both did alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import mul

from msgspec import Struct

from llmctl.routing.text_features import TextFeatures

_RIDGE = 10.0  # how strongly weights are held small; 3 to 30 did alike on 300 and 7,000 questions
_SURFACE = 0.3  # of a surface feature's standard deviation, beside words whose length is 1
_STEPS = 60  # of conjugate gradients; they have converged before
_ENOUGH = 1e-4  # share of the first residual at which they have


class Scorer(Struct, frozen=True, forbid_unknown_fields=True):
    """Weights, as a file has them. `means` and `scales` are those of the surface features; `words`
    has the weights of buckets by number."""

    bias: float
    means: tuple[float, ...]
    scales: tuple[float, ...]
    surface: tuple[float, ...]
    words: dict[int, float]

    def score(self, features: TextFeatures) -> float:
        """The expected gain by the strong model, about -1 to 1: the larger, the more it is worth
        to ask that one."""
        numbers = [
            (value - mean) * scale
            for value, mean, scale in zip(features.surface, self.means, self.scales, strict=True)
        ]
        weights = self.words
        known = (weights.get(bucket, 0.0) * value for bucket, value in features.words.items())
        seen = (value * weight for value, weight in zip(numbers, self.surface, strict=True))
        return self.bias + sum(seen) + sum(known)


def train(texts: Sequence[TextFeatures], gains: Sequence[float]) -> Scorer:
    """The scorer of texts whose gains are known. A second for about 1,000 texts. Raises
    `ValueError` without any."""
    if not texts:
        raise ValueError("nothing to learn from")
    means, scales = _standard([text.surface for text in texts])
    width = len(means)
    rows = []
    for text in texts:
        numbers = [(v - m) * s for v, m, s in zip(text.surface, means, scales, strict=True)]
        rows.append(
            ([*range(width), *(width + bucket for bucket in text.words)],
             [*numbers, *text.words.values()])
        )  # fmt: skip
    bias = sum(gains) / len(gains)
    weights = _ridge(rows, [gain - bias for gain in gains])
    words = {at - width: round(w, 5) for at, w in weights.items() if at >= width and abs(w) > 1e-4}
    surface = tuple(round(weights.get(at, 0.0), 6) for at in range(width))
    return Scorer(bias, means, scales, surface, words)


def _standard(columns: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean of each feature, and what makes its deviations as large as `_SURFACE`."""
    count = len(columns)
    means, scales = [], []
    for values in zip(*columns, strict=True):
        mean = math.fsum(values) / count
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / count)
        means.append(round(mean, 6))
        scales.append(round(_SURFACE / deviation, 6) if deviation > 1e-9 else 0.0)
    return tuple(means), tuple(scales)


_Row = tuple[list[int], list[float]]


def _ridge(rows: Sequence[_Row], target: Sequence[float]) -> dict[int, float]:
    """Weights that bring the rows near the target, by conjugate gradients (Hestenes and Stiefel,
    1952) on the normal equations."""
    weights: dict[int, float] = dict.fromkeys({at for row in rows for at in row[0]}, 0.0)
    residual = _transposed(rows, target)
    direction = dict(residual)
    first = size = _square(residual.values())
    for _ in range(_STEPS):
        if size <= _ENOUGH**2 * first:
            break
        ahead = [sum(map(mul, map(direction.__getitem__, at), values)) for at, values in rows]
        pushed = _transposed(rows, ahead)
        for at, value in direction.items():
            pushed[at] = pushed.get(at, 0.0) + _RIDGE * value
        step = size / sum(value * pushed[at] for at, value in direction.items())
        for at, value in direction.items():
            weights[at] += step * value
            residual[at] -= step * pushed[at]
        before, size = size, _square(residual.values())
        ratio = size / before
        direction = {at: residual[at] + ratio * value for at, value in direction.items()}
    return weights


def _transposed(rows: Iterable[_Row], factors: Iterable[float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for (at, values), factor in zip(rows, factors, strict=True):
        for index, value in zip(at, values, strict=True):
            found[index] = found.get(index, 0.0) + factor * value
    return found


def _square(values: Iterable[float]) -> float:
    return sum(value * value for value in values)
