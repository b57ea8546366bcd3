"""How far answers agree, and the figures of profiles side by side."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmctl.reports.comparison import Side, add, agreement, html, line


@pytest.mark.parametrize(
    ("one", "other", "verdicts"),
    [
        ("Yes", " yes. ", (True, None, None)),
        ("**Yes!**", "YES", (True, None, None)),
        ("yes", "no", (False, None, None)),
        ("\uff39es", "yes", (True, None, None)),
        ('{"a": 1, "b": [2]}', '```json\n{"b":[2],"a":1}\n```', (False, True, True)),
        ('{"a": 1}', '{"a": 2}', (False, False, False)),
        ('{"a": 1}', "a is 1", (False, None, True)),
        ("It costs 1,200.50 dollars", "1200.5", (False, None, True)),
        ("3 of 4", "4 of 3", (False, None, True)),
        ("3 of 4", "none", (False, None, False)),
        ("", "", (True, None, None)),
    ],
)
def test_agreement(one: str, other: str, verdicts: tuple[bool | None, ...]) -> None:
    """As words, as JSON and as numbers; it is the same both ways."""
    for found in (agreement(one, other), agreement(other, one)):
        assert (found.equal, found.json_equal, found.numbers_equal) == verdicts


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [("a b c d", "a b x y", 0.5), ("a a", "a", 0.6667), ("a", "b", 0), ("", "", 1), ("", "a", 0)],
)
def test_overlap(one: str, other: str, overlap: float) -> None:
    """The share of words in common; a word counts as often as it stands there."""
    assert agreement(one, other).overlap == overlap


def _record(text: str, ms: int, cost: float | None = 0.1, cache: str = "miss") -> dict[str, Any]:
    used = {"input_tokens": 3, "output_tokens": 2}
    return {"text": text, "model": "m", "cost_usd": cost, "latency_ms": ms, "usage": used,
            "cache": cache}  # fmt: skip


FAILED = {"error": {"type": "server", "message": "<b>down</b>"}, "cost_usd": 0}


def test_the_figures_of_a_side() -> None:
    """Kept answers count into no latency, failed rows into no agreement, and a cost that nobody
    knows is never called 0."""
    sides = [Side("a"), Side("b")]
    add(sides, line("1", 0, {"a": _record("yes", 10), "b": _record("Yes.", 500, None)}))
    add(sides, line("2", 1, {"a": _record("yes", 30), "b": _record("no", 0, 0, "hit")}))
    add(sides, line("3", 2, {"a": _record("x", 20), "b": FAILED}))
    add(sides, line("4", 3, {"a": None, "b": _record("x", 700)}))
    one, two = sides
    assert (one.answers, one.errors, one.cost, one.unpriced) == (3, 0, Decimal("0.3"), 0)
    assert (one.percentile(50), one.percentile(95), one.agreed) == (20, 30, None)
    assert (two.answers, two.errors, two.unpriced, two.latencies) == (3, 1, 1, [500, 700])
    assert (two.compared, two.agreed, two.shared) == (2, 0.5, 0.5)


def test_the_page_says_what_is_missing() -> None:
    """A row that failed shows its error as text, one that was not asked says so."""
    rows = [line("<i>", 0, {"a": _record("<u>", 1), "b": FAILED, "c": None})]
    sides = [Side("a"), Side("b"), Side("c")]
    page = html("<in>", sides, rows, 700)
    assert "&lt;b&gt;down&lt;/b&gt;" in page
    assert "not asked" in page
    assert "The first 1 row of 700" in page
    assert not any(tag in page for tag in ("<u>", "<in>", "<i><"))
