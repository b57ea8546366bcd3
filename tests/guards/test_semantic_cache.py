"""Answers of questions that mean the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from llmctl.clock import SystemClock
from llmctl.config.semantic import SemanticPolicy
from llmctl.errors import DiskError, ServerFailed
from llmctl.guards.cache import Cache
from llmctl.guards.semantic_cache import Judge, SemanticCache, asked, says_yes
from llmctl.semantic.vectors import embedder
from llmctl.storage.answer_cache import SqliteCache, cache_stats
from llmctl.storage.semantic_index import SemanticIndex
from llmctl.types import Answer, Masked, Message, RawRequest, Request, StreamChunk, fingerprint
from tests.support import TARGET, Scripted, request, response

T = TypeVar("T")
STRICT, JUDGE = SemanticPolicy("strict"), SemanticPolicy("judge", judge="cheap", audit=0)
ONE, SAME = "How do I reset my password?", "how can I reset a password"
NEAR = "What are the steps to change the password?"


class World:
    """A cache with both guards around a scripted provider; `judged` is what a judge was asked."""

    def __init__(self, folder: Path, inner: Scripted) -> None:
        self.inner, self.folder = inner, folder
        self.store = SqliteCache(folder / "cache.db", pytest.fail)
        self.warnings: list[str] = []
        self.judged: list[str] = []
        self.verdict: bool | Exception = True

    def guard(self, policy: SemanticPolicy, **more: Any) -> Cache:
        """The exact cache around the semantic one."""
        judging: Judge | None = self.judge if policy.judge else None
        embed = embedder() if policy.mode == "judge" else None
        inner = SemanticCache(
            self.inner, self.store, SemanticIndex(self.store), policy, SystemClock(),
            self.warnings.append, None, embed, judging, **more,
        )  # fmt: skip
        return Cache(inner, self.store, SystemClock(), self.warnings.append)

    async def judge(self, _: Request, text: str) -> bool:
        """As scripted."""
        self.judged.append(text)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def run(
    folder: Path, do: Callable[[World], Awaitable[T]], *results: Answer | BaseException
) -> tuple[World, T]:
    """What comes of doing this in a world."""

    async def both() -> tuple[World, T]:
        world = World(folder, Scripted(*results))
        try:
            return world, await do(world)
        finally:
            world.store.close()

    return asyncio.run(both())


async def answers(guard: Cache, *requests: Request) -> list[Answer]:
    """One after the other; each is kept before the next."""
    found = []
    for number, each in enumerate(requests):
        found.append(await guard(replace(each, call_id=f"call-{number}"), None))
        await guard.close()
    return found


def test_a_hit_says_whose_answer_it_is_and_makes_no_entry(tmp_path: Path) -> None:
    """It streams, names the call that was paid for, and is itself found by nobody."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(STRICT)
        shown: list[StreamChunk] = []
        found = await answers(guard, request(ONE))
        found.append(await guard(request(SAME, call_id="x"), shown.append))
        await guard.close()
        assert [piece.text for piece in shown] == ["hi"]
        assert await world.store.get(request(SAME).answer_key) is None
        return found

    world, (first, second) = run(tmp_path, do)
    assert (first.cache, second.cache, second.text) == ("miss", "semantic", "hi")
    assert (second.score, second.source, second.attempts) == (1.0, "call-0", 0)
    assert len(world.inner.calls) == 1
    assert world.warnings == []


@pytest.mark.parametrize(
    "other",
    [
        {"user": "bob"},
        {"target": replace(TARGET, model="gpt-5")},
        {"target": replace(TARGET, base_url="http://127.0.0.1:2/v1")},
        {"temperature": 0.0},
        {"max_tokens": 5},
        {"options": {"top_p": 0.5}},
        {"schema": {"type": "object"}},
        {"messages": (Message("system", "Be brief."), Message("user", SAME))},
    ],
)
def test_all_else_must_be_the_same(tmp_path: Path, other: dict[str, Any]) -> None:
    """The caller, the model and its place, parameters, the schema, the system prompt."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(STRICT)
        return await answers(guard, request(ONE), request(SAME, **other))

    _, found = run(tmp_path, do, response('{"a": 1}'))
    assert [answer.cache for answer in found] == ["miss", "miss"]


def test_all_callers_share_where_the_policy_says_so(tmp_path: Path) -> None:
    """`scope: all`."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(SemanticPolicy("strict", scope="all"))
        return await answers(guard, request(ONE, user="ann"), request(SAME, user="bob"))

    assert [answer.cache for answer in run(tmp_path, do)[1]] == ["miss", "semantic"]


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.7},
        {"options": {"tools": [{"type": "function"}]}},
        {"options": {"web_search_options": {"x": 1}}},
        {"options": {"n": 2}},
        {"sample": 1},
        {"masked": Masked({"email": 1})},
        {"parts": ()},
        {"messages": (Message("user", "a"), Message("assistant", "b"), Message("user", ONE))},
        {"messages": (Message("user", ({"type": "image_url", "image_url": {"url": "x"}},)),)},
        {"raw": RawRequest("/embeddings", {"input": ONE})},
        {"raw": RawRequest("/messages", {"messages": [{"role": "user", "content": [1]}]})},
        {
            "raw": RawRequest(
                "/responses", {"input": ONE, "previous_response_id": "r", "tools": [1]}
            )
        },
    ],
)
def test_what_has_only_answers_of_its_own(other: dict[str, Any]) -> None:
    """Samples, tools, identifiers, conversations, attachments, templates without a field, bodies
    that are no single question."""
    assert asked(request(ONE, **other), STRICT) is None


def test_samples_share_where_the_policy_says_so() -> None:
    """`sampled: true`."""
    assert asked(request(ONE, temperature=0.7), SemanticPolicy("strict", sampled=True))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}),
        (
            "/messages",
            lambda text: {"system": "s", "messages": [{"role": "user", "content": text}]},
        ),
        ("/responses", lambda text: {"input": text, "instructions": "s"}),
    ],
)
def test_bodies_that_are_passed_through_are_read(
    path: str, body: Callable[[str], dict[str, Any]]
) -> None:
    """In each language of a gateway's callers; other fields of the body must be the same."""

    def form(text: str, **more: Any) -> bytes:
        found = asked(request(messages=(), raw=RawRequest(path, {**body(text), **more})), STRICT)
        assert found is not None
        return found.form

    assert form(ONE) == form(SAME) != form(NEAR)
    assert form(ONE) != form(ONE, seed=1)


def test_only_the_fields_of_a_template_are_compared(tmp_path: Path) -> None:
    """One by one: 10,000 rows of one template have no answer in common, though all are alike."""
    template = (
        "Please classify this product of our shop by its kind: {}, colour {}. Reply in a word."
    )

    def row(number: int) -> Request:
        parts = (f"item {number} of steel", "red")
        return request(template.format(*parts), parts=parts)

    forms = {found.form for n in range(10_000) if (found := asked(row(n), STRICT))}
    assert len(forms) == 10_000

    async def do(world: World) -> list[Answer]:
        guard = world.guard(STRICT)
        again = ("Item 7 of steel", "RED")
        other = request(template.format(*again), parts=again)
        swapped = request(
            template.format("red", "item 7 of steel"), parts=("red", "item 7 of steel")
        )
        elsewhere = replace(row(7), messages=(Message("user", "item 7 of steel is not red?"),))
        elsewhere = replace(elsewhere, fingerprint=fingerprint(elsewhere))
        return await answers(guard, row(7), other, swapped, elsewhere)

    states = [each.cache for each in run(tmp_path, do)[1]]
    assert states == ["miss", "semantic", "miss", "miss"]


def test_the_judge_decides_where_the_facts_are_the_same(tmp_path: Path) -> None:
    """Not where they differ, nor of opposites; its verdicts are counted."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(JUDGE)
        found = await answers(
            guard,
            request(ONE),
            request("What are 3 steps to change the password?"),
            request("How do I not reset my password?"),
            request(NEAR),
        )
        world.verdict = False
        return found + await answers(guard, request("How is a password changed by me?"))

    world, found = run(tmp_path, do)
    assert [each.cache for each in found] == ["miss", "miss", "miss", "semantic", "miss"]
    assert 0.3 < (found[3].score or 0) < 1
    assert len(world.judged) == 2
    assert ONE in world.judged[0]
    assert NEAR in world.judged[0]
    figures = cache_stats(tmp_path / "cache.db", tmp_path / "none.db").semantic
    assert (figures.judged, figures.refused, figures.bound) == (2, 1, None)


def test_of_opposites_no_judge_is_asked(tmp_path: Path) -> None:
    """It costs nothing to tell them."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(JUDGE)
        texts = ("How do I enable the dark mode?", "How do I disable the dark mode?")
        return await answers(guard, *map(request, texts))

    world, found = run(tmp_path, do)
    assert [each.cache for each in found] == ["miss", "miss"]
    assert world.judged == []


def test_a_judge_that_fails_is_no_yes(tmp_path: Path) -> None:
    """The question is asked, and said once why."""

    async def do(world: World) -> list[Answer]:
        world.verdict = ServerFailed("overloaded")
        guard = world.guard(JUDGE)
        return await answers(guard, request(ONE), request(NEAR), request(f"{NEAR} Now!"))

    world, found = run(tmp_path, do)
    assert [each.cache for each in found] == ["miss"] * 3
    assert len(world.judged) == 2
    assert len(world.warnings) == 1
    assert "overloaded" in world.warnings[0]


def test_rows_without_known_fields_are_put_to_no_judge(tmp_path: Path) -> None:
    """A batch may be of one template that nobody knows: only the same content words count there,
    and that is said once."""

    async def do(world: World) -> list[Answer]:
        guard = world.guard(JUDGE, in_batch=True)
        return await answers(guard, request(ONE), request(NEAR), request(SAME))

    world, found = run(tmp_path, do)
    assert [each.cache for each in found] == ["miss", "miss", "semantic"]
    assert world.judged == []
    assert ["--template" in said for said in world.warnings] == [True]


@pytest.mark.parametrize("same", [True, False])
def test_an_audit_asks_anew_and_compares(tmp_path: Path, *, same: bool) -> None:
    """The caller gets the new answer; the bound is what comes of it."""

    async def do(world: World) -> list[Answer]:
        world.verdict = same
        guard = world.guard(SemanticPolicy("strict", judge="cheap", audit=0.5), draw=lambda: 0.4)
        return await answers(guard, request(ONE), request(SAME))

    world, found = run(tmp_path, do, response("old"), response("new"))
    assert [(each.cache, each.text) for each in found] == [("miss", "old"), ("miss", "new")]
    assert "old" in world.judged[0]
    assert "new" in world.judged[0]
    figures = cache_stats(tmp_path / "cache.db", tmp_path / "none.db").semantic
    assert (figures.audited, figures.wrong) == (1, int(not same))
    assert figures.bound == pytest.approx(0.95 if same else 1.0)


def test_an_answer_that_is_not_complete_is_no_ones(tmp_path: Path) -> None:
    """One that was cut off is neither kept nor given, nor does it take another one's place."""

    async def do(world: World) -> list[Answer]:
        again, other = request(f"{SAME}!"), request(f"{SAME}?")
        again = replace(again, cache_mode="refresh")
        return await answers(world.guard(STRICT), request(ONE), request(SAME), again, other)

    cut = response("ha", finish="length")
    _, found = run(tmp_path, do, cut, response("whole"), cut, response())
    assert [each.cache for each in found] == ["miss", "miss", "miss", "semantic"]
    assert found[-1].text == "whole"


def test_refresh_and_no_cache(tmp_path: Path) -> None:
    """Refreshing asks, and the next one gets that; `bypass` neither looks nor keeps."""

    async def do(world: World) -> list[Answer]:
        bypass, refresh = request(SAME, cache_mode="bypass"), request(SAME, cache_mode="refresh")
        return await answers(
            world.guard(STRICT), request(ONE), bypass, refresh, request(f"{SAME}?")
        )

    results = [response("a"), response("b"), response("c")]
    _, found = run(tmp_path, do, *results)
    assert [each.cache for each in found] == ["miss", "bypass", "miss", "semantic"]
    assert found[-1].text == "c"


def test_a_store_that_fails_costs_no_answer(tmp_path: Path) -> None:
    """It is told of once, and used no more."""

    async def do(world: World) -> list[Answer]:
        async def fail(*_: object) -> None:
            raise DiskError("disk full")

        guard = world.guard(STRICT)
        assert isinstance(guard._inner, SemanticCache)
        guard._inner._index.same = fail  # type: ignore[method-assign, assignment]
        return await answers(guard, request(ONE), request(SAME))

    world, found = run(tmp_path, do)
    assert [each.cache for each in found] == ["miss", "miss"]
    assert len(world.warnings) == 1
    assert "disk full" in world.warnings[0]


def test_only_a_plain_yes_is_one() -> None:
    """Anything else is no."""
    assert all(map(says_yes, ("Yes.", "**yes**", "yes, it would")))
    assert not any(map(says_yes, ("no", "", "yesterday", "I'd say yes")))
