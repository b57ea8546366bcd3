"""Shorter wording: what goes, and what must stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.prompts.fix import constant_first, shorter, steps, tags


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Please classify the review.", "Classify the review."),
        ("Could you please sum up {{ text }}?", "Sum up {{ text }}."),
        ("I would like you to translate it.", "Translate it."),
        ("Hello Claude! Answer in one word, please.", "Answer in one word."),
        ("Answer yes or no. Thank you very much!", "Answer yes or no."),
        ("Rules:\n- Please be brief.\n- Kindly say why.", "Rules:\n- Be brief.\n- Say why."),
        ("Do it in order to help.", "Do it to help."),
        ("In order to help, do it.", "To help, do it."),
        ("Use one word only. Be kind. Use one word only.", "Use one word only. Be kind."),
        (
            "Mind what {{ a }} says. Mind what {{ a }} says. Use one word only. Use one word only.",
            "Mind what {{ a }} says. Mind what {{ a }} says. Use one word only.",
        ),
        ("One.   Two.  \n\n\n\nThree.", "One. Two.\n\nThree."),
    ],
)  # fmt: skip
def test_what_goes(text: str, wanted: str) -> None:
    """Pleasantries, wordy phrases, what is said twice, and white space."""
    assert shorter(text).strip() == wanted


@pytest.mark.parametrize(
    "text",
    [
        'Answer "please wait" where it is busy.',
        "Use `please` as the key.",
        "```\nplease   keep\n```",
        "{% if polite %}x{% endif %} {{ row['please  stay'] }}",
        "Thanks to the rule, it holds.",
        "    indented\n    twice",
        "The customer is pleased.",
    ],
)
def test_what_stays(text: str) -> None:
    """Quotes, code, tags, indents, and words that only look alike."""
    assert shorter(text) == text


@given(
    st.lists(
        st.sampled_from(
            ["{{ a }}", "{{ row['b c'] }}", "{% if a %}", "{% endif %}", "{# please #}", "Please ",
             "thank you", ". ", "\n", "could you ", "?", "in order to ", "Use one word only. ",
             "  ", '"', "`", "please", "x"]
        ),
        max_size=30,
    )
)  # fmt: skip
def test_every_field_is_kept(pieces: list[str]) -> None:
    """Every tag stays, in its order, whatever stands around it; and doing it twice is doing it
    once, or shorter still."""
    text = "".join(pieces)
    made = shorter(text)
    assert tags(made) == tags(text)
    assert len(made) <= len(text)


def test_each_kind_is_a_step_of_its_own() -> None:
    """So that the tokens of each can be counted."""
    text = "Please sum up.  Do it in order to help.  Sum up all of it. Sum up all of it."
    kinds = [step.kind for step in steps(text)]
    assert kinds == ["pleasantries", "wordy", "repeated", "white space"]


def test_constant_text_is_put_in_front() -> None:
    """With what it says of the place put right; not where a block could depend on the order."""
    made = constant_first("Review: {{ text }}\n\nClassify the review above.\n")
    assert made == "Classify the review below.\n\nReview: {{ text }}"
    assert constant_first("{% for a in b %}{{ a }}{% endfor %} Sum up.") is None
    assert constant_first("Sum up: {{ text }}") is None
