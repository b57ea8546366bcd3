"""`degrade:` in a profile: what it says, what is wrong with it, and whose word it needs."""

from __future__ import annotations

import pytest

from llmctl.config.profiles import as_yaml
from llmctl.config.settings import DegradeStep
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World

ALL = (DegradeStep(stale=86400.0), DegradeStep(static="we are down"), "queue")


def test_what_it_says(world: World) -> None:
    """Steps in their order; shown, they can be read again."""
    world.user('profiles: {openai: {degrade: [{stale: 24h}, {static: "we are down"}, queue]}}')
    profile = world.load().profiles["openai"]
    assert profile.degrade == ALL
    world.user(as_yaml(profile))
    assert world.load().profiles["openai"].degrade == ALL


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("degrade: [{stale: soon}]", "degrade.0..stale must be a duration"),
        ("degrade: [later]", "degrade.0. must be .* or queue"),
        ("degrade: [queu]", 'or queue, not "queu"; did you mean "queue"'),
        ("degrade: [{queue: yes}]", "degrade.0. must be"),
        ("degrade: [queue, {static: x}]", "in this order"),
        ("degrade: [queue, queue]", "once at most"),
        ("degrade: [{stale: 1h, static: x}]", "degrade.0. must be"),
        ("degrade: [{static: x}, {stale: 1h}]", "in this order"),
        ("degrade: [{static: x}, {static: y}]", "once at most"),
        ("degrade: [{stale: 1h}], cache: {ttl: 2h}", "no answer would ever be stale"),
        ("degrade: [{stale: 1h}], cache: {enabled: false}", "keeps no answers"),
    ],
)
def test_what_is_wrong(world: World, said: str, wrong: str) -> None:
    """Values, kinds, their order, and what nothing would come of are named, with the line."""
    world.user(f"profiles: {{openai: {{{said}}}}}")
    with pytest.raises(ConfigError, match=rf"config.yaml:1: .*{wrong}"):
        world.load()


def test_a_project_needs_trust(world: World) -> None:
    """A project puts no text in the place of answers unasked."""
    (world.repo / "llmctl.yaml").write_text("profiles: {openai: {degrade: [{static: yes}]}}")
    with pytest.raises(Untrusted, match="degrade"):
        world.load()
