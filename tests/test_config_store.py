"""`store:` in a configuration."""

from __future__ import annotations

import pytest

from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World


def test_off_unless_it_is_turned_on(world: World) -> None:
    """Without the section, and with an empty one, nothing is encrypted."""
    assert not world.load().encrypt
    for text, on in (("store: {}", False), ("store: {encrypt: true}", True)):
        world.user(text)
        assert world.load().encrypt is on


@pytest.mark.parametrize(
    ("text", "words"),
    [("store: {encrypt: perhaps}", "true or false"), ("store: {encrypted: true}", "encrypted")],
)
def test_what_it_may_not_say(world: World, text: str, words: str) -> None:
    """What is none of it is an error that says what is wanted."""
    world.user(text)
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in caught.value.message


def test_a_project_needs_trust(world: World) -> None:
    """What is encrypted is the user's word, above all to turn it off."""
    world.user("store: {encrypt: true}")
    for text in ("store: {encrypt: false}", "store: {encrypt: true}"):
        world.project(text)
        with pytest.raises(Untrusted):
            world.load()
    world.project("store: {}\n")
    with pytest.raises(Untrusted):
        world.load()
