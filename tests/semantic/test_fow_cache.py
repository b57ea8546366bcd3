"""The semantic cache on a public benchmark: pairs of questions, of which some share an answer."""

from __future__ import annotations

from pathlib import Path

from fow_cache import load_conversations

from llmctl.config.semantic import SemanticPolicy
from llmctl.guards.semantic_cache import asked
from llmctl.semantic.vectors import embedder
from llmctl.types import Message
from tests.semantic.pairs import opened, shares
from tests.support import done, request


def test_strict_is_hardly_ever_wrong(tmp_path: Path) -> None:
    """Of what must not share an answer at most 2% does; of what may, at least 18%."""
    with opened(tmp_path / "cache.db") as (cache, index):
        found = done(shares, cache, index, SemanticPolicy("strict"))
    print(f"strict: {found.hits:.1%} hits, {found.wrong:.1%} wrong")
    assert found.wrong <= 0.02
    assert found.hits >= 0.18


def test_a_judge_finds_most_paraphrases(tmp_path: Path) -> None:
    """With a judge that is right in 97% of cases at most 2% is wrong, and at least 60% is found."""
    policy = SemanticPolicy("judge", judge="cheap", audit=0)
    with opened(tmp_path / "cache.db") as (cache, index):
        found = done(shares, cache, index, policy, embedder(), 0.97)
    print(f"judge: {found.hits:.1%} hits, {found.wrong:.1%} wrong, {found.judged} judged")
    assert found.wrong <= 0.02
    assert found.hits >= 0.60


def test_conversations_have_no_answer_of_others() -> None:
    """Not even the same last turn: what came before decides what it means."""
    for pair in load_conversations():
        turns = tuple(Message(turn["role"], turn["content"]) for turn in pair["b"])
        assert asked(request(messages=turns), SemanticPolicy("strict")) is None or len(turns) == 1
