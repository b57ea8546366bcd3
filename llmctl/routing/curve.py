"""Quality against cost: what sending a share of the questions to the strong model brings; pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct


class Verdict(Struct, frozen=True):
    """How two models did at one question: `weak` and `strong` from 0 (bad) to 1 (good), and what
    each call cost in US dollars."""

    weak: float
    strong: float
    weak_cost: float = 0.0
    strong_cost: float = 1.0


class Point(Struct, frozen=True):
    """The questions whose score is `threshold` or more go to the strong model: a `share` of them;
    `quality` is the mean, `cost` the sum in US dollars."""

    threshold: float
    share: float
    quality: float
    cost: float


class Curve(Struct, frozen=True):
    """All thresholds, from none that go to the strong model to all. `weak_first`: what of the last
    point's cost is for asking the weak model before, in US dollars."""

    points: tuple[Point, ...]
    apgr: float | None
    weak_first: float = 0.0

    def cheapest(self, quality: float) -> Point | None:
        """The point of the least cost whose quality is as wanted; None where there is none."""
        good = [point for point in self.points if point.quality >= quality - 1e-12]
        return min(good, key=lambda point: (point.cost, point.share), default=None)


def curve(scores: Sequence[float], verdicts: Sequence[Verdict], *, cascade: bool = False) -> Curve:
    """The curve of scores. With `cascade` the weak model is asked first, and its call is paid for
    by every question.

    The APGR (average performance gap recovered, of RouteLLM) is the mean over all shares of the
    part of the gap between the models that is recovered: 0.5 by chance; None without a gap.
    """
    order = sorted(range(len(scores)), key=lambda at: -scores[at])
    gains = [verdicts[at].strong - verdicts[at].weak for at in order]
    dearer = [
        verdicts[at].strong_cost - (0.0 if cascade else verdicts[at].weak_cost) for at in order
    ]
    count, gap = len(order), sum(gains)
    quality = sum(one.weak for one in verdicts)
    cost = sum(one.weak_cost for one in verdicts)
    recovered = [0.0, *accumulate(gains)]
    spent = [0.0, *accumulate(dearer)]
    thresholds = [float("inf"), *(scores[at] for at in order)]
    points = tuple(
        Point(
            threshold,
            n / max(1, count),
            (quality + recovered[n]) / max(1, count),
            cost + spent[n],
        )
        for n, threshold in enumerate(thresholds)
        # Of equal scores all are sent, or none.
        if n in {0, count} or thresholds[n + 1] != threshold
    )
    apgr = sum(recovered) / len(recovered) / gap if gap > 0 else None
    return Curve(points, apgr, sum(one.weak_cost for one in verdicts) if cascade else 0.0)
