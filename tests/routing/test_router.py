"""Where a question goes: a function of it and the files, in less than a millisecond."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmctl.config.route import Cascade, Check, RouteSettings, Rule, When
from llmctl.routing.calibration import Example, held_back, learned
from llmctl.routing.checks import agrees
from llmctl.routing.curve import Verdict, curve
from llmctl.routing.language import language_of
from llmctl.routing.router import Router, question_text
from llmctl.routing.scorer_file import ScorerFile
from llmctl.types import Message
from tests.support import request

EXAMPLES = [
    Example(f"{'prove it' if n % 2 else 'name it'} {n}", Verdict(float(n % 2 == 0), 1.0))
    for n in range(60)
]
FILE = ScorerFile(
    weak="nano", strong="gpt-5-mini", made="2026-11-30", rows=60, answers=False, apgr=0.9,
    threshold=0.5, scorer=learned(EXAMPLES, answers=False),
)  # fmt: skip


def router(settings: RouteSettings, scorer: ScorerFile | None = None) -> Router:
    """A router of the profile `sim`."""
    return Router(
        strong="sim", model="gpt-5-mini", settings=settings, scorer=scorer,
        tokens=lambda one: len(question_text(one).split()), bound=lambda _: 10**6,
    )  # fmt: skip


IMAGE = (
    {"type": "text", "text": "see"},
    {"type": "image_url", "image_url": {"url": "https://x/y"}},
)


@pytest.mark.parametrize(
    ("when", "fits", "misses"),
    [
        (When(tokens_over=2), {"text": "one two three"}, {"text": "one two"}),
        (When(attachments=True), {"messages": (Message("user", IMAGE),)}, {}),
        (When(attachments=False), {}, {"messages": (Message("user", IMAGE),)}),
        (When(tools=True), {"options": {"tools": [{}]}}, {"options": {"tools": []}}),
        (When(schema=True), {"schema": {"type": "object"}}, {}),
        (When(language="de"), {"text": "Was ist das und wie geht es?"}, {"text": "What is it?"}),
        (When(matches="(?i)sql"), {"text": "some SQL"}, {"text": "some Java"}),
        (When(tag={"k": "v"}), {"tags": {"k": "v", "l": "w"}}, {"tags": {"k": "w"}}),
        (
            When(matches="a", tag={"k": "v"}),
            {"text": "a", "tags": {"k": "v"}},
            {"text": "b", "tags": {"k": "v"}},
        ),
    ],
)
def test_a_rule_holds_where_all_of_it_does(
    when: When, fits: dict[str, Any], misses: dict[str, Any]
) -> None:
    """The first that holds decides, whatever scorer and cascade say."""
    cascade = Cascade((Check(agree=2),))
    made = router(RouteSettings("cheap", (Rule(when, "cheap"), Rule(when, "sim")), cascade=cascade))
    choice = made.choose(request(**fits))
    assert (choice.to, choice.by, choice.checked) == ("cheap", "rule", False)
    assert made.choose(request(**misses)).by == "cascade"


def test_the_scorer_comes_before_the_cascade() -> None:
    """From the threshold on the strong one is asked, unchecked; below, the cheap one's answer is
    checked where there is a cascade; a threshold of the route wins over the file's."""
    plain, checked = RouteSettings("cheap"), Cascade((Check(agree=2),))
    hard, easy = request("prove it 99"), request("name it 99")
    assert router(plain, FILE).choose(hard).to == "sim"
    choice = router(plain, FILE).choose(easy)
    assert (choice.to, choice.by, choice.checked) == ("cheap", "score", False)
    choice = router(RouteSettings("cheap", cascade=checked), FILE).choose(easy)
    assert (choice.by, choice.checked) == ("cascade", True)
    assert router(RouteSettings("cheap", threshold=-9), FILE).choose(easy).to == "sim"
    assert router(plain).choose(easy).by == "default"


def test_a_choice_takes_less_than_a_millisecond() -> None:
    """Scored with a long prompt; the best of some tries, since others use the machine."""
    made, asked = router(RouteSettings("cheap"), FILE), request("why is 1 + 2 = 3? " * 5000)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        made.choose(asked)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.001


def test_what_is_masked_scores_alike_in_every_run() -> None:
    """Tokens of masking differ from run to run; what is scored does not."""
    first, second = (request(f"mail [[EMAIL_{mark}]] it") for mark in ("1a2b", "9f3c"))
    assert question_text(first) == question_text(second) == "mail EMAIL it"


def test_what_is_held_back_is_the_same_every_time() -> None:
    """And tells what was learned: hard questions have the higher scores."""
    scores = held_back(EXAMPLES, answers=False, step=lambda _, __: None)
    assert scores == held_back(EXAMPLES, answers=False, step=lambda _, __: None)
    found = curve(scores, [one.verdict for one in EXAMPLES])
    assert found.apgr is not None
    assert found.apgr > 0.7


def test_a_curve_pays_for_the_weak_model_first_in_a_cascade() -> None:
    """Equal scores go together; the last point is all strong, and both calls of a cascade."""
    verdicts = [Verdict(0, 1, 1, 10), Verdict(1, 1, 1, 10), Verdict(1, 1, 1, 10)]
    found = curve([3, 1, 1], verdicts)
    assert [(p.share, p.cost) for p in found.points] == [(0, 3), (1 / 3, 12), (1, 30)]
    assert curve([3, 1, 1], verdicts, cascade=True).points[-1].cost == 33
    cheapest = found.cheapest(1.0)
    assert cheapest is not None
    assert cheapest.cost == 12
    assert curve([1], [Verdict(1, 1)]).apgr is None


@pytest.mark.parametrize(
    ("texts", "same"),
    [
        (("It is 4.", "so: 4", "5"), True),
        (("4", "5", "4.0"), True),
        (("4", "5"), False),
        (('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'), True),
        (("Paris", "It is paris!"), True),
    ],
)
def test_answers_agree_by_what_they_come_to(texts: tuple[str, ...], same: bool) -> None:  # noqa: FBT001
    """The last number or word, or the JSON, of more than half."""
    assert agrees(texts) is same


@pytest.mark.parametrize(
    ("text", "language"),
    [("東京はどこですか", "ja"), ("Привет, как дела", "ru"), ("42", None), ("hi", None),
     ("Quelle est la capitale de la France ?", "fr")],
)  # fmt: skip
def test_languages_are_told_where_they_can_be(text: str, language: str | None) -> None:
    """None of a text that is too short."""
    assert language_of(text) == language
