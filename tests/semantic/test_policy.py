"""`cache: {semantic: …}` of a profile."""

from __future__ import annotations

import pytest

from llmctl.config.semantic import SemanticPolicy
from llmctl.config.trust import Untrusted
from tests.configuring import World

PROFILES = """
profiles:
  base:
    provider: openai
    model: gpt-5-mini
    cache: {ttl: 7d, semantic: SEMANTIC}
  more: {extends: base}
"""


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("strict", SemanticPolicy("strict")),
        ("{mode: judge, judge: more}", SemanticPolicy("judge", judge="more")),
        (
            "{mode: strict, judge: more, audit: 0.05, scope: all, sampled: true}",
            SemanticPolicy("strict", judge="more", scope="all", audit=0.05, sampled=True),
        ),
    ],
)
def test_a_mode_alone_or_all_of_it(world: World, said: str, meant: SemanticPolicy) -> None:
    """A profile that extends another has it, too; the built-in ones have none."""
    world.user(PROFILES.replace("SEMANTIC", said))
    profiles = world.load().profiles
    assert profiles["base"].cache.semantic == meant
    assert profiles["more"].cache.semantic == meant
    assert profiles["openai"].cache.semantic is None


def test_a_project_does_not_turn_it_on_unasked(world: World) -> None:
    """Nor name who judges: questions would go there."""
    world.project("profiles: {openai: {cache: {semantic: strict}}}")
    with pytest.raises(Untrusted, match=r"profiles\.openai\.cache"):
        world.load()
