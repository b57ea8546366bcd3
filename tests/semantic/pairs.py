"""fow-cache's pairs of questions through the guard: each pair has a caller of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fow_cache import load_questions
from msgspec.structs import replace

from llmctl.clock import SystemClock
from llmctl.config.semantic import SemanticPolicy
from llmctl.guards.semantic_cache import Judge, SemanticCache
from llmctl.protocols import AnswerCache, CachedAnswer, Emit, Handler
from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.semantic_index import SemanticIndex
from llmctl.types import Answer, Request
from tests.support import request, response

if TYPE_CHECKING:
    from llmctl.semantic.vectors import Embedder


class Shares:
    """Of what may share an answer how much did (`hits`), of what must not how much (`wrong`);
    `judged`: pairs that the judge was asked of."""

    def __init__(self) -> None:
        self.asked = {True: 0, False: 0}
        self.served = {True: 0, False: 0}
        self.judged = 0

    def add(self, *, same: bool, served: bool) -> None:
        """Count a pair."""
        self.asked[same] += 1
        self.served[same] += served

    @property
    def hits(self) -> float:
        """A share."""
        return self.served[True] / self.asked[True]

    @property
    def wrong(self) -> float:
        """A share."""
        return self.served[False] / self.asked[False]


@contextmanager
def opened(path: Path) -> Iterator[tuple[SqliteCache, SemanticIndex]]:
    """A cache, and its questions."""
    cache = SqliteCache(path, pytest.fail)
    try:
        yield cache, SemanticIndex(cache)
    finally:
        cache.close()


def kept(text: str) -> CachedAnswer:
    """An answer as the cache keeps it, of this moment."""
    answer = response(text)
    return CachedAnswer(
        text, answer.finish, answer.model, answer.usage, None, None, SystemClock().wall()
    )


def keeping(store: AnswerCache) -> Handler:
    """A provider that answers with the question, and a cache around it that keeps that."""

    async def handler(asked: Request, _: Emit | None) -> Answer:
        text = asked.messages[-1].text
        await store.put(asked.answer_key, kept(text))
        return response(text)

    return handler


async def shares(
    cache: SqliteCache,
    index: SemanticIndex,
    policy: SemanticPolicy,
    embed: Embedder | None = None,
    accuracy: float = 1.0,
    seed: int = 7,
) -> Shares:
    """What comes of all pairs, by a judge that knows their labels and says so in that share of
    cases."""
    found, pairs, chance = (
        Shares(),
        {pair["id"]: pair for pair in load_questions()},
        random.Random(seed),
    )

    def same(pair: dict[str, object]) -> bool:
        return bool(pair["same_answer"]) and not pair.get("ambiguous")

    async def judge(asked: Request, _: str) -> bool:
        found.judged += 1
        return same(pairs[asked.id]) == (chance.random() < accuracy)

    given: Judge | None = judge if embed else None
    guard = SemanticCache(
        keeping(cache), cache, index, policy, SystemClock(), pytest.fail, None, embed, given
    )
    for pair in pairs.values():
        who = {"id": pair["id"], "user": pair["id"]}
        await guard(request(pair["a"], **who), None)
        answer = await guard(replace(request(pair["b"], **who), call_id="call-2"), None)
        found.add(same=same(pair), served=answer.cache == "semantic")
    return found
