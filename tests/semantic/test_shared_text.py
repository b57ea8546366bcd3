"""Rows of one template are told from questions that only sound alike."""

from __future__ import annotations

import pytest
from fow_cache import load_questions

from llmctl.semantic.shared_text import SharedText

WORDS = [f"word{letter}" for letter in "abcdefghijkl"]
LONG = (
    "You read letters to our shop; say in one word which department should answer this one "
    "and do not explain anything"
)
CHINESE = (
    "\u8bf7\u628a\u4e0b\u9762\u7684\u6587\u5b57\u7ffb\u8bd1\u6210\u82f1\u8bed\u5e76\u89e3\u91ca"
)


def seen(questions: list[str], scopes: int = 1) -> tuple[int, str] | None:
    """What is found among these questions, of so many scopes in turn."""
    shared = SharedText()
    for number, question in enumerate(questions):
        shared.add(f"scope {number % scopes}", question)
    return shared.template()


@pytest.mark.parametrize(
    "template",
    [
        f"{LONG}: {{}}",
        f"{{}}\n\n{LONG}",
        f"Dear {{0}}, {LONG}, {{0}}, and {{0}}",
        "Translate into French: {}",
        "{} Answer in one word.",
        CHINESE + " {}",
    ],
)
def test_a_template_is_found(template: str) -> None:
    """Its constant text may stand before, after and between the fields, and be short."""
    questions = [template.format(f"{a} {b}") for a in WORDS for b in WORDS]
    found = seen(questions)
    assert found is not None
    assert found[0] == len(questions)


def test_a_template_among_other_rows_is_found() -> None:
    """One row in ten is enough, however many others there are."""
    free = [" ".join(f"{word}{n}x{at}" for at, word in enumerate(WORDS * 6)) for n in range(2000)]
    rows = [f"{LONG}: {n}" if n % 10 == 0 else text for n, text in enumerate(free)]
    found = seen(rows)
    assert found is not None
    assert 100 <= found[0] <= 200


def test_rows_in_a_small_file_are_of_a_template_when_all_share_it() -> None:
    """Two are enough; one that shares nothing is not of it."""
    assert seen([f"{LONG}: it", f"{LONG}: is"])
    assert seen([f"{LONG}: it", f"{LONG}: is", "How do I reset my password?"]) is None
    assert seen([LONG]) is None


def test_questions_of_people_are_no_template() -> None:
    """A public set of questions, half of them paraphrases of the other half; and short ones that
    begin alike here and there."""
    pairs = load_questions()
    assert seen([pair[side] for pair in pairs for side in ("a", "b")]) is None
    often = [f"How do I {word} it?" for word in WORDS]
    assert seen([*often, *(f"Where is the {word}?" for word in WORDS)]) is None


def test_what_never_shares_an_answer_is_counted_apart() -> None:
    """Rows of different models or system prompts."""
    questions = [f"{LONG}: {word}" for word in WORDS]
    assert seen(questions, scopes=len(questions)) is None
