"""`audit:` in a configuration."""

from __future__ import annotations

import pytest

from llmctl.config.settings import Audit
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World


def test_off_unless_it_is_set(world: World) -> None:
    """Without the section there is no audit; an empty one, and an empty line, are told apart."""
    assert world.load().audit is None
    world.user("audit: {}")
    assert world.load().audit == Audit(content="none", retain=None, checkpoint=None)
    world.user("audit:")
    assert world.load().audit is None


def test_what_it_says(world: World) -> None:
    """Content, days, and a file beside the configuration's own, or an address."""
    own = world.user("audit: {content: masked, retain: 90d, checkpoint: head.json}").parent
    place = str(own / "head.json")
    assert world.load().audit == Audit("masked", 90 * 86400.0, place)
    world.user("audit: {checkpoint: ~/there/head.json}")
    found = world.load().audit
    assert found is not None
    assert found.checkpoint == str(world.root / "home/there/head.json")
    world.user("audit: {checkpoint: 'https://audit.example/head?of=me'}")
    assert world.load().audit == Audit(checkpoint="https://audit.example/head?of=me")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("content: everything", "none or masked or full"),
        ("retain: 90", "an age with its unit, such as 90d"),
        ("checkpoint: 'http://audit.example/head'", "only on this machine"),
        ("checkpoint: 'https://me:secret@audit.example'", "without user and password"),
        ("contents: full", "content"),
    ],
)
def test_what_it_may_not_say(world: World, text: str, words: str) -> None:
    """What is none of it is an error that says what is wanted, and never a password."""
    world.user(f"audit: {{{text}}}")
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in caught.value.message
    assert "secret" not in caught.value.message


def test_a_project_needs_trust(world: World) -> None:
    """What goes into a log, and where its head is sent, is the user's word, also to turn it off."""
    world.user("audit: {content: full}")
    for text in ("audit: {content: none}", "audit:", "audit: {checkpoint: 'https://x.example/'}"):
        world.project(text)
        with pytest.raises(Untrusted):
            world.load()
