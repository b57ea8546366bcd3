"""Bounds on what a caller may send: what is refused, by name, and what is let through."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.config.settings import ServeLimits
from llmctl.errors import InvalidRequest
from llmctl.gateway.bounds import check, check_depth

LIMITS = ServeLimits(depth=4, messages=3, max_tokens=100, n=2, logit_bias=2)
MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 2, "best_of": 1, "max_tokens": 100, "logit_bias": {"1": 5, "2": 5}},
        {"n": None, "max_completion_tokens": None, "logit_bias": None, "messages": None},
        {"messages": [MESSAGE] * 3},
        {"input": "a text of more letters than items may be"},
        {"input": ["a", "b", "c"]},
        {"input": [1, 2, 3, 4, 5]},
    ],
)
def test_what_is_within_the_bounds_passes(body: dict[str, Any]) -> None:
    """Up to each bound, with fields that are null as if they were not there; one text to embed may
    be many token numbers."""
    check(body, LIMITS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"n": 3}, "n is 3, at most 2"),
        ({"best_of": 3}, "best_of is 3, at most 2"),
        ({"n": "x"}, "n must be a whole number above 0"),
        ({"n": True}, "n must be a whole number"),
        ({"n": 1.0}, "n must be a whole number"),
        ({"n": 0}, "n must be a whole number"),
        ({"max_tokens": 101}, "max_tokens is 101, at most 100"),
        ({"max_tokens": 1, "max_completion_tokens": 101}, "max_completion_tokens is 101"),
        ({"max_output_tokens": 101}, "max_output_tokens is 101"),
        ({"max_output_tokens": "100"}, "max_output_tokens must be a whole number"),
        ({"max_tokens": -1}, "max_tokens must be a whole number above 0"),
        ({"messages": [MESSAGE] * 4}, "messages has 4 items, at most 3"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": {}}, "messages must be a list"),
        ({"input": ["a"] * 4}, "input has 4 items, at most 3"),
        ({"input": [[1], [2], [3], [4]]}, "input has 4 items"),
        ({"input": 5}, "input must be a list"),
        ({"logit_bias": {"1": 1, "2": 2, "3": 3}}, "logit_bias has 3 entries, at most 2"),
        ({"logit_bias": [1]}, "logit_bias must be an object"),
    ],
)
def test_what_is_beyond_is_refused_by_name(body: dict[str, Any], message: str) -> None:
    """Also what is no number, list or object; nothing of it was sent."""
    with pytest.raises(InvalidRequest, match=f"^{message}") as caught:
        check(body, LIMITS)
    assert not caught.value.sent


def test_any_output_limit_may_be_asked_for_where_none_is_set() -> None:
    """Without `max_tokens` in the limits only what is no number is refused."""
    check({"max_tokens": 10**9}, ServeLimits())
    with pytest.raises(InvalidRequest, match="max_tokens must be"):
        check({"max_tokens": "many"}, ServeLimits())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": [[[1]]]}',
        b"[]" * 1000,
        b'["[[[[[[[["]',
        rb'["\"[[[[[[", "\\\"[[[[[[", "\\\\"]',
        b'["' + b"\\" * 1000 + b'", "[[[[[["]',
        b"]]]]]]]]",
        b"",
    ],
)
def test_a_flat_body_passes_whatever_its_texts_hold(raw: bytes) -> None:
    """Brackets in strings are text, with escapes before their quotes too."""
    check_depth(raw, LIMITS)


@pytest.mark.parametrize("raw", [b'{"a": [[[[1]]]]}', b"[" * 10**6, rb'["\\", [[[[]]]]]'])
def test_a_deep_body_is_refused_unparsed(raw: bytes) -> None:
    """However broken it is after the first brackets."""
    with pytest.raises(InvalidRequest, match="more than 4 levels"):
        check_depth(raw, LIMITS)


def depth_of(value: Any) -> int:
    """Levels of a JSON value."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) and 1 + max(map(depth_of, below), default=0)


@settings(deadline=None)
@given(
    st.recursive(
        st.text(alphabet='[{\\"}]a'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[\\"'), inner),
    )
)
def test_depth_is_that_of_the_parsed_value(value: Any) -> None:
    """Of any JSON, with any brackets, quotes and backslashes in its texts."""
    raw = orjson.dumps(value)
    if depth_of(value) <= LIMITS.depth:
        check_depth(raw, LIMITS)
    else:
        with pytest.raises(InvalidRequest):
            check_depth(raw, LIMITS)
