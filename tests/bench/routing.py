"""Routing on RouteLLM's published verdicts: part of the gap recovered, and time a prompt.

    python -m tests.bench.routing FILE [OTHER]

FILE (JSON lines, gzip) has {set, prompt, weak_right, strong_right, weak_answer?}. Half of it trains
and half is measured, and the other way round; with OTHER all of FILE trains and OTHER is measured.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from llmctl.routing.curve import Verdict, curve
from llmctl.routing.scorer import train
from llmctl.routing.text_features import TextFeatures, answer_features, question_features

Row = dict[str, Any]


def rows_of(path: str) -> list[Row]:
    """The rows of a file."""
    with gzip.open(Path(path), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def features(row: Row, *, cascade: bool) -> TextFeatures:
    """Of a row's question, or of it with the weak model's answer."""
    asked = str(row["prompt"])
    return answer_features(asked, row["weak_answer"]) if cascade else question_features(asked)


def verdict(row: Row) -> Verdict:
    """How both models did."""
    return Verdict(float(row["weak_right"]), float(row["strong_right"]))


def measure(learned: list[Row], held: list[Row], *, cascade: bool) -> float:
    """The APGR over rows that were not learned from."""
    texts = [features(row, cascade=cascade) for row in learned]
    gains = [float(row["strong_right"]) - float(row["weak_right"]) for row in learned]
    scorer = train(texts, gains)
    scores = [scorer.score(features(row, cascade=cascade)) for row in held]
    return curve(scores, [verdict(row) for row in held], cascade=cascade).apgr or 0.0


def main() -> None:
    """Measure, and print."""
    rows = rows_of(sys.argv[1])
    other = rows_of(sys.argv[2]) if len(sys.argv) > 2 else []
    for name, cascade, goal in (
        ("mmlu", False, 0.62),
        ("gsm8k", False, 0.60),
        ("gsm8k", True, 0.70),
    ):
        mine = [row for row in rows if row["set"] == name]
        if other:
            parts = [(mine, [row for row in other if row["set"] == name])]
        else:
            Random(7).shuffle(mine)
            half = len(mine) // 2
            parts = [(mine[:half], mine[half:]), (mine[half:], mine[:half])]
        start = time.perf_counter()
        found = sum(measure(*part, cascade=cascade) for part in parts) / len(parts)
        took = time.perf_counter() - start
        how = "cascade" if cascade else "before"
        print(f"{name:6} {how:8} APGR {found:.3f} (goal {goal}); {took:.1f} s to train and score")
    prompts = [str(row["prompt"]) for row in rows[:2000]]
    scorer = train([question_features(one) for one in prompts[:300]], [0.5] * 300)
    start = time.perf_counter()
    for prompt in prompts:
        scorer.score(question_features(prompt))
    each = (time.perf_counter() - start) / len(prompts)
    long = max(prompts, key=len) * 50
    start = time.perf_counter()
    for _ in range(100):
        scorer.score(question_features(long))
    longest = (time.perf_counter() - start) / 100
    print(f"{each * 1000:.2f} ms a prompt; {longest * 1000:.2f} ms for {len(long):,} characters")


if __name__ == "__main__":
    main()
