"""Shared prefixes: what rows begin with, and when a provider's cache pays."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from llmctl.prompts.prefix import (
    Prefix,
    PrefixScan,
    caching_of,
    common_start,
    judged,
    marked,
    warmups,
)
from llmctl.types import Message, Request, Target, Usage
from tests.support import request

CLAUDE = Target("p", "anthropic", "anthropic", "https://api.anthropic.com/v1", "claude-sonnet-5")
OPENAI = Target("p", "openai", "openai", "https://api.openai.com/v1", "gpt-5-mini")


def price(_: Request, usage: Usage) -> Decimal:
    """A dollar a token; 1.25 to write, 0.1 to read."""
    plain = usage.input - usage.cached_input - usage.cache_write
    read, write = Decimal("0.1") * usage.cached_input, Decimal("1.25") * usage.cache_write
    return plain + read + write


def prefixes(*texts: str, tokens: int = 2000, target: Target = CLAUDE) -> list[Prefix]:
    """What rows of these texts begin with."""
    scan = PrefixScan()
    for text in texts:
        scan.add(request(text, target=target))
    return list(scan.prefixes(lambda _: tokens).values())


@pytest.mark.parametrize(
    ("target", "minimum"),
    [
        (replace(CLAUDE, model="claude-opus-5"), 512),
        (CLAUDE, 1024),
        (replace(CLAUDE, model="claude-haiku-4-5-20251001"), 4096),
        (replace(CLAUDE, model="claude-opus-4-8"), 1024),
        (replace(CLAUDE, model="claude-opus-4-6"), 4096),
        (replace(CLAUDE, model="claude-future-9"), 4096),
        (OPENAI, 1024),
        (replace(OPENAI, base_url="http://localhost/v1"), None),
        (replace(OPENAI, base_url="http://x/v1", like=(OPENAI.base_url, "gpt-5")), 1024),
        (replace(OPENAI, model="gpt-4-turbo"), None),
        (Target("p", "gemini", "gemini", "https://g/v1beta", "gemini-3.8-flash"), 4096),
        (Target("p", "openrouter", "openrouter", "https://openrouter.ai/api/v1", "x"), None),
    ],
)  # fmt: skip
def test_the_minimum_of_a_model(target: Target, minimum: int | None) -> None:
    """By the table; unknown models of Anthropic have the largest, other servers none."""
    found = caching_of(target)
    assert (found and found.minimum) == minimum


def test_rows_that_begin_alike_have_a_prefix() -> None:
    """As far as whole words go; rows that begin otherwise do not end it."""
    rules = "Follow the rules. " * 30
    (found,) = prefixes(rules + "word one", rules + "word two", rules + "worse", "Else")
    assert found.rows == 3
    assert found.messages == (Message("user", rules),)


def test_parameters_and_models_keep_rows_apart() -> None:
    """Tools stand before the messages, and every model has a cache of its own."""
    scan, rules = PrefixScan(), "Follow the rules. " * 30
    scan.add(request(rules + "a"))
    scan.add(request(rules + "b", options={"tools": [1]}))
    scan.add(request(rules + "c", target=replace(OPENAI, model="gpt-5")))
    assert not scan.prefixes(lambda _: 5000)


def test_common_start() -> None:
    """The longest text that both begin with."""
    assert common_start("abcd", "abxd") == "ab"
    assert common_start("ab", "abc") == "ab"
    assert common_start("abc", "ab") == "ab"
    assert common_start("", "a") == ""


@pytest.mark.parametrize(("tokens", "pays"), [(1023, False), (1024, True)])
def test_nothing_below_the_minimum(tokens: int, *, pays: bool) -> None:
    """And what is missing is said."""
    verdict = judged(prefixes("a " * 200 + "1", "a " * 200 + "2", tokens=tokens)[0], price)
    assert (not verdict.why_not) is pays
    assert pays or "1 short of the 1,024" in verdict.why_not


def test_nothing_for_one_row_or_one_that_is_no_cheaper() -> None:
    """One row has no prefix, and equal prices save nothing."""
    assert not prefixes("a " * 2000)
    (found,) = prefixes("a " * 200 + "1", "a " * 200 + "2")
    assert judged(found, lambda _, usage: Decimal(usage.input)).why_not
    assert judged(found, lambda _, __: None).why_not
    assert judged(found, price).saves == 2 * 2000 - 2700


def test_what_a_request_says_of_caching_stays() -> None:
    """A mark or a key of the user's own is not doubled, and the text is the same."""
    texts = ["a " * 200 + str(n) for n in range(2)]
    (prefix,) = prefixes(*texts)
    caching = caching_of(CLAUDE)
    assert caching is not None
    made = marked(request(texts[0], target=CLAUDE), prefix, caching)
    assert made.messages[0].text == texts[0]
    assert marked(made, prefix, caching) is made
    keyed = caching_of(OPENAI)
    assert keyed is not None
    own = request(texts[0], options={"prompt_cache_key": "mine"})
    assert marked(own, prefix, keyed) is own


def test_a_request_that_begins_otherwise_has_no_warmup() -> None:
    """Even where it begins alike for a while."""
    rules = "Follow the rules. " * 30
    scan = PrefixScan()
    for n in range(2):
        scan.add(request(f"{rules}{n}", target=CLAUDE))
    found = warmups(scan.prefixes(lambda _: 2000), price)
    assert found.of(request(f"{rules}9", target=CLAUDE)) is not None
    assert found.of(request(rules[:300] + "x", target=CLAUDE)) is None
