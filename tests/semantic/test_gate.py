"""What two questions must have in common."""

from __future__ import annotations

import pytest

from llmctl.semantic.gate import content, facts, form, opposed

NEAR_MISSES = [
    ("Translate this into French: good day", "Translate this into German: good day"),
    ("What is 17*23?", "What is 17*32?"),
    ("Is it safe to eat raw eggs?", "Is it unsafe to eat raw eggs?"),
    ("How much do I owe you?", "How much do you owe me?"),
    ("Does the dog bite the man?", "Does the man bite the dog?"),
    ("Who is the president of France?", "Who was the president of France?"),
    ("What is C++ used for?", "What is C# used for?"),
    ("What is 5 + 3?", "What is 5 - 3?"),
    ("Is Rust better than Go?", "Is Go better than Rust?"),
    ("How do I convert 5 USD to EUR?", "How do I convert 5 EUR to USD?"),
    ("What does 'run' mean?", "What does 'ran' mean?"),
    ("How do I log in to the shop?", "How do I log out to the shop?"),
    ("Must I pay the fee?", "Can I pay the fee?"),
    ("Is the shop open before 5 pm?", "Is the shop open after 5 pm?"),
    ("What is 10% of 50?", "What is 10 of 50?"),
    ("Can I cancel the order?", "Can't I cancel the order?"),
    ("What do cats see?", "How do cats see?"),
    ("When is the 3rd of May a holiday?", "When is the 4th of May a holiday?"),
    ("Was ist das?", "Wer ist das?"),
    ("犬は人を噛みますか", "人は犬を噛みますか"),
]


@pytest.mark.parametrize(("one", "other"), NEAR_MISSES)
def test_a_word_that_matters_makes_two_questions(one: str, other: str) -> None:
    """Numbers, signs, names, order, tense, duty, negation, direction, quotation, script."""
    assert form(one) != form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "how can i reset a password"),
        ("What's the weekday's name?", "what is the weekday\u2019s name"),
        ("Hi team, how do I pay the invoice?", "How do I pay the invoice? Thanks in advance!"),
        ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
        ("I cannot log in, why?", "I can't log in, why?"),
        ("Where do I find the invoices?", "Where can I find the invoice?"),
    ],
)
def test_what_carries_nothing_makes_no_difference(one: str, other: str) -> None:
    """Politeness, auxiliaries, articles, contractions, a clause before the question, plurals."""
    assert form(one) == form(other)


def test_facts_are_what_a_paraphrase_keeps() -> None:
    """Numbers written either way, names, quotations and negations; not the first word's capital,
    nor a heading's."""
    assert facts("Can I return it after two weeks in Berlin?") == ("2", "berlin")
    assert facts("Return to BERLIN after 2 weeks") == ("2", "berlin")
    assert facts("How do I not use `x = 1`?") == ('"x = 1"', "not")
    assert content("Why don't we pay the bill?") == ("why", "not", "pay", "bill")
    assert facts("Do You Accept Cheques Here?") == ()


def test_opposites_are_opposed() -> None:
    """A word in one question whose opposite is in the other."""
    assert opposed("Is it safe?", "Is it unsafe?")
    assert opposed("How do I disconnect it?", "How do I connect it?")
    assert opposed("How do I enable it?", "How do I disable it?")
    assert opposed("How do I turn it on?", "How do I turn it off?")
    assert not opposed("Is it safe?", "Is it sound?")


def test_other_languages_keep_all_their_words() -> None:
    """Nobody knows which of them carry nothing."""
    assert content("An wen geht das Haus?") == ("an", "wen", "geht", "das", "haus")
    assert content("To whom does the house go?") == ("to whom", "house", "go")


@pytest.mark.parametrize(("one", "other"), [("running", "run"), ("is", "are"), ("The Who", "Who")])
def test_short_fields_are_compared_as_they_are_written(one: str, other: str) -> None:
    """In a field of a template any word may be the one that matters; case and spaces are none."""
    assert form(one, is_field=True) != form(other, is_field=True)
    assert form("!", is_field=True) != form("?", is_field=True)
    assert form(f" {one.upper()} ", is_field=True).content == form(one, is_field=True).content


@pytest.mark.parametrize(
    "text", ["", "?", "! !", "the", "  ", "\x00", "'", "\x000\x00", "a" * 5000]
)
def test_no_text_is_too_strange(text: str) -> None:
    """Nothing fails, whatever is asked."""
    assert form(text) == form(text)
