"""T20: what is a hit and what is a miss, over any request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.batch.rows import RowReader
from llmctl.config.settings import Profile
from llmctl.guards.cache import Cache
from llmctl.types import Message, RawRequest, Request, Target, fingerprint
from tests.guards.fakes import FakeCache
from tests.support import FakeClock, Scripted, response

PROFILE = Profile("p", "openai", "openai", "https://api.openai.com/v1", "gpt-5-mini")

words = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, values, max_size=4)
targets = st.builds(
    Target,
    profile=words,
    provider=words,
    adapter=st.sampled_from(("openai", "anthropic")),
    base_url=st.sampled_from(
        (
            "https://a.example/v1",
            "https://a.example/v2",
            "https://a.example:8443/v1",
            "http://a.example/v1",
            "https://b.example/v1",
            "https://a.example/v1?api-version=1",
        )
    ),
    model=st.sampled_from(("m1", "m2")),
    api=st.sampled_from(("chat", "responses")),
)
messages = st.builds(
    Message,
    role=st.sampled_from(("user", "system", "assistant")),
    content=words | st.lists(objects, max_size=2).map(tuple) | st.none(),
    extra=st.dictionaries(st.sampled_from(("name", "tool_call_id")), words, max_size=2),
)
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "target": targets,
    "messages": st.lists(messages, max_size=3).map(tuple),
    "max_tokens": st.none() | st.integers(1, 9),
    "temperature": st.none() | st.sampled_from((0.0, 0.5, 1.0)),
    "options": objects,
    "schema": st.none() | objects,
    "raw": st.none()
    | st.builds(RawRequest, st.sampled_from(("/embeddings", "/chat/completions")), objects),
}
requests = st.builds(Request, id=words, **CHANGES)


def answers(*asked: Request) -> list[str]:
    """How a cache that begins empty answers these in turn."""
    clock = FakeClock()

    async def run() -> list[str]:
        cache = Cache(Scripted(response("{}")), FakeCache(), clock, pytest.fail)
        return [(await cache(made, None)).cache for made in asked]

    return clock.run(run())


def printed(made: Request) -> Request:
    """With its fingerprint."""
    return replace(made, fingerprint=fingerprint(made))


def matters(made: Request) -> Any:
    """All of a request that may change its answer, as plain JSON without an order of keys."""
    target = made.target
    where = (target.adapter, target.api, target.base_url)
    if made.raw is not None:
        return json.dumps([where, made.raw.path, made.raw.body], sort_keys=True)
    what = [
        where,
        target.model,
        [m.as_json() for m in made.messages],
        made.max_tokens,
        made.temperature,
        made.options,
        made.schema,
    ]
    return json.dumps(what, sort_keys=True)


@settings(max_examples=400, deadline=None)
@given(st.data(), requests, st.sampled_from(sorted(CHANGES)))
def test_any_change_to_any_field_is_a_miss(data: st.DataObject, made: Request, name: str) -> None:
    """Two requests that differ in anything that may change the answer never share one; those
    that do not always do."""
    other = replace(made, **{name: data.draw(CHANGES[name])}, id="other", index=7)
    expected = "hit" if matters(made) == matters(other) else "miss"
    assert answers(printed(made), printed(other)) == ["miss", expected]


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("top_p", "seed", "stop", "response_format")), values, max_size=4
    ),
    st.randoms(use_true_random=False),
    words,
    words,
)
def test_key_order_white_space_and_id_are_no_change(
    options: dict[str, Any], chance: Any, first: str, second: str
) -> None:
    """The same row, written with its keys in another order, other white space and another id,
    is a hit."""

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(key, shuffled(item)) for key, item in value.items()]
            chance.shuffle(pairs)
            return dict(pairs)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    row = {"prompt": "say x", "system": "s", "max_tokens": 5, "options": options}
    lines = (
        json.dumps({"id": first or "a", **row}).encode(),
        json.dumps(
            shuffled({**row, "id": second or "b"}), indent=3, separators=(" ,", " : ")
        ).encode(),
    )
    reader = RowReader()
    made = [reader.request((n + 1, line), PROFILE, n) for n, line in enumerate(lines)]
    assert answers(*made) == ["miss", "hit"]
