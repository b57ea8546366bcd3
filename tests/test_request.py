"""A question and a profile become a request, whose fingerprint later versions must not change."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from llmctl.clock import SystemClock
from llmctl.config.settings import CachePolicy, Profile
from llmctl.request import Question, compose, fingerprint, retarget, target_for, ulid
from llmctl.types import Message, RawRequest

PROFILE = Profile(
    "p",
    "openai",
    "openai",
    "https://Example.com:443/v1/?x=1",
    "mé",
    max_tokens=5,
    temperature=0.25,
    params={"b": 1, "a": [{}]},
    tags={"team": "a"},
)
USER = Message("user", "Hi")


@pytest.mark.parametrize(
    ("question", "hexadecimal"),
    [
        (
            Question((Message("system", "Be brief."), USER)),
            "0af7557706840013a9c49e9425c0d5e6bea673ac46dbd360a08a5f1ffdeed60c",
        ),
        (
            Question((USER,), max_tokens=7, options={"a": 2}, schema={"type": "object"}),
            "67f548d8a4103d0f9fedd9b2fc72f0eb0641da1a4ae4d8b433f5c994c88cd85e",
        ),
        (
            Question((), raw=RawRequest("/chat/completions", {"messages": []})),
            "b9726785cb7b19907ef6e17143bbfc94badaf61357a78373b3fbe882e2df7a1a",
        ),
    ],
)
def test_fingerprints_are_those_of_version_0_1_0(question: Question, hexadecimal: str) -> None:
    """Outputs and cached answers of 0.1.0 are recognised: ids, tags and places do not count."""
    assert fingerprint(question, PROFILE) == hexadecimal
    made = compose(question, replace(PROFILE, tags={}), id="x", index=3, call_id="c")
    assert made.fingerprint == hexadecimal


def test_the_question_wins_over_the_profile() -> None:
    """What the question does not say is the profile's; options and tags are merged by name."""
    question = Question((USER,), "other", 7, 0.5, {"a": 2}, {"row": "b"})
    made = compose(question, PROFILE, id="x")
    assert made.target == target_for(PROFILE, "other")
    assert (made.max_tokens, made.temperature) == (7, 0.5)
    assert made.options == {"b": 1, "a": 2}
    assert made.tags == {"team": "a", "row": "b"}
    assert made.own == {"max_tokens", "temperature", "a"}
    bare = compose(Question((USER,)), PROFILE, id="x")
    assert (bare.target.model, bare.max_tokens, bare.temperature) == ("mé", 5, 0.25)
    assert bare.own == frozenset()


def test_a_profile_without_a_cache_is_asked_past_it() -> None:
    """`cache: {enabled: false}` wins over what the command line says of the cache."""
    profile = replace(PROFILE, cache=CachePolicy(enabled=False))
    assert compose(Question((USER,)), profile, id="x", cache_mode="refresh").cache_mode == "bypass"


def test_another_profile_keeps_what_the_question_said() -> None:
    """A fallback asks its own model with its own parameters, but for those of the question."""
    other = Profile("q", "groq", "openai", "https://q/v1", "m", max_tokens=9, params={"z": 1})
    asked = compose(Question((USER,), temperature=0.5, options={"a": 2}), PROFILE, id="x")
    made = retarget(asked, other, "c2")
    assert (made.target.profile, made.target.model, made.call_id) == ("q", "m", "c2")
    assert (made.max_tokens, made.temperature, made.options) == (9, 0.5, {"z": 1, "a": 2})
    assert made.fingerprint != asked.fingerprint


def test_json_too_deep_to_be_sent() -> None:
    """What cannot be encoded has no fingerprint."""
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TypeError):
        fingerprint(Question((USER,), options={"a": deep}), PROFILE)


class At(SystemClock):
    """A clock that stands still."""

    def __init__(self, wall: float) -> None:
        self.wall = lambda: wall


def test_ids_are_ulids() -> None:
    """26 characters of Crockford's base 32 that begin with the milliseconds (the specification's
    own example), sort by time and are never the same."""
    assert ulid(At(1469918176.385)).startswith("01ARYZ6S41")
    made = [ulid(At(1e9 + n)) for n in range(999)] + [ulid(At(2e9)) for _ in range(999)]
    assert made[:999] == sorted(made[:999])
    assert len(set(made)) == len(made)
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in made)
